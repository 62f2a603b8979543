"""Tests the collapse alarm and a run's reaction to it."""

import logging

import jax
import numpy as np
import pytest

from selfdistill_jax.checkpoints.model_folder import read_folder
from selfdistill_jax.train.evaluation import final_test
from selfdistill_jax.train.monitoring.alarm import Alarm
from tests import tiny as helpers
from tests.tiny import metrics, train


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING, logger="selfdistill_jax")
    return lambda: [record.getMessage() for record in caplog.records]


def test_alarm_goes_off_once_for_every_rise(warnings):
    alarm = Alarm(0.9, stop=False)
    for step, cosine in enumerate([0.5, 0.91, 0.95, 0.9, float("nan"), 0.97, 0.98]):
        alarm.update(step, 0.5, cosine)
    first, second = warnings()
    assert "collapse at step 1: the mean cosine of a batch's documents is 0.910" in first
    assert "above config.train.collapse_cosine 0.9" in first
    assert "config.train.learning_rate" in first
    assert "step 5" in second
    assert alarm.message == ""


def test_alarm_that_stops_says_why(warnings):
    alarm = Alarm(0.9, stop=True)
    alarm.update(3, 0.5, 0.9)
    assert alarm.message == ""
    alarm.update(4, 0.5, 0.99)
    assert alarm.message.startswith("collapse at step 4")
    assert not alarm.not_finite
    assert alarm.message in warnings()[0]


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run(warnings, loss):
    alarm = Alarm(0.9, stop=False)
    alarm.update(7, loss, 0.5)
    assert alarm.message == f"loss of {loss} at step 7"
    assert alarm.not_finite
    assert "config.train.learning_rate" in warnings()[0]


def test_run_warns_and_goes_on(tiny, finished, tmp_path, warnings):
    config = tiny.config(train__collapse_cosine=-1.0, train__steps=2)
    assert "ended by" not in train(config, tmp_path)
    assert len(warnings()) == 1
    assert len(metrics(tmp_path, "train")) == 2
    page = (tmp_path / "report.html").read_text()
    assert "Similarity between documents" in page


def test_run_stops_where_it_is_told_to(tiny, finished, tmp_path):
    # The tiny encoder's cosines rise and fall; the limit is below the highest of steps 2 to 4.
    cosines = [record["document_cosine"] for record in metrics(finished, "train")]
    limit = float(np.nextafter(max(cosines[1:4]), -1))
    stopped = 1 + next(i for i, cosine in enumerate(cosines) if cosine > limit)
    config = tiny.config(train__collapse_cosine=limit, train__collapse_stop=True)
    text = train(config, tmp_path)
    assert f"Training was ended by a collapse at step {stopped}:" in text
    assert len(metrics(tmp_path, "train")) == stopped
    assert train(config, tmp_path) == text
    assert metrics(tmp_path, "dev")[-1]["step"] < stopped


def test_collapse_is_not_forgotten_by_a_run_that_goes_on(tiny, finished, tmp_path, monkeypatch):
    """The run is killed in its last evaluation, with a checkpoint due at the collapse."""
    cosines = [record["document_cosine"] for record in metrics(finished, "train")]
    limit = float(np.nextafter(cosines[1], -1))
    config = tiny.config(
        train__collapse_cosine=min(limit, cosines[0] - 1e-3),
        train__collapse_stop=True,
        train__checkpoint_every=1,
    )
    with monkeypatch.context() as patch:
        patch.setattr(final_test, "evaluate_bm25", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path)
    assert "Training was ended by a collapse at step 1:" in train(config, tmp_path)


def test_a_run_that_ends_before_any_evaluation_has_its_start_as_model(tiny, finished, tmp_path):
    collection = helpers.write_collection(
        tmp_path / "part", splits={s: helpers.SPLITS[s] for s in ("train", "test")}
    )
    config = tiny.config(
        data__dataset=str(collection), train__collapse_cosine=-1.0, train__collapse_stop=True
    )
    assert "Training was ended by a collapse at step 1:" in train(config, tmp_path / "run")
    model = read_folder(str(tmp_path / "run" / "model")).params
    jax.tree.map(np.testing.assert_array_equal, model, read_folder(str(tiny.encoder)).params)


def killed(*args, **kwargs):
    raise KeyboardInterrupt
