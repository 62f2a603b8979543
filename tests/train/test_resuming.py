"""Tests that a run that was stopped or killed and then resumed equals an uninterrupted run."""

import contextlib
import json
import shutil

import pytest

from selfdistill_jax.checkpoints.model_folder import read_folder, write_folder
from selfdistill_jax.checkpoints.sentence_transformers import Prompts
from selfdistill_jax.errors import InputError
from selfdistill_jax.train import job
from selfdistill_jax.train.evaluation import final_test
from tests.tiny import content, metrics, train
from tests.train.runs import (
    Killed,
    assert_same_run,
    kill_at,
    killed,
    stop_at,
)

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.mark.parametrize(
    "ends",
    [
        # Nothing is resumed; this compares two runs with the same seed.
        pytest.param([kill_at(3)], id="killed before the first checkpoint"),
        # The run stops after an evaluation; the kill makes it repeat the evaluation at step 8.
        pytest.param([stop_at(4), kill_at(9)], id="stopped, then killed past a checkpoint"),
        pytest.param([stop_at(7), stop_at(8)], id="stopped twice"),
        pytest.param([stop_at(12)], id="stopped in the last evaluation"),
    ],
)
def test_interrupted_equals_uninterrupted(tiny, finished, tmp_path, ends):
    workdir = tmp_path / "run"
    for end in ends:
        with contextlib.suppress(Killed):
            assert train(tiny.config(), workdir, stop=end) is None
        assert not (workdir / "result.txt").exists()
    text = train(tiny.config(), workdir)
    assert text == (workdir / "result.txt").read_text()
    assert_same_run(workdir, finished)


@pytest.mark.parametrize("target", ["ema", "start"])
def test_target_encoder_is_part_of_what_goes_on(tiny, tmp_path, target):
    config = tiny.config(
        train__target=target, train__target_decay=0.8, train__steps=7, train__micro_batches=1
    )
    train(config, tmp_path / "whole")
    with pytest.raises(Killed):
        train(config, tmp_path / "parts", stop=kill_at(6))
    train(config, tmp_path / "parts")
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_killed_in_the_last_evaluation(tiny, finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(final_test, "evaluate_bm25", killed)
        with pytest.raises(Killed):
            train(tiny.config(), tmp_path / "run")
    train(tiny.config(), tmp_path / "run")
    assert_same_run(tmp_path / "run", finished)


def test_a_run_goes_on_in_the_type_that_it_began_in(tiny, tmp_path, monkeypatch):
    config = tiny.config(train__dtype="auto")
    for name in ("bfloat16", "float32"):
        monkeypatch.setattr(job, "fastest_dtype", lambda cache, name=name: name)
        train(config, tmp_path / "run", stop=stop_at(2 if name == "bfloat16" else 4))
    assert (
        json.loads((tmp_path / "run" / "config.json").read_text())["train"]["dtype"] == "bfloat16"
    )
    assert [record["step"] for record in metrics(tmp_path / "run", "train")] == [1, 2, 3, 4]


def test_finished_run_is_told_not_repeated(tiny, finished, monkeypatch):
    monkeypatch.setattr(job, "read_folder", None)  # nothing is even loaded
    before = content(finished)
    assert train(tiny.config(), finished) == (finished / "result.txt").read_text()
    assert content(finished) == before


def test_restart_moves_the_old_run_aside(tiny, finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    old = content(workdir)
    (tmp_path / "run.1").mkdir()  # as if from an earlier restart
    assert train(tiny.config(seed=5), workdir, restart=True, stop=stop_at(1)) is None
    assert content(tmp_path / "run.2") == old
    assert [r["step"] for r in metrics(workdir, "train")] == [1]
    assert json.loads((workdir / "config.json").read_text())["seed"] == 5


def test_another_start_encoder_under_the_same_name_is_noticed(tiny, tmp_path):
    """Resuming reads the start encoder again, which is most of the model in a run of an adapter."""
    folder = shutil.copytree(tiny.encoder, tmp_path / "encoder")
    config = tiny.config(encoder__init=str(folder))
    assert train(config, tmp_path / "run", stop=stop_at(2)) is None
    encoder = read_folder(str(folder))
    before = content(tmp_path / "run")
    write_folder(folder, encoder._replace(prompts=Prompts({"query": "the "})), card="")
    with pytest.raises(InputError, match=r"from another start encoder: the content of config\.enc"):
        train(config, tmp_path / "run")
    assert content(tmp_path / "run") == before
    write_folder(folder, encoder, card="")
    assert train(config, tmp_path / "run") is not None
