"""Tests the queries that are held out of a BEIR folder without a dev split."""

import json

import pytest

from selfdistill_jax.data.sources.beir import BeirFolder
from selfdistill_jax.data.sources.held_out import HeldOutDev
from selfdistill_jax.data.sources.registry import open_source
from tests.tiny import train, write_collection, write_rows

QUERIES, TEST = 60, 10


def write(folder, splits=("train", "test"), copies=()):
    """Writes queries q0, q1, … with document c0, c1, …; the last ten are test queries."""
    (folder / "qrels").mkdir(parents=True)
    texts = [f"text {i if i not in copies else min(copies)}" for i in range(QUERIES)]
    write_rows(folder / "queries.jsonl", [{"_id": f"q{i}", "text": t} for i, t in enumerate(texts)])
    rows = [{"_id": f"c{i}", "title": "", "text": f"about {i}"} for i in range(QUERIES)]
    write_rows(folder / "corpus.jsonl", rows)
    numbers = {"train": range(QUERIES - TEST), "test": range(QUERIES - TEST, QUERIES), "dev": [0]}
    for split in splits:
        lines = [f"q{i}\tc{i}\t1\n" for i in numbers[split]]
        lines += [f"q{i}\tc0\t0\n" for i in numbers[split] if i]
        (folder / "qrels" / f"{split}.tsv").write_text("".join(lines))
    return folder


def rows_of(source, split):
    return {judgement.query for judgement in source.judgements(split)}


def test_a_tenth_of_the_training_queries_is_dev(tmp_path):
    source = open_source(dataset=str(write(tmp_path / "own")), dev_queries=300)
    dev, training = rows_of(source, "dev"), {e.query for e in source.examples()}
    assert len(dev) == 5
    assert dev | training == set(range(QUERIES - TEST))
    assert not dev & training
    assert rows_of(source, "train") == training
    assert rows_of(source, "test") == set(range(QUERIES - TEST, QUERIES))
    assert sum(j.query in dev for j in source.judgements("dev")) == 10 - (0 in dev)
    fewer = open_source(dataset=str(tmp_path / "own"), dev_queries=3)
    assert rows_of(fewer, "dev") < dev
    assert len(rows_of(fewer, "dev")) == 3
    assert len({s.fingerprint() for s in (source, fewer, BeirFolder(tmp_path / "own"))}) == 3


def test_copies_of_a_query_are_on_one_side(tmp_path):
    for first in range(0, 50, 5):
        copies = range(first, first + 4)
        source = HeldOutDev(BeirFolder(write(tmp_path / f"{first}", copies=copies)), 300)
        dev = rows_of(source, "dev")
        assert dev.issuperset(copies) or not dev & {*copies}
        assert len(dev) <= 5


@pytest.mark.parametrize("splits", [("train", "dev", "test"), ("test",)])
def test_other_folders_are_as_they_are(tmp_path, splits):
    source = open_source(dataset=str(write(tmp_path / "own", splits)), dev_queries=300)
    assert isinstance(source, BeirFolder)


def test_triplets_of_held_out_queries_are_left_out(tmp_path):
    folder = write(tmp_path / "own")
    rows = [
        {"query_id": f"q{i}", "positive_id": f"c{i}", "negative_id": f"c{(i + 1) % QUERIES}"}
        for i in range(40)
    ]
    path = write_rows(tmp_path / "own.jsonl", rows)
    source = open_source(dataset=str(folder), triplets=str(path), dev_queries=300)
    dev, examples = rows_of(source, "dev"), list(source.examples())
    assert len(dev) == 4
    assert {e.query for e in examples} == set(range(40)) - dev
    assert all(len(e.negatives) == 1 for e in examples)


def test_a_run_without_a_dev_split_is_judged_on_held_out_queries(tiny, tmp_path):
    folder = write_collection(tmp_path / "part", splits={"train": range(30), "test": range(30, 40)})
    config = tiny.config(
        "softmax", data__dataset=str(folder), data__dev_queries=300, train__steps=4,
        evaluation__interpolation=(1.0,),
    )  # fmt: skip
    text = train(config, tmp_path / "run")
    choice = json.loads((tmp_path / "run" / "eval" / "choice.json").read_text())
    assert choice["queries"] == 3
    assert "part, test: 10 queries" in text
