"""What a run's numbers say in words."""

from pathlib import Path

import pytest

from selfdistill_jax.report.diagnosis import diagnose
from selfdistill_jax.report.finished_run import FinishedRun
from tests.tiny import content, train, write_rows

CONFIG = {
    "train": {"batch_size": 64, "learning_rate": 5e-5},
    "data": {"negatives": "mined", "document_length": 96, "query_length": 32},
}
HEALTHY = {
    "own_above_mean": 0.99, "positive_mean": 0.7, "negative_mean": 0.2, "other_mean": 0.1,
    "distinct_positives": 0.98,
}  # fmt: skip
RETAINED = {"collection": "pydocs", "test": {"mean_difference": 0.01, "ci_high": 0.02}}


def run(*, step=None, dev=(0.6, 0.7, 0.702), data=None, choice=None, retention=None, ended=""):
    """A finished run; its first step has ``HEALTHY`` metrics but for those given."""
    records = [{"kind": "data", "step": 0, **(data or {})}]
    records += [{"kind": "train", "step": 1, **HEALTHY, **(step or {})}]
    # The next step is after an update, perhaps one with a learning rate that is far too high.
    records += [{"kind": "train", "step": 2, **dict.fromkeys(HEALTHY, 0.0)}]
    records += [{"kind": "dev", "step": 10 * i, "nDCG@10": v} for i, v in enumerate(dev)]
    chosen = {"alpha": 1, "start": {"nDCG@10": dev[0] if dev else 0}, "queries": 50,
              "needed_errors": 1.7, "candidates": [{"standard_error": 0.01}]}  # fmt: skip
    return FinishedRun(
        Path("run"), CONFIG, records, "own", 100, "test", ended, bool(ended), {}, {},
        {**chosen, **(choice or {})} if dev else {}, [retention] if retention else [],
    )  # fmt: skip


def test_a_healthy_run_has_no_findings():
    assert diagnose(run()) == []
    assert diagnose(run(retention=RETAINED)) == []


@pytest.mark.parametrize(
    ("given", "start", "number"),
    [
        ({"step": {"own_above_mean": 0.52}}, "The positives look unrelated", "52%"),
        ({"step": {"negative_mean": 0.65}}, "Mined negatives look like right answers", "0.93"),
        ({"step": {"distinct_positives": 0.625}}, "The first batch of 64 has only 40", "40"),
        ({"data": {"document_tokens_cut": 0.5}}, "50% of the documents' tok", "=96"),
        ({"data": {"query_tokens_cut": 0.3}}, "30% of the queries' tokens are cut", "=32"),
        ({"data": {"contradictions": 30, "examples": 90}}, "30 negatives, in a file of 90", "min"),
        ({"dev": (0.7, 0.1, 0.2)}, "Dev fell from 0.7000 to 0.1000", "learning_rate=5e-06"),
        ({"ended": "loss of nan at step 7"}, "Training diverged (loss of nan at step 7)", "5e-06"),
        ({"dev": (0.6, 0.65, 0.7)}, "Dev still rose at the end", "0.7000"),
        ({"dev": (0.95, 0.94, 0.94)}, "Dev did not move: the start encoder already", "0.9500"),
        ({"choice": {"alpha": 0}}, "Dev has 50 queries, so gains below 0.0170", "50"),
        ({"dev": ()}, "The collection has no dev split", "dev.tsv"),
        (
            {"retention": {**RETAINED, "test": {"mean_difference": -0.1, "ci_high": -0.05}}},
            "The encoder forgets: nDCG@10 on pydocs fell by 0.1000", "0.1000",
        ),
    ],
)  # fmt: skip
def test_each_hindrance_is_named(given, start, number):
    found = diagnose(run(**given))
    assert found[0].startswith(start)
    assert number in found[0]


def test_negatives_are_named_by_their_source():
    for negatives, start in (("bm25", "BM25's negatives"), ("random", "The negatives")):
        one = run(step={"negative_mean": 0.65})
        config = CONFIG | {"data": CONFIG["data"] | {"negatives": negatives}}
        assert diagnose(one._replace(config=config))[0].startswith(start)


def test_an_encoder_to_which_all_texts_are_alike_is_no_finding():
    assert (
        diagnose(run(step={"positive_mean": 0.9, "negative_mean": 0.86, "other_mean": 0.85})) == []
    )


def test_a_fall_on_dev_is_not_blamed_on_the_learning_rate_if_the_pairs_are_wrong():
    found = diagnose(run(step={"own_above_mean": 0.5}, dev=(0.7, 0.1, 0.2)))
    assert not any("learning rate" in sentence for sentence in found)


@pytest.fixture
def from_trained(tiny, finished):
    """``from_trained(**settings)``: a config whose start encoder knows the collection."""
    own = {"encoder__init": str(finished / "model"), "evaluation__interpolation": (0.5, 1.0)}
    return lambda **settings: tiny.config(**own, **settings)


def assert_start_stayed(workdir, finished):
    model, start = content(workdir / "model"), content(finished / "model")
    assert model["model.safetensors"] == start["model.safetensors"]


def test_a_learning_rate_far_too_high_ends_with_the_start_encoder(from_trained, finished, tmp_path):
    text = train(from_trained(train__learning_rate=2.0), tmp_path)
    assert "the learning rate, 2, is probably too high" in " ".join(text.split())
    assert_start_stayed(tmp_path, finished)


def test_shuffled_positives_end_with_the_start_encoder(from_trained, finished, tmp_path):
    """Each query gets the document of another one."""
    rows = [{"query_id": f"q{i}", "positive_id": f"c{(i + 5) % 24}"} for i in range(24)]
    path = write_rows(tmp_path / "own.jsonl", rows)
    text = train(from_trained(data__triplets=str(path)), tmp_path / "run")
    assert "The positives look unrelated to their queries" in text
    assert_start_stayed(tmp_path / "run", finished)
