"""Tests that mined negatives and their scores become a file that training reads."""

import json

import numpy as np
import pytest

from selfdistill_jax import BiEncoder
from selfdistill_jax.prepare import prepare
from selfdistill_jax.train.data.mined_examples import _distinct
from selfdistill_jax.train.job import make_job
from tests.tiny import load_batches, texts, train, write_encoder, write_rows


def written(config, path, **options):
    text = prepare(make_job(config), output=path, **options)
    return text, [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("kind", ["mined", "bm25"])
def test_rows_have_the_candidates_and_the_start_encoders_scores(tiny, tmp_path, kind):
    config = tiny.config(data__negatives=kind, data__candidates=3, data__mined_ceiling=0.0)
    text, rows = written(config, tmp_path / "mined.jsonl")
    assert f"mined.jsonl: 24 examples with 72 negatives, scored by {tiny.encoder} in " in text
    batches = load_batches(config)
    assert [row["query_id"] for row in rows] == [f"q{i}" for i in range(24)]
    assert [row["negative_ids"] for row in rows] == [
        [f"c{i}" for i in candidates] for candidates in batches.candidates
    ]
    row, model = rows[5], BiEncoder.load(str(tiny.encoder))
    query = model.encode_query(texts(5, 0)[0])
    numbers = [int(id_[1:]) for id_ in (row["positive_id"], *row["negative_ids"])]
    documents = [" ".join(texts(i, i % 5)[1:]) for i in numbers]
    scores = 20 * model.encode_document(documents) @ query
    np.testing.assert_allclose([row["positive_score"], *row["negative_scores"]], scores, atol=2e-3)


def test_training_reads_the_file(tiny, tmp_path):
    teacher = write_encoder(tmp_path / "teacher")
    config = tiny.config(data__negatives="mined", data__candidates=4, data__negatives_per_query=2)
    text, rows = written(config, tmp_path / "mined.jsonl", teacher=str(teacher))
    assert f"scored by {teacher} in" in text
    config = tiny.config(
        "kl",
        data__triplets=str(tmp_path / "mined.jsonl"),
        data__negatives_per_query=2,
        train__steps=2,
    )
    batches = load_batches(config)
    given = [[f"c{i}" for i in example if i >= 0] for example in batches._examples.negatives]
    assert given == [row["negative_ids"] for row in rows]
    assert train(config, tmp_path / "run")


def test_texts_keep_their_own_negatives_first(tiny, tmp_path):
    subjects = [texts(i, i % 5) for i in range(45)]
    rows = [
        {"query": q, "positive": f"{title} {text}", "negative": f"{subjects[i - 1][1]} own"}
        for i, (q, title, text) in enumerate(subjects)
    ]
    path = write_rows(tmp_path / "own.jsonl", rows)
    config = tiny.config(
        data__dataset="",
        data__triplets=str(path),
        data__negatives="bm25",
        data__candidates=3,
        data__negatives_per_query=2,
    )
    _, found = written(config, tmp_path / "mined.jsonl")
    own = {row["query"]: row for row in rows}
    scored = [row for row in found if "positive_score" in row]
    # All other pairs follow, so that a run with the file holds out the same queries.
    assert [row.keys() for row in found[len(scored) :]] == [{"query", "positive"}] * (
        len(rows) - len(scored)
    )
    assert {row["query"] for row in found} == own.keys()
    again = make_job(tiny.config(data__dataset="", data__triplets=str(tmp_path / "mined.jsonl")))
    before = make_job(tiny.config(data__dataset="", data__triplets=str(path)))
    for split in ("train", "dev", "test"):
        texts_of = [[q.text for q in job.data.source.queries()] for job in (before, again)]
        asked = [
            {names[j.query] for j in job.data.source.judgements(split)}
            for job, names in zip((before, again), texts_of, strict=True)
        ]
        assert asked[0] == asked[1]
    for row in scored:
        assert row["positive"] == own[row["query"]]["positive"]
        assert row["negatives"][0] == own[row["query"]]["negative"]
        assert len({*row["negatives"], row["positive"]}) == len(row["negatives"]) + 1 >= 4
        assert len(row["negative_scores"]) == len(row["negatives"])


def test_too_few_candidates_are_filled_up_with_random_documents(tiny, tmp_path):
    _, rows = written(tiny.config(data__negatives_per_query=3), tmp_path / "random.jsonl")
    assert {len({row["positive_id"], *row["negative_ids"]}) for row in rows} == {4}
    # No document is similar enough to stay below half of the positive's similarity.
    config = tiny.config(data__negatives="mined", data__mined_ceiling=0.1)
    _, rows = written(config, tmp_path / "mined.jsonl")
    assert {len(row["negative_ids"]) for row in rows} == {1}
    assert all(row["positive_id"] not in row["negative_ids"] for row in rows)


def test_distinct_values():
    rows = np.array([[3, 1, 3, -1], [2, 2, 2, 0], [5, 4, -1, -1]])
    assert _distinct(rows).tolist() == [[3, 1, -1, -1], [2, 0, -1, -1], [5, 4, -1, -1]]
