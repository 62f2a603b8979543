"""Tests which weights a run ends with: start, trained, or a point between them."""

import json

import jax
import numpy as np
import pytest

from selfdistill_jax import BiEncoder
from selfdistill_jax.checkpoints.model_folder import read_folder
from selfdistill_jax.checkpoints.peft import with_adapter
from selfdistill_jax.retrieval.evaluation import MEASURES, ScoredRun
from selfdistill_jax.retrieval.significance import mean_and_error, needed_errors
from selfdistill_jax.train import run
from selfdistill_jax.train.data import start_vectors
from selfdistill_jax.train.evaluation import evaluator, final_test
from selfdistill_jax.train.evaluation.best_model import interpolate
from selfdistill_jax.train.evaluation.final_choice import gains_of_steps
from selfdistill_jax.train.monitoring.run_log import read_metrics
from tests.tiny import metrics, train, write_collection
from tests.train.runs import Killed, assert_same_run, killed, same


@pytest.fixture
def on_dev(monkeypatch):
    """Scripts the final values of dev queries: ``on_dev({"start": [..], "α = 1": [..]})``."""

    def script(values):
        def score(self, eval_set, params, documents, label):
            found = values.get(label.removeprefix("Dev, "))
            if found is None:
                return real(self, eval_set, params, documents, label)
            of_query = {f"q{i}": value for i, value in enumerate(found)}
            return ScoredRun({}, dict.fromkeys(MEASURES, of_query))

        monkeypatch.setattr(evaluator.Evaluator, "score", score)

    real = evaluator.Evaluator.score
    return script


@pytest.fixture
def config(tiny):
    """Returns ``config(**settings)``: a config with the default candidates."""
    return lambda **settings: tiny.config(**{"evaluation__interpolation": (0.5, 1.0)} | settings)


def choice(folder):
    return json.loads((folder / "eval" / "choice.json").read_text())


@pytest.mark.parametrize(
    ("gains", "alpha"),
    [
        ({"0.5": 0.02, "1": 0.03}, 1),
        ({"0.5": 0.04, "1": 0.03}, 0.5),
        ({"0.5": 0.001, "1": -0.03}, 0),  # less than its standard error
        ({"0.5": -0.1, "1": -0.2}, 0),
    ],
)
def test_the_best_is_chosen_if_it_is_clearly_better(tiny, config, tmp_path, on_dev, gains, alpha):
    noise = np.tile([0.01, -0.01], 4)
    on_dev({"start": np.full(8, 0.5)} | {f"α = {a}": 0.5 + g + noise for a, g in gains.items()})
    whole = tmp_path / "whole"
    train(config(evaluation__interpolation=(), train__steps=4), whole)
    text = train(config(train__steps=4), tmp_path / "run")
    assert choice(tmp_path / "run")["alpha"] == alpha
    start, trained, found = (
        read_folder(str(folder)).params
        for folder in (tiny.encoder, whole / "model", tmp_path / "run" / "model")
    )
    assert not same(start, trained)
    assert same(found, interpolate(start, trained, alpha))
    assert ("model/ holds the start encoder" in text.replace("\n", " ")) == (alpha == 0)
    if alpha == 0:
        results = json.loads((tmp_path / "run" / "eval" / "results.test.json").read_text())
        assert results["means"]["trained"] == results["means"]["start"]


@pytest.mark.parametrize("alike", [0.0, 0.9])
@pytest.mark.parametrize("candidates", [1, 2, 8])
def test_a_candidate_without_gain_passes_in_16_percent_of_cases(candidates, alike):
    draw = np.random.default_rng(0)
    passed, needed = [], []
    for _ in range(1000):
        common, own = draw.normal(size=(1, 30)), draw.normal(size=(candidates, 30))
        gains = alike**0.5 * common + (1 - alike) ** 0.5 * own
        gains *= draw.uniform(size=30) < 0.6  # other queries do not change
        needed.append(needed_errors(gains))
        mean, error = zip(*map(mean_and_error, gains), strict=True)
        passed.append((np.array(mean) / error).max() > needed[-1])
    assert np.mean(passed) == pytest.approx(0.159, abs=0.035)
    independent = {1: 1.0, 2: 1.4, 8: 2.1}[candidates]
    expected = 1 + (independent - 1) * (0.6 if alike else 1)
    assert np.mean(needed) == pytest.approx(expected, abs=0.25)


def test_equal_candidates_count_once_and_one_query_shows_nothing():
    gains = np.random.default_rng(0).normal(size=(1, 50))
    assert needed_errors(gains.repeat(9, 0)) == pytest.approx(needed_errors(gains))
    assert needed_errors(np.concatenate([gains, 0 * gains])) > needed_errors(gains) - 1e-9
    assert needed_errors(np.ones((3, 1))) == float("inf")


def test_the_steps_of_the_run_count(config, tmp_path):
    train(config(train__steps=4, train__evaluate_every=2), tmp_path)
    steps = gains_of_steps(read_metrics(tmp_path))
    assert steps.shape == (2, 8)
    dev = [record["nDCG@10"] for record in metrics(tmp_path, "dev")]
    np.testing.assert_allclose(steps.mean(1), np.array(dev[1:]) - dev[0], atol=1e-4)


@pytest.mark.parametrize("alpha", [0.5, 0.0])
def test_an_adapter_is_scaled_like_the_model(tiny, tmp_path, on_dev, alpha):
    on_dev({"start": [0.5] * 8, "α = 0.5": [0.4 + alpha] * 8})
    config = tiny.config(
        encoder__adapter="lora", train__steps=3, train__learning_rate=0.1,
        evaluation__interpolation=(0.5,),
    )  # fmt: skip
    train(config, tmp_path)
    assert choice(tmp_path)["alpha"] == alpha
    encoder = with_adapter(read_folder(str(tiny.encoder)), tmp_path / "adapter")
    model = read_folder(str(tmp_path / "model"))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), encoder.params, model.params
    )
    assert same(model.params, read_folder(str(tiny.encoder)).params) == (alpha == 0)


def test_a_run_killed_after_the_choice_ends_as_the_whole_run_did(
    config, tmp_path, monkeypatch, on_dev
):
    """The model is blended once, wherever the run was killed."""
    on_dev({"start": [0.5] * 8, "α = 0.5": [0.6] * 8, "α = 1": [0.55] * 8})
    config = config(train__steps=4)
    train(config, tmp_path / "whole")
    for place, name in ((run, "write_test"), (final_test, "evaluate_bm25"), (run, "mark_finished")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, killed)
            with pytest.raises(Killed):
                train(config, tmp_path / "parts")
    assert train(config, tmp_path / "parts") is not None
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
    results = json.loads((tmp_path / "parts" / "eval" / "results.test.json").read_text())
    model = BiEncoder.load(str(tmp_path / "parts" / "model"))
    assert results["means"]["trained"] != results["means"]["start"]
    assert model.encode(["mabo"]).shape == (1, 16)


def test_a_stopped_choice_is_resumed(config, tmp_path):
    config = config(train__steps=4)
    train(config, tmp_path / "whole")
    calls = iter(range(100))

    def stop(step):
        return step == 4 and next(calls) == 1  # before the second candidate

    assert train(config, tmp_path / "parts", stop=stop) is None
    assert not (tmp_path / "parts" / "eval" / "choice.json").exists()
    assert train(config, tmp_path / "parts") is not None
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_retention_compares_start_and_result_on_other_collections(tiny, tmp_path):
    other = write_collection(tmp_path / "other", splits={"test": range(40)})
    names = f"pydocs, {other},{tiny.collection}"  # the last is the run's own and left out
    config = tiny.config(
        train__steps=4, evaluation__retention=names, evaluation__retention_documents=700
    )
    text = train(config, tmp_path / "run")
    found = json.loads((tmp_path / "run" / "eval" / "retention.json").read_text())
    assert [facts["collection"] for facts in found] == ["pydocs", "other"]
    assert found[0]["documents"] == 700
    for facts in found:
        change = facts["trained"]["nDCG@10"] - facts["start"]["nDCG@10"]
        assert facts["test"]["mean_difference"] == pytest.approx(change)
        assert f"Retention on {facts['collection']}" in text
    rows = [json.loads(line) for line in (other / "corpus.jsonl").read_text().splitlines()]
    texts = [f"{row['title']} {row['text']}" for row in rows]
    vectors = BiEncoder.load(str(tiny.encoder)).encode_document(texts)
    cosines = vectors @ vectors.T
    want = cosines[~np.eye(len(vectors), dtype=bool)].mean()
    assert found[1]["document_similarity"] == pytest.approx(want, abs=1e-5)


def test_the_start_encoder_is_encoded_once_for_all_runs(tiny, tmp_path, monkeypatch):
    config = tiny.config(data__cache=str(tmp_path / "cache"), train__steps=2)
    train(config, tmp_path / "one")
    labels = []
    encode = evaluator.encode_documents

    def counted(texts, **options):
        labels.append(texts.label)
        return encode(texts, **options)

    for module in (evaluator, start_vectors):
        monkeypatch.setattr(module, "encode_documents", counted)
    train(config, tmp_path / "two")
    assert_same_run(tmp_path / "one", tmp_path / "two")
    assert [x for x in labels if "documents" in x and ("start" in x or "step 0" in x)] == []
    assert any("documents" in x for x in labels)
    (file,) = (tmp_path / "cache" / "vectors").rglob("*.npy")
    assert np.load(file).shape == (40, 16)
