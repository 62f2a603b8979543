"""Tests lists of negatives in the rows of a triplet file."""

import pytest

from tests.data.sources.test_triplet_file import ROWS, named, refusal, write

SCORES = {"positive_score": 2, "negative_scores": [1]}


def test_several_negatives_in_a_row(tmp_path):
    rows = [
        {"query": "q", "positive": "a", "negatives": ["b", "c", "d"]},
        {"query": "r", "positive": "b", "negatives": ["a"], **SCORES},
        {"query": "s", "positive": "c", "negatives": [], **SCORES, "negative_scores": []},
        {"query": "t", "positive": "c", "negative": "d"},
    ]
    path = write(tmp_path / "a.jsonl", rows)
    found = named(path)
    assert [row[:-1] for row in found[:1]] == [("q", "a", "b", "c", "d")]
    assert found[1] == ("r", "b", "a", 2, 1)
    assert [row[:3] for row in found[2:]] == [("s", "c", None), ("t", "c", "d")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"negatives": "b"}, "field 'negatives' is not a list"),
        ({"negatives": ["b", " "]}, "field 'negatives[1]' is empty"),
        ({"negatives": ["b", 7]}, "field 'negatives[1]' is a number; expected a string"),
        ({"negatives": ["b", "c", " b "]}, "the same negative occurs twice"),
        ({"negative": "b", "negatives": ["c"]}, "fields 'negative' and 'negatives' are both"),
        ({"negatives": ["b"], "positive_score": 1}, "only one of positive_score and"),
        ({"negatives": ["b"], "negative_scores": [1]}, "only one of positive_score and"),
        ({"negatives": ["b", "c"], **SCORES}, "1 scores for 2 negatives; expected one for each"),
        ({"negatives": ["b"], **SCORES, "negative_scores": ["1"]}, "field 'negative_scores[0]' is"),
    ],
)
def test_faulty_lists_of_negatives(tmp_path, row, message):
    path = write(tmp_path / "a.jsonl", [ROWS[0], {"query": "q", "positive": "a", **row}])
    assert refusal(path).startswith(f"{path}:2: {message}")
