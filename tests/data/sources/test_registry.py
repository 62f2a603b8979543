"""Tests the two settings that choose the training data and the evaluation data."""

import json

import pytest

from selfdistill_jax.data.examples.file import ExampleFile
from selfdistill_jax.data.sources.beir import BeirFolder
from selfdistill_jax.data.sources.external_triplets import TripletsOf, TripletsOver
from selfdistill_jax.data.sources.pydocs import PyDocs
from selfdistill_jax.data.sources.registry import open_source
from selfdistill_jax.data.sources.triplet_file import TripletFile
from selfdistill_jax.errors import InputError


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "mine"
    (folder / "qrels").mkdir(parents=True)
    for name, texts in (("corpus", ["a", "b"]), ("queries", ["is a", "is b", "is c"])):
        rows = [{"_id": f"{name[0]}{i}", "text": text} for i, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for split, query in (("train", 0), ("dev", 1), ("test", 2)):
        (folder / "qrels" / f"{split}.tsv").write_text(f"q{query}\tc1\t1\n")
    return folder


@pytest.fixture
def triplets(tmp_path):
    path = tmp_path / "own.tsv"
    # By itself, the file would hold out its first query for dev and its second for test.
    path.write_text("query 36\tx\ty\nquery 52\tz\tx\n")
    return path


def test_a_name_a_folder_or_a_file_is_opened(folder, triplets):
    assert isinstance(open_source(), PyDocs)
    assert isinstance(open_source(dataset="pydocs"), PyDocs)
    assert isinstance(open_source(dataset=str(folder)), BeirFolder)
    alone = open_source(triplets=str(triplets))
    assert isinstance(alone, TripletFile)
    assert alone.describe()["held_out"] is True


def test_triplets_over_a_collection(folder, triplets):
    collection = BeirFolder(folder)
    source = open_source(dataset=str(folder), triplets=str(triplets))
    assert source.name == "mine+own"
    assert source.corpus_size == source.pool_start == 2
    documents, queries = list(source.documents()), list(source.queries())
    assert [d.id for d in documents] == ["c0", "c1", "triplets:d0", "triplets:d1", "triplets:d2"]
    assert documents[:2] == list(collection.documents())
    assert queries[:3] == list(collection.queries())
    assert [q.id for q in queries[3:]] == ["triplets:q0", "triplets:q1"]
    texts = [
        (queries[t.query].text, documents[t.positive].text, documents[t.negatives[0]].text)
        for t in source.examples()
    ]
    assert texts == [("query 36", "x", "y"), ("query 52", "z", "x")]
    # The collection's training pairs are not used; its dev and test judgements all are.
    assert list(source.judgements("train")) == []
    for split in ("dev", "test"):
        assert list(source.judgements(split)) == list(collection.judgements(split)) != []


def named(source):
    """Returns the ids of each triplet of a source."""
    documents, queries = list(source.documents()), list(source.queries())
    return [
        (queries[q].id, documents[p].id, documents[n[0]].id if n else None)
        for q, p, n, *_ in source.examples()
    ]


JSON_OF_IDS = [
    {"query_id": "q0", "positive_id": "c1", "negative_id": "c0"},
    {"query_id": "q0", "positive_id": "c1"},
]
TSV_OF_IDS = "query_id\tpositive_id\tnegative_id\n"


@pytest.mark.parametrize(
    ("name", "text", "want"),
    [
        ("own.jsonl", "".join(json.dumps(r) + "\n" for r in JSON_OF_IDS), ["c0", None]),
        ("own.tsv", TSV_OF_IDS + "q0\tc1\tc0\n", ["c0"]),
        ("own.tsv", "query_id\tpositive_id\nq0\tc1\nq0\tc1\n", [None, None]),
    ],
)
def test_triplets_of_a_collection(folder, tmp_path, name, text, want):
    path = tmp_path / name
    path.write_text(text)
    collection = BeirFolder(folder)
    source = open_source(dataset=str(folder), triplets=str(path))
    assert named(source) == [("q0", "c1", negative) for negative in want]
    assert source.name == "mine+own"
    assert (source.corpus_size, source.pool_start) == (None, 0)
    assert list(source.documents()) == list(collection.documents())
    assert list(source.queries()) == list(collection.queries())
    for split in ("train", "dev", "test"):
        assert list(source.judgements(split)) == list(collection.judgements(split)) != []
    assert source.describe()["training"]["file"] == str(path)


def test_scores_of_triplets_of_ids(folder, tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({**JSON_OF_IDS[0], "positive_score": 2, "negative_score": -1}))
    (triplet,) = open_source(dataset=str(folder), triplets=str(path)).examples()
    assert triplet[3:5] == (2, (-1,))


@pytest.mark.parametrize(
    "lines",
    [["q0\tx\ty\n", "q0\tx\tz\n"], [f"{TSV_OF_IDS}q0\tc1\tc0\n", f"{TSV_OF_IDS}q0\tc0\tc1\n"]],
)
def test_fingerprint_is_of_triplets_and_collection(folder, tmp_path, lines):
    path, found = tmp_path / "own.tsv", [BeirFolder(folder).fingerprint()]

    def fingerprint():
        return open_source(dataset=str(folder), triplets=str(path)).fingerprint()

    for text in lines:
        path.write_text(text)
        found.append(fingerprint())
        assert fingerprint() == found[-1]
    (folder / "corpus.jsonl").write_text('{"_id": "c1", "text": "a"}\n')
    assert len({*found, fingerprint()}) == 4


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("q7\tc0\tc1\nq0\tc1\tc0\nq8\tc0\tc1\n", ": 2 of 3 .*queries .*'q7' at .*own.tsv:2"),
        ("q0\tc1\tc0\nq0\tc8\tc9\n", ": 1 of 2 .*documents .* not in mine .*'c8' at .*own.tsv:3"),
        ("q0\tc1\tc0\nq2\tc1\tc0\nq1\tc1\tc0\n", ": 2 of 3 .*in dev or test .*'q2' at .*own.tsv:3"),
        ("q0\tc1\n", ":2: 2 columns; expected 3"),
        ("", ": no triplets; expected rows of query"),
    ],
)  # fmt: skip
def test_wrong_ids(folder, tmp_path, rows, message):
    path = tmp_path / "own.tsv"
    path.write_text(TSV_OF_IDS + rows)
    source = open_source(dataset=str(folder), triplets=str(path))
    with pytest.raises(InputError, match=f"^{path}{message}"):
        list(source.examples())


@pytest.mark.parametrize("row", ["q0\tc0\tc1\n", "q0\tc1\tc0\n"])
def test_documents_that_only_evaluation_may_see(folder, tmp_path, row):
    path = tmp_path / "own.tsv"
    path.write_text(TSV_OF_IDS + row)
    collection = BeirFolder(folder)
    collection.pool_start = 1
    with pytest.raises(InputError, match="1 of 1 examples name documents that only"):
        list(TripletsOf(collection, ExampleFile(path)).examples())


def test_ids_without_names(folder, tmp_path):
    path = tmp_path / "own.tsv"
    path.write_text("q0\tc1\tc0\n")
    source = open_source(dataset=str(folder), triplets=str(path))
    message = r"own\.tsv: the first query is 'q0', the id of a query of"
    with pytest.raises(InputError, match=message):
        list(source.examples())


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("query_id\tpositive\tnegative_id", "unknown column 'positive' .*; expected query_id, "),
        ("query_id\tright\twrong", "unknown columns 'right', 'wrong' .*; expected query_id, "),
        ("query_id\tnegative_id\tid", "column 'positive_id' is missing"),
        ("query\tpositive_id\tnegative_id", "column 'positive' is missing"),
    ],
)
def test_header_of_ids_that_is_wrong(folder, tmp_path, head, message):
    path = tmp_path / "own.tsv"
    path.write_text(f"{head}\nq0\tc1\tc0\n")
    with pytest.raises(InputError, match=f"^{path}: {message}"):
        list(open_source(dataset=str(folder), triplets=str(path)).examples())


def test_ids_beside_texts_are_not_used(folder, tmp_path):
    path = tmp_path / "own.tsv"
    path.write_text("query_id\tquery\tpositive_id\tpositive\nq0\ta\tc1\tb\n")
    source = open_source(dataset=str(folder), triplets=str(path))
    assert isinstance(source, TripletsOver)
    assert named(source) == [("triplets:q0", "triplets:d0", None)]


def test_ids_and_texts_in_one_file(folder, tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps(JSON_OF_IDS[0]) + '\n{"query": "a", "positive": "b"}\n')
    with pytest.raises(InputError, match=r"own\.jsonl:2: unknown fields 'query', 'positive' "):
        list(open_source(dataset=str(folder), triplets=str(path)).examples())


def test_ids_of_nothing(tmp_path):
    path = tmp_path / "own.tsv"
    path.write_text(TSV_OF_IDS + "q0\tc1\tc0\n")
    with pytest.raises(InputError, match=r"own\.tsv: has ids \(query_id, .* no dataset is given"):
        open_source(triplets=str(path))


def test_opening_reads_no_content(folder, triplets):
    (folder / "corpus.jsonl").write_text("broken")
    triplets.write_text("broken")
    source = open_source(dataset=str(folder), triplets=str(triplets))
    with pytest.raises(InputError, match="malformed JSON"):
        _ = source.corpus_size
    with pytest.raises(InputError, match="1 columns"):
        list(open_source(triplets=str(triplets)).documents())


def test_unknown_name(tmp_path, triplets):
    with pytest.raises(InputError, match=r"'pydoc': .*expected .*; did you mean 'pydocs'\?$"):
        open_source(dataset="pydoc")
    with pytest.raises(InputError, match=r"or one of: pydocs$"):
        open_source(dataset=str(tmp_path / "none"))
    with pytest.raises(InputError, match="is a file; expected a BEIR folder"):
        open_source(dataset=str(triplets))
