"""Tests that a BEIR folder is read row by row, and that errors name file and line."""

import gzip
import json
import re

import pytest

from selfdistill_jax.data.collection import Document, Example, Judgement, Query
from selfdistill_jax.data.sources.beir import BeirFolder
from selfdistill_jax.errors import InputError
from selfdistill_jax.progress import LOG

DOCUMENTS = [
    {"_id": "osx/cat:0", "title": "cat", "text": "Print files."},
    {"_id": "d2", "text": "List files.", "metadata": {"ignored": 1}},
    {"_id": "d;3", "title": "Only a title", "text": ""},
]
QUERIES = [{"_id": "q/1:a", "text": "show a file"}, {"_id": "q2", "text": "which files are here"}]
QRELS = {
    "train": [("q/1:a", "osx/cat:0", 2), ("q/1:a", "d2", 0), ("q2", "d2", 1)],
    "test": [("q2", "d;3", -1)],
}


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "mine")


def write(folder, documents=DOCUMENTS, queries=QUERIES, qrels=QRELS):
    (folder / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for split, rows in qrels.items():
        lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in rows)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def read(source):
    for split in ("train", "dev", "test"):
        list(source.judgements(split))


def refusal(folder) -> str:
    with pytest.raises(InputError) as caught:
        read(BeirFolder(folder))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_reads_rows_in_order(folder):
    source = BeirFolder(folder)
    assert source.name == "mine"
    assert source.corpus_size is None
    assert source.pool_start == 0
    # judgements() works before documents() and queries(): ids are read when they are needed.
    judged = [Judgement(0, 0, 2), Judgement(0, 1, 0), Judgement(1, 1, 1)]
    assert list(source.judgements("train")) == judged
    assert list(source.documents()) == [
        Document("osx/cat:0", "cat", "Print files."),
        Document("d2", "", "List files."),
        Document("d;3", "Only a title", ""),
    ]
    assert list(source.queries()) == [
        Query("q/1:a", "show a file"),
        Query("q2", "which files are here"),
    ]
    assert list(source.judgements("dev")) == []
    assert list(source.judgements("test")) == [Judgement(1, 2, -1)]


def test_trains_on_relevant_train_pairs(folder):
    triplets = list(BeirFolder(folder).examples())
    assert [t[:3] for t in triplets] == [(0, 0, ()), (1, 1, ())]
    assert all(isinstance(t, Example) and t.positive_score != t.positive_score for t in triplets)
    (folder / "qrels" / "train.tsv").unlink()
    assert list(BeirFolder(folder).examples()) == []


def test_gzip_blank_lines_and_a_missing_header_change_nothing(folder, tmp_path):
    before = BeirFolder(folder)
    expected = [list(before.documents()), list(before.queries()), list(before.judgements("train"))]
    other = write(tmp_path / "other")
    corpus = other / "corpus.jsonl"
    corpus.write_text(corpus.read_text().replace("\n", "\r\n\n"))
    (other / "corpus.jsonl.gz").write_bytes(gzip.compress(corpus.read_bytes()))
    corpus.unlink()
    train = other / "qrels" / "train.tsv"
    rows = train.read_bytes().partition(b"\n")[2]
    (other / "qrels" / "train.tsv.gz").write_bytes(gzip.compress(rows))
    train.unlink()
    after = BeirFolder(other)
    found = [list(after.documents()), list(after.queries()), list(after.judgements("train"))]
    assert found == expected
    files = "corpus.jsonl.gz queries.jsonl qrels/train.tsv.gz qrels/test.tsv"
    assert after.describe()["files"] == files.split()


def test_fingerprint_is_the_content(folder, tmp_path):
    first = BeirFolder(folder).fingerprint()
    int(first, 16)
    assert BeirFolder(write(tmp_path / "copy")).fingerprint() == first
    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "dev.tsv")
    moved = BeirFolder(folder).fingerprint()
    (folder / "queries.jsonl").write_text('{"_id": "q2", "text": "other"}\n')
    assert len({first, moved, BeirFolder(folder).fingerprint()}) == 3


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ('{"_id": "d2", "text": "a"', "malformed JSON at column"),
        ('{"_id": 2, "text": "a"}', "field '_id' is a number; expected a string"),
        ('{"_id": "d2", "text": ["a"]}', "field 'text' is a list; expected a string"),
        ('{"_id": "d2", "title": 1, "text": "a"}', "field 'title' is a number; expected"),
        ('{"id": "d2", "text": "a"}', "field '_id' is missing; add it (fields present: 'id', "),
        ('{"_id": "d2", "title": "a"}', "field 'text' is missing"),
        ('{"_id": "d2", "Title": "a", "text": ""}', "field 'Title' is not read; expected 'title'"),
        ('{"_id": "", "text": "a"}', "field '_id' is empty"),
        ('{"_id": "d1", "text": "a"}', "_id 'd1' occurs twice"),
        ('{"_id": "d 2", "text": "a"}', "_id 'd 2' is empty or has white space"),
    ],
)
def test_wrong_document(folder, corpus, message):
    path = folder / "corpus.jsonl"
    path.write_text('{"_id": "d1", "text": "a"}\n' + corpus + "\n")
    assert refusal(folder).startswith(f"{path}:2: {message}")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ('{"_id": "q2", "text": ""}', "field 'text' is empty"),
        ('{"_id": "q2", "Text": "b"}', "field 'Text' is not read; expected 'text'"),
        ('{"_id": "q1", "text": "b"}', "_id 'q1' occurs twice"),
        ('{"_id": "q2\\n", "text": "b"}', "_id 'q2\\n' is empty or has white space"),
    ],
)
def test_wrong_query(folder, query, message):
    path = folder / "queries.jsonl"
    path.write_text('{"_id": "q1", "text": "a"}\n' + query + "\n")
    assert refusal(folder).startswith(f"{path}:2: {message}")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("q2\td2", ":2: 2 columns; expected query-id, corpus-id and score"),
        ("q2 0 d2 1", ":2: 1 columns"),
        ("q2\td2\t1.0", ":2: score is '1.0'; expected a whole number"),
        ("q2\td2\t99999999999", ":2: score is '99999999999'; expected a whole number"),
        ("q2\t0\td2\t1", ":2: 4 columns; expected query-id, corpus-id and score"),
        ("q2\td2\t2\nq2\td;3\t1\nq2\td2\t0", ":4: document 'd2' of query 'q2' is judged 0 here"),
    ],
)
def test_wrong_judgement(folder, row, message):
    path = folder / "qrels" / "test.tsv"
    path.write_text(f"query-id\tcorpus-id\tscore\n{row}\n")
    assert refusal(folder).startswith(f"{path}{message}")


def test_first_row_is_not_taken_for_a_header(folder):
    path = folder / "qrels" / "test.tsv"
    path.write_text("q2\td2\tx\n")
    assert refusal(folder).startswith(f"{path}:1: score is 'x'")
    path.write_text("q2\td2\t1\nquery-id\tcorpus-id\tscore\n")
    assert refusal(folder).startswith(f"{path}:2: score is 'score'")


def test_unknown_queries_are_counted_after_the_split(folder):
    path = folder / "qrels" / "test.tsv"
    path.write_text("query-id\tcorpus-id\tscore\nq2\td2\t1\nq9\td2\t1\nq8\tnone\t1\n")
    assert re.match(f"{path}: 2 of 3 .*queries.jsonl .*line 3, 'q9'", refusal(folder))


def test_documents_that_the_corpus_lacks_are_warned_of_once(folder, monkeypatch, caplog):
    monkeypatch.setattr(LOG, "propagate", True)
    for split in ("train", "test"):
        path = folder / "qrels" / f"{split}.tsv"
        path.write_text("q2\td2\t1\nq2\tdoc17\t1\nq2\tdoc18\t0\nq2\tdoc17\t1\n")
    source = BeirFolder(folder)
    for _ in range(2):
        assert list(source.judgements("test")) == [(1, 1, 1), (1, "doc17", 1), (1, "doc18", 0)]
        assert [t[:3] for t in source.examples()] == [(1, 1, ())]
    test, train = caplog.messages
    assert re.match(f"{folder}/qrels/test.tsv: 2 of 3 .*corpus.jsonl .*line 2, 'doc17'", test)
    assert train.startswith(f"{folder}/qrels/train.tsv: 2 of 3 ")
    assert train.endswith("training skips 1 of them")


def test_another_corpus_is_refused(folder):
    path = folder / "qrels" / "test.tsv"
    path.write_text("query-id\tcorpus-id\tscore\nq2\tdoc17\t1\nq2\tdoc18\t1\n")
    message = f"{path}: no judged document is in corpus.jsonl (first: line 2, 'doc17')"
    assert refusal(folder).startswith(message)


@pytest.mark.parametrize("fields", [{"title": "", "text": ""}, {"text": None}, {"text": " "}])
def test_a_document_may_have_no_text(tmp_path, fields):
    source = BeirFolder(write(tmp_path / "mine", [*DOCUMENTS, {"_id": "d4", **fields}]))
    *_, empty = source.documents()
    assert (empty.id, empty.content) == ("d4", "")


def test_a_pair_judged_twice_alike_counts_once(folder):
    path = folder / "qrels" / "train.tsv"
    path.write_text(path.read_text() + "q2\td2\t1\n")
    assert len(list(BeirFolder(folder).judgements("train"))) == 3
    assert len(list(BeirFolder(folder).examples())) == 2


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
def test_missing_file_says_what_a_folder_holds(folder, name):
    (folder / name).unlink()
    message = refusal(folder)
    assert message.startswith(f"{folder / name}: no such file; a BEIR folder holds corpus.jsonl, ")


def test_missing_folder_and_missing_qrels(folder):
    assert refusal(folder / "none").startswith(f"{folder / 'none'}: no such folder; a BEIR folder")
    assert refusal(folder / "corpus.jsonl").startswith(f"{folder / 'corpus.jsonl'}: is a file; ")
    for path in (folder / "qrels").iterdir():
        path.unlink()
    assert refusal(folder).startswith(f"{folder}/qrels: no train.tsv, dev.tsv or test.tsv; ")


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
def test_empty_file(folder, name):
    (folder / name).write_text("\n")
    assert refusal(folder).startswith(f"{folder / name}: no ")


def test_not_utf8(folder):
    path = folder / "corpus.jsonl"
    path.write_bytes(path.read_bytes() + b'{"_id": "d4", "text": "\xff"}\n')
    assert refusal(folder).startswith(f"{path}:4: not UTF-8")
