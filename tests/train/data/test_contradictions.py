"""Tests that given negatives are left out if they are known positives of their query."""

import json

import numpy as np
import pytest

from selfdistill_jax.errors import InputError
from selfdistill_jax.train.data.tokenized_collection import open_tokenized
from selfdistill_jax.train.job import make_job
from tests.tiny import load_model, texts, train, write_rows

Q, OTHER = texts(0, 0)[0], texts(1, 1)[0]
A, B, C = "mabo tiri", "hasit vokel", "jurad gimon"


def opened(tiny, folder, rows, **settings):
    path = write_rows(folder / "own.jsonl", rows)
    config = tiny.config(
        data__dataset="", data__triplets=str(path), train__batch_size=8, **settings
    )
    return open_tokenized(make_job(config).data, load_model(config).pretrained)


def rows(*rows):
    """Returns the given rows and enough others for a batch; all their queries stay in train."""
    names = ("query", "positive", "negatives", "positive_score", "negative_scores")
    given = [dict(zip(names, row, strict=False)) for row in rows]
    return given + [
        {"query": f"mabo {i}", "positive": f"hasit {i}", "negatives": [f"gimon {i}"]}
        for i in range(40)
    ]


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ([(Q, A, [A])], [[]]),  # the row's own positive
        ([(Q, A, [f"  {A} ", B])], [[B]]),  # white space around it
        ([(Q, A, [A.upper(), B])], [[B]]),  # the same tokens
        ([(Q, A, [B, C]), (Q, B, [C])], [[C], [C]]),  # positive in another row
        ([(Q, A, [B]), (OTHER, B, [A])], [[B], [A]]),  # positives of other queries stay
    ],
)
def test_contradictions_are_left_out(tiny, tmp_path, caplog, given, left):
    tables = opened(tiny, tmp_path, rows(*given))
    contents = list(tables.collection.documents)
    examples = tables.examples
    kept = [[contents[n] for n in row if n >= 0] for row in examples.negatives[: len(given)]]
    assert kept == left
    assert (examples.negatives[len(given) :, 0] >= 0).all()
    expected = sum(len(row[2]) for row in given) - sum(map(len, left))
    assert tables.contradictions == expected
    assert not tables.known.contains(
        np.repeat(examples.query, examples.negatives.shape[1]), examples.negatives.ravel()
    )[examples.negatives.ravel() >= 0].any()


def test_scores_stay_with_their_negatives(tiny, tmp_path):
    given = [(Q, A, [B, A, C], 9.0, [1.0, 2.0, 3.0])]
    examples = opened(tiny, tmp_path, rows(*given)).examples
    np.testing.assert_array_equal(examples.scores[0], [9, 1, 3, np.nan])


def test_a_teacher_needs_the_negatives_that_were_left_out(tiny, tmp_path):
    given = [{**row, "positive_score": 1.0, "negative_scores": [0.5]} for row in rows((Q, A, [A]))]
    path = write_rows(tmp_path / "own.jsonl", given)
    config = tiny.config("margin_mse", data__dataset="", data__triplets=str(path))
    with pytest.raises(InputError, match=r"1 of .* training triplets have no teacher scores"):
        train(config, tmp_path / "run")


def test_judged_answers_given_as_negatives_by_id(tiny, tmp_path):
    """A run with such negatives draws others instead, and its report names the cause."""
    path = tmp_path / "own.jsonl"
    write_rows(
        path,
        [{"query_id": f"q{i}", "positive_id": f"c{i}", "negative_id": f"c{i}"} for i in range(24)],
    )
    config = tiny.config(data__triplets=str(path), train__steps=3)
    text = train(config, tmp_path / "run")
    assert "24 negatives, in a file of 24 examples, are known positives" in text
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert (first["kind"], first["contradictions"]) == ("data", 24)
