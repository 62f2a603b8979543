"""Tests that MS MARCO's official files are read, and that faulty ones are named with the line."""

import gzip
import math

import pytest

from selfdistill_jax.data.sources.msmarco import DOWNLOADS, MsMarcoFolder
from selfdistill_jax.data.sources.registry import open_source
from selfdistill_jax.data.store import open_collection
from selfdistill_jax.errors import InputError
from selfdistill_jax.progress import LOG
from tests.msmarco_files import write_files

EVALUATION = (
    "2019qrels-pass.txt",
    "2020qrels-pass.txt",
    "msmarco-test2019-queries.tsv.gz",
    "msmarco-test2020-queries.tsv.gz",
)
TRIPLES = "qidpidtriples.train.full.2.tsv.gz"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files") / "msmarco"
    write_files(folder, passages=300, queries=40, triples=200)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    copy = tmp_path / "msmarco"
    copy.mkdir()
    for path in original.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def rows(path):
    return [line.split() for line in path.read_text().splitlines()]


def read_all(folder, triplets):
    source = open_source(dataset=str(folder), triplets=str(triplets))
    for read in (source.documents, source.queries, source.examples):
        list(read())
    for split in source.splits:
        list(source.judgements(split))


def refusal(folder, triplets="") -> str:
    with pytest.raises(InputError) as caught:
        read_all(folder, triplets)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_folder_is_recognised_and_read(folder, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(LOG, "propagate", True)
    found = open_collection(open_source(dataset=str(folder)), tmp_path / "cache")
    *checksums, size = caplog.messages
    assert size.startswith(f"{folder}/collection.tsv: 300 passages, but the official")
    small = (*EVALUATION, "qrels.train.tsv", "qrels.dev.small.tsv")
    expected = sorted(f"{folder}/{name}: not the official file (md5 " for name in small)
    assert [m[: len(e)] for m, e in zip(sorted(checksums), expected, strict=True)] == expected
    assert found.splits == ("train", "dev", "dl19", "dl20", "test")
    assert list(found.document_ids) == [str(i) for i in range(300)]
    first = (folder / "collection.tsv").read_text().splitlines()[0]
    assert found.documents[0] == first.partition("\t")[2]
    expected = {
        query: {passage: int(grade)}
        for query, _, passage, grade in rows(folder / "qrels.train.tsv")
    }
    assert found.qrels("train") == expected
    assert len(found.examples()) == len(expected) == 40
    years = []
    for split, year in (("dl19", 2019), ("dl20", 2020)):
        judged = {}
        for query, _, passage, grade in rows(folder / f"{year}qrels-pass.txt"):
            judged.setdefault(query, {})[passage] = int(grade)
        assert found.qrels(split) == judged
        years.append(judged)
    assert [len(judged) for judged in years] == [43, 54]
    assert found.qrels("test") == years[0] | years[1]


def test_packed_files_are_the_same_and_other_dev_queries_are_used(folder):
    for name in ("collection.tsv", "qrels.train.tsv"):
        path = folder / name
        (folder / f"{name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    (folder / "queries.dev.small.tsv").rename(folder / "queries.dev.tsv")
    source = MsMarcoFolder(folder)
    assert len(list(source.documents())) == 300
    assert len(list(source.judgements("dev"))) == 10


def test_a_split_without_its_judgements_is_named(folder, monkeypatch, caplog):
    monkeypatch.setattr(LOG, "propagate", True)
    (folder / "2019qrels-pass.txt").unlink()
    (folder / "queries.dev.small.tsv").unlink()
    assert MsMarcoFolder(folder).splits == ("train", "dl20", "test")
    (message,) = caplog.messages
    assert message.startswith(f"{folder}: no dev, dl19, since their queries or their judgements")


def test_a_query_in_two_files_counts_once(folder):
    dev = (folder / "queries.dev.small.tsv").read_text()
    with (folder / "queries.train.tsv").open("a") as file:
        file.write(dev)
    assert len(list(MsMarcoFolder(folder).queries())) == 40 + 10 + 400
    with (folder / "queries.train.tsv").open("a") as file:
        file.write(dev.splitlines()[0] + " other\n")
    id_ = dev.split("\t")[0]
    assert refusal(folder).startswith(
        f"{folder}/queries.train.tsv:51: query {id_!r} has another text than in another file"
    )


def test_what_is_missing_can_be_downloaded(folder):
    (folder / "collection.tsv").unlink()
    message = refusal(folder)
    assert message.startswith(f"{folder}: no collection.tsv; download and unpack into")
    for download in DOWNLOADS:
        assert f"{download.url} ({download.size}" in message
        assert download.md5 in message
    # Also where the triples are missing with the folder, as for configs/distributed.py:msmarco.
    with pytest.raises(InputError, match=r"/msmarco: no such folder; for MS MARCO, download and"):
        read_all(folder / "msmarco", folder / "msmarco" / TRIPLES)
    for path in folder.glob("*queries*"):
        path.unlink()
    (folder / "collection.tsv").write_text("0\ta\n")
    assert refusal(folder).startswith(f"{folder}: no queries with their judgements; download")


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("collection.tsv", "300", "301: 1 column; expected 2, an id and a text"),
        ("collection.tsv", "300\ta\tb", "301: 3 columns; expected 2"),
        ("collection.tsv", "7\tagain", "301: _id '7' occurs twice (first in collection.tsv:8)"),
        ("collection.tsv", " \ta", "301: _id ' ' is empty or has white space"),
        ("queries.train.tsv", "q1\t ", "41: query 'q1' is empty"),
        ("qrels.train.tsv", "q1\t0\t3", "41: 3 columns; expected"),
        ("qrels.train.tsv", "q1\t0\t3\tx", "41: relevance is 'x'; expected a whole number"),
        ("2019qrels-pass.txt", "q1 Q0 3", ": 3 columns; expected"),
    ],
)
def test_faulty_lines_are_named(folder, name, line, message):
    path = folder / name
    with path.open("a") as file:
        file.write(line + "\n")
    assert message in refusal(folder)
    assert refusal(folder).startswith(f"{path}:")


def test_unknown_ids_and_truncated_files_are_named(folder):
    path = folder / "qrels.train.tsv"
    path.write_text(path.read_text() + "q1\t0\t3\t1\n")
    assert refusal(folder).startswith(f"{path}: 1 of 41 judgements name queries that are not in ")
    assert "(first: line 41, 'q1')" in refusal(folder)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    triples = folder / TRIPLES
    whole = triples.read_bytes()
    triples.write_bytes(whole[: len(whole) // 2])
    assert refusal(folder, triples).startswith(f"{triples}: not a whole gzip file")
    query = rows(folder / "qrels.train.tsv")[0][0]
    triples.write_bytes(gzip.compress(f"{query}\t3\t4\n{query}\t3\t999\n".encode()))
    message = refusal(folder, triples)
    assert message.startswith(f"{triples}: 1 of 2 examples name documents that are not in msmarco ")
    assert f"(first: '999' at {triples}:2)" in message


def test_triples_by_id_need_no_header(folder):
    source = open_source(dataset=str(folder), triplets=str(folder / TRIPLES))
    ids = [query.id for query in source.queries()]
    found = [(ids[e.query], str(e.positive), *map(str, e.negatives)) for e in source.examples()]
    with gzip.open(folder / TRIPLES, "rt") as file:
        assert found == [tuple(line.split()) for line in file]


def test_published_scores_for_margin_mse(folder, tmp_path):
    query = rows(folder / "qrels.train.tsv")[0][0]
    path = tmp_path / "bert_cat_ensemble_msmarcopassage_train_scores_ids.tsv"
    path.write_text(f"7.5\t-1.25\t{query}\t3\t4\n-0.5\t1e-3\t{query}\t3\t9\n")
    source = open_source(dataset=str(folder), triplets=str(path))
    found = [example[1:5] for example in source.examples()]
    assert found == [(3, (4,), 7.5, (-1.25,)), (3, (9,), -0.5, (0.001,))]


def test_quotation_marks_in_triples_of_texts_are_text(tmp_path):
    path = tmp_path / "triples.train.small.tsv"
    path.write_text('what\t"One ""two"" three"\tfour "\n"who\tfive\tsix\n')
    source = open_source(triplets=str(path))
    assert [query.text for query in source.queries()] == ["what", '"who']
    texts = [document.text for document in source.documents()]
    assert texts == ['"One ""two"" three"', 'four "', "five", "six"]


def test_the_first_examples_of_each_query(folder, tmp_path):
    queries = [row[0] for row in rows(folder / "qrels.train.tsv")[:3]]
    path = tmp_path / "triples.tsv"
    order = [0, 1, 0, 2, 0, 1, 2, 0]  # four examples of query 0, two of 1, two of 2
    path.write_text("".join(f"{queries[q]}\t1\t{10 + i}\n" for i, q in enumerate(order)))

    def negatives(count):
        source = open_source(dataset=str(folder), triplets=str(path), first_examples=count)
        assert source.fingerprint() != plain.fingerprint()
        return [example.negatives[0] for example in source.examples()]

    plain = open_source(dataset=str(folder), triplets=str(path))
    assert negatives(2) == [10, 11, 12, 13, 15, 16]
    assert negatives(3) == [10, 12, 14]
    with pytest.raises(InputError, match=r"no query has 5 training examples \(the most is 4\)"):
        negatives(5)
    assert all(math.isnan(example.positive_score) for example in plain.examples())
