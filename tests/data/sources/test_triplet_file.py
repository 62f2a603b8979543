"""Tests that a file of triplets becomes a collection with distinct texts and a held-out part."""

import gzip
import json
import math

import pytest

from selfdistill_jax.data.collection import Document, Query
from selfdistill_jax.data.examples.file import ExampleFile
from selfdistill_jax.data.sources.triplet_file import TripletFile
from selfdistill_jax.errors import InputError

ROWS = [
    {"query": "sort an array", "positive": "np.sort", "negative": "np.load"},
    {"query": "open a file", "positive": "np.load"},
    {"query": "sort an array", "positive": "np.lexsort", "negative": None},
    {"query": "open a file", "positive": "np.load", "negative": "np.sort",
     "positive_score": 9, "negative_score": -1.5},
]  # fmt: skip


def write(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def opened(path, *, held_out=True, **settings) -> TripletFile:
    return TripletFile(ExampleFile(path, **settings), held_out=held_out)


def refusal(path, **settings) -> str:
    with pytest.raises(InputError) as caught:
        list(opened(path, **settings).documents())
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["mine.v1.jsonl", "mine.json", "mine.jsonl.gz"])
def test_reads_distinct_texts_in_first_seen_order(tmp_path, name):
    path = write(tmp_path / name)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(path.read_bytes()))
    source = opened(path, held_out=False)
    assert source.name == "mine"
    assert source.corpus_size is None
    assert source.pool_start == 0
    assert list(source.documents()) == [
        Document("d0", "", "np.sort"),
        Document("d1", "", "np.load"),
        Document("d2", "", "np.lexsort"),
    ]
    assert list(source.queries()) == [Query("q0", "sort an array"), Query("q1", "open a file")]
    triplets = list(source.examples())
    assert [t[:3] for t in triplets] == [(0, 0, (1,)), (1, 1, ()), (0, 2, ()), (1, 1, (0,))]
    assert triplets[3][3:5] == (9, (-1.5,))
    assert all(math.isnan(t.positive_score) and not t.negative_scores for t in triplets[:3])
    # Rows 2 and 4 have the same pair, which gives one judgement.
    assert list(source.judgements("train")) == [(0, 0, 1), (1, 1, 1), (0, 2, 1)]
    assert list(source.judgements("dev")) == list(source.judgements("test")) == []


def test_tsv_with_and_without_negatives(tmp_path):
    path = tmp_path / "mine.tsv"
    path.write_text("q a\tp a\tn a\n\nq b\tp a\tn b\r\n")
    source = opened(path, held_out=False)
    assert [d.text for d in source.documents()] == ["p a", "n a", "n b"]
    assert [t[:3] for t in source.examples()] == [(0, 0, (1,)), (1, 0, (2,))]
    path.write_text("Query\tPositive\nq a\tp a\nq a\tp b\n")
    source = opened(path, held_out=False)
    assert [t[:3] for t in source.examples()] == [(0, 0, ()), (0, 1, ())]


def named(path, **settings):
    """Returns the texts and scores of each example."""
    source = opened(path, held_out=False, **settings)
    documents, queries = ([x.text for x in xs] for xs in (source.documents(), source.queries()))
    return [
        (queries[q], documents[p], *([documents[row] for row in n] or [None]), score, *scores)
        for q, p, n, score, scores, _ in source.examples()
    ]


def test_texts_that_differ_in_white_space_at_their_ends_are_one(tmp_path):
    rows = [
        {"query": " q", "positive": "a ", "negative": "b"},
        {"query": "q", "positive": "a", "negative": " b "},
        {"query": "q ", "positive": "\u2003a"},
    ]
    path = write(tmp_path / "a.jsonl", rows)
    assert [t[:3] for t in named(path)] == [(" q", "a ", "b")] * 2 + [(" q", "a ", None)]


def many(path, count=2000):
    return write(path, [{"query": f"query {i}", "positive": f"document {i}"} for i in range(count)])


def test_holds_out_a_twentieth_each_by_the_query_text(tmp_path):
    source = opened(many(tmp_path / "a.jsonl"))
    split = {s: {j.query for j in source.judgements(s)} for s in ("train", "dev", "test")}
    assert sum(map(len, split.values())) == len(set.union(*split.values())) == 2000
    assert 70 < len(split["dev"]) < 130
    assert 70 < len(split["test"]) < 130
    assert {t.query for t in source.examples()} == split["train"]
    # sha256 of the text, first 8 bytes mod 1000: query 36 gives 7, query 52 gives 50.
    assert 36 in split["dev"]
    assert 52 in split["test"]


def test_a_later_row_moves_no_other(tmp_path):
    few = opened(many(tmp_path / "few.jsonl", 300))
    more = opened(many(tmp_path / "more.jsonl", 600))
    for s in ("train", "dev", "test"):
        expected = [j for j in more.judgements(s) if j.query < 300]
        assert list(few.judgements(s)) == expected != []


def test_fingerprint_is_the_content_and_what_is_held_out(tmp_path):
    path = write(tmp_path / "a.jsonl")
    first = opened(path).fingerprint()
    int(first, 16)
    assert opened(write(tmp_path / "b.jsonl")).fingerprint() == first
    everything = opened(path, held_out=False).fingerprint()
    write(path, ROWS[:1])
    assert len({first, everything, opened(path).fingerprint()}) == 3
    assert opened(path).describe()["file"] == str(path.resolve())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"query": "a", "positive": "b"', "malformed JSON"),
        ('{"query": "a"}', "field 'positive' is missing"),
        ('{"query": 1, "positive": "b"}', "field 'query' is a number; expected a string"),
        ('{"query": "a", "positive": ""}', "field 'positive' is empty"),
        ('{"query": "a", "positive": "b", "negative": " "}', "field 'negative' is empty"),
        ('{"query": "a", "positive": "b", "negative": {"a": "c"}}', "field 'negative' is an obj"),
        ('{"query": "a", "positive": "b", "positive_score": 1}', "only one of positive_score and"),
        ('{"query": "a", "positive": "b", "positive_score": "1", "negative_score": 0}',
         "field 'positive_score' is a string; expected a number"),
        ('{"query": "a", "positive": "b", "positive_score": NaN, "negative_score": NaN}',
         "field 'positive_score' is nan; expected a finite number"),
    ],
)  # fmt: skip
def test_wrong_jsonl_row(tmp_path, row, message):
    path = write(tmp_path / "a.jsonl")
    path.write_text(path.read_text() + row + "\n")
    assert refusal(path).startswith(f"{path}:5: {message}")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("q\tp", "2 columns; expected 3, separated by tabs"),
        ("q\tp\tn\tx", "4 columns; expected 3, separated by tabs"),
        ("q\t \tn", "column 'positive' is empty; remove the row or fill it"),
    ],
)
@pytest.mark.parametrize("first", ["a\tb\tc", "query\tpositive\tnegative"])
def test_wrong_tsv_row(tmp_path, first, row, message):
    path = tmp_path / "a.tsv"
    path.write_text(f"{first}\n{row}\n")
    assert refusal(path).startswith(f"{path}:2: {message}")


@pytest.mark.parametrize("score", ["", "high", "nan", "1e999", "1,5"])
def test_wrong_tsv_score(tmp_path, score):
    path = tmp_path / "a.tsv"
    path.write_text(f"query\tpositive\tpositive_score\tnegative_score\na\tb\t1\t{score}\n")
    assert refusal(path).startswith(f"{path}:2: column 'negative_score' is {score!r}; expected")
    path.write_text("query\tpositive\tnegative_score\na\tb\t1\n")
    assert refusal(path).startswith(f"{path}:2: only one of positive_score and negative_score")


def test_tsv_of_one_column(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("one text\n")
    assert refusal(path).startswith(f"{path}:1: 1 columns; expected 3 (or 2, without the negative)")


@pytest.mark.parametrize(("name", "suffix"), [("a.xlsx", ".xlsx"), ("a.gz", ""), ("a", "")])
def test_unknown_suffix(tmp_path, name, suffix):
    path = write(tmp_path / name)
    assert refusal(path).startswith(f"{path}: unknown suffix {suffix!r}; expected .jsonl, .json, ")


@pytest.mark.parametrize("content", ["", "\n", "query\tpositive\n"])
def test_no_rows(tmp_path, content):
    path = tmp_path / "a.tsv"
    path.write_text(content)
    assert refusal(path).startswith(f"{path}: no triplets; expected rows of query, positive and ")


def test_missing_file_and_folder(tmp_path):
    assert refusal(tmp_path / "a.tsv").startswith(f"{tmp_path / 'a.tsv'}: no such file")
    assert refusal(tmp_path).startswith(f"{tmp_path}: no training data in this folder; expected")
    path = tmp_path / f"{'a' * 300}.tsv"
    assert refusal(path).startswith(f"{path}: cannot be read (")
