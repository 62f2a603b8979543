"""Tests a run from start to end: its files and the model that it saves."""

import json

import jax
import pytest

from selfdistill_jax.checkpoints.model_folder import read_folder
from selfdistill_jax.data.sources.beir import BeirFolder
from selfdistill_jax.report.finished_run import read_finished_run
from selfdistill_jax.report.html import write_html
from selfdistill_jax.retrieval.encode_corpus import open_tokenizer
from selfdistill_jax.retrieval.evaluation import MEASURES, ScoredRun
from selfdistill_jax.train.evaluation import final_test
from selfdistill_jax.train.evaluation.evaluator import Evaluator
from tests import tiny as helpers
from tests.tiny import content, metrics, train
from tests.train.runs import Killed, checkpointed, killed, same

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def on_dev(monkeypatch):
    """Scripts the dev values, as in ``on_dev([0.1, 0.3])``; the test split is really evaluated."""

    def script(values):
        values = iter(values)

        def score(self, eval_set, params, documents, label):
            if not label.startswith("Dev"):
                return real(self, eval_set, params, documents, label)
            value = next(values)
            return ScoredRun({}, {measure: {"q": value, "r": value} for measure in MEASURES})

        monkeypatch.setattr(Evaluator, "score", score)

    real = Evaluator.score
    return script


def test_run_folder_is_whole(tiny, finished):
    names = {name.split("/")[0] for name in content(finished)}
    assert names == {
        "config.json", "environment.json", "metrics.jsonl", "tensorboard", "checkpoints", "model",
        "eval", "finished.json", "report.html", "result.txt",
    }  # fmt: skip
    config = tiny.config()
    assert json.loads((finished / "config.json").read_text()) == json.loads(config.to_json())
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["versions"]["jax"] == jax.__version__
    assert None not in environment["versions"].values()
    assert environment["devices"] == ["cpu: cpu"] * 8
    assert environment["seed"] == config.seed
    source = BeirFolder(tiny.collection)
    assert environment["collection_fingerprint"] == source.fingerprint()
    assert environment["collection_source"] == source.describe()
    assert (
        environment["tokenizer_fingerprint"]
        == open_tokenizer(read_folder(str(tiny.encoder))).fingerprint
    )
    assert {"python", "platform", "cpus", "processes", "commit"} <= environment.keys()
    assert [r["step"] for r in metrics(finished, "train")] == list(range(1, 13))
    assert [r["step"] for r in metrics(finished, "dev")] == [0, 4, 8, 12]
    assert sorted(p.name for p in (finished / "checkpoints").iterdir()) == ["10", "12"]
    assert sorted(p.name for p in (finished / "eval").iterdir()) == [
        "bm25.test.trec", "per_query.test.tsv", "queries.test.json", "results.test.json",
        "start.test.trec", "trained.test.trec",
    ]  # fmt: skip
    assert (finished / "report.html").read_text().count("<svg") == 6


def test_run_learns_what_it_is_taught(finished):
    train_records = metrics(finished, "train")
    assert train_records[-3]["loss"] < 0.5 * train_records[0]["loss"]
    means = json.loads((finished / "eval" / "results.test.json").read_text())["means"]
    assert means["trained"]["nDCG@10"] > means["start"]["nDCG@10"] + 0.05
    on_dev = [record["nDCG@10"] for record in metrics(finished, "dev")]
    assert max(on_dev) > on_dev[0] + 0.15
    text = (finished / "result.txt").read_text()
    for name in ("bm25", "start", "trained"):
        assert f"{means[name]['nDCG@10']:.4f}" in text
    own, paths = text.split("\nmodel:  ")
    card = (finished / "model" / "README.md").read_text()
    assert f"```\n{own}```" in card
    assert paths.splitlines()[0] not in card


def test_a_run_without_negatives_but_those_of_the_batch(tiny, tmp_path):
    """Such a run records no margins, and its report leaves their figures out."""
    config = tiny.config("softmax", data__negatives_per_query=0, train__steps=2)
    assert train(config, tmp_path / "run") is not None
    assert "margin_mean" not in metrics(tmp_path / "run", "train")[0]
    write_html(tmp_path / "page.html", read_finished_run(tmp_path / "run"), "")
    assert (tmp_path / "page.html").read_text().count("<svg") == 4


def test_model_is_the_best_on_dev_not_the_last(tiny, tmp_path, on_dev):
    on_dev([0.1, 0.2, 0.5, 0.5])  # at steps 0, 3, 6 and the last; the first of equals wins
    settings = {"train__evaluate_every": 3, "train__checkpoint_every": 3}
    config = tiny.config(train__steps=8, **settings)
    train(config, tmp_path)
    model = read_folder(str(tmp_path / "model")).params
    assert same(model, checkpointed(config, tmp_path, 6))
    assert not same(model, checkpointed(config, tmp_path, 8))


def test_start_encoder_stays_where_nothing_is_better(tiny, tmp_path, on_dev):
    on_dev([0.5, 0.4])
    text = train(tiny.config(train__steps=2), tmp_path)
    assert same(read_folder(str(tmp_path / "model")).params, read_folder(str(tiny.encoder)).params)
    assert "model/ holds that encoder" in text


def test_patience_ends_a_run_early(tiny, tmp_path, on_dev, monkeypatch):
    on_dev([0.1, 0.5, 0.4, 0.3, 0.9])
    settings = {"train__patience": 2, "train__evaluate_every": 2, "train__checkpoint_every": 2}
    config = tiny.config(**settings)
    with monkeypatch.context() as patch:
        patch.setattr(final_test, "evaluate_bm25", killed)
        with pytest.raises(Killed):
            train(config, tmp_path)
    # Resumes at step 6, where patience had already run out.
    assert train(config, tmp_path) is not None
    assert [r["step"] for r in metrics(tmp_path, "train")] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in metrics(tmp_path, "dev")] == [0, 2, 4, 6]
    assert not same(read_folder(str(tmp_path / "model")).params, checkpointed(config, tmp_path, 6))


@pytest.mark.parametrize("splits", [("train",), ("train", "test"), ("train", "dev")])
def test_collection_may_lack_splits(tiny, tmp_path, splits):
    collection = helpers.write_collection(
        tmp_path / "part", splits={s: helpers.SPLITS[s] for s in splits}
    )
    config = tiny.config(data__dataset=str(collection), train__steps=3, train__evaluate_every=2)
    text = train(config, tmp_path / "run")
    model = read_folder(str(tmp_path / "run" / "model")).params
    if "dev" not in splits:
        assert same(model, checkpointed(config, tmp_path / "run", 3))
        assert metrics(tmp_path / "run", "dev") == []
    if len(splits) == 1:
        assert "neither a test nor a dev split" in text
        assert not (tmp_path / "run" / "eval").exists()
    else:
        assert (tmp_path / "run" / "eval" / f"results.{splits[1]}.json").is_file()
        assert ("There is no test split" in text) == (splits[1] == "dev")


def test_result_names_the_setting_that_turns_off_the_evaluation(tiny, tmp_path):
    text = train(tiny.config(evaluation__split="none", train__steps=1), tmp_path)
    assert "config.evaluation.split is none" in text
    assert "neither" not in text


@pytest.mark.parametrize("evaluate_every", [4, 1])
@pytest.mark.parametrize("splits", [("train", "dev", "test"), ("train", "test")])
def test_a_run_that_diverges_ends_with_the_start_encoder(tiny, tmp_path, evaluate_every, splits):
    """The first loss is finite, but the encoder after the first update is not."""
    collection = helpers.write_collection(
        tmp_path / "part", splits={s: helpers.SPLITS[s] for s in splits}
    )
    config = tiny.config(
        train__checkpoint_every=1, train__evaluate_every=evaluate_every,
        train__learning_rate=1e30, data__dataset=str(collection),
    )  # fmt: skip
    text = train(config, tmp_path / "run")
    assert "Training diverged" in text
    assert [r["step"] for r in metrics(tmp_path / "run", "train")] == [1]
    model = read_folder(str(tmp_path / "run" / "model"))
    assert same(model.params, read_folder(str(tiny.encoder)).params)
