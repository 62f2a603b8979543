"""Tests that a run refuses wrong settings, data and folders before it changes anything."""

import shutil

import pytest

from selfdistill_jax.errors import InputError
from selfdistill_jax.losses import LOSSES
from tests.tiny import content, train

pytestmark = pytest.mark.usefixtures("undrawn")


def test_changed_data_are_noticed_in_a_finished_run(tiny, finished, tmp_path):
    before = content(finished)
    changed = shutil.copytree(tiny.collection, tmp_path / "tiny")
    with (changed / "queries.jsonl").open("a") as file:
        file.write('{"_id": "new", "text": "new"}\n')
    # The config has the same name for it, as for a file edited in place.
    original = tiny.collection.rename(tmp_path / "original")
    try:
        changed.rename(tiny.collection)
        with pytest.raises(InputError, match="holds a run with other data"):
            train(tiny.config(), finished)
    finally:
        shutil.rmtree(tiny.collection)
        original.rename(tiny.collection)
    assert content(finished) == before


def test_folder_of_another_run_is_refused(tiny, finished, tmp_path):
    before = content(finished)
    with pytest.raises(InputError) as caught:
        train(tiny.config(seed=1, train__steps=13), finished)
    message = str(caught.value)
    assert "seed is 0 there and 1 here" in message
    assert "train.steps is 12 there and 13 here" in message
    assert message.count(" there and ") == 2
    assert content(finished) == before
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match="the folder is not empty and holds no run"):
        train(tiny.config(), tmp_path)
    assert list(content(tmp_path)) == ["letter.txt"]


def test_nothing_is_made_for_wrong_input(tiny, tmp_path):
    for wrong in (
        {"train__batch_size": 12},
        {"loss__error": "l3"},
        {"train__decay": "fast"},
        {"data__dataset": str(tmp_path / "none")},
        {"encoder__init": str(tmp_path / "none")},
        {"data__document_length": 15},
        {"encoder__max_length": 17},
        {"encoder__max_length": -1},
        {"train__batch_size": 32},  # of only 24 triplets
        {"data__negatives": "hard"},
        {"train__dtype": "float16"},
        {"train__steps": 0},
        {"seed": -1},
        {"train__learning_rate": -0.1},
        {"train__clip_norm": -1.0},
        {"train__patience": -1},
        {"evaluation__depth": 0},
        {"train__micro_batches": 0},
        {"train__micro_batches": 3},
        {"train__target": "teacher"},
        {"train__target_decay": 1.5},
        {"encoder__adapter": "dora"},
        {"encoder__adapter_rank": 0},
        {"encoder__adapter_alpha": 0},
        {"encoder__adapter_targets": ()},
        {"encoder__adapter_targets": ("query", "query")},
        {"encoder__adapter_targets": ("querry",)},
        {"train__remat": "all"},
        {"train__attention": "flash"},
        {"train__attention": "cudnn"},  # on a CPU
        {"train__attention": "pallas"},
        {"train__attention": "xla", "encoder__dropout": "source"},
        {"encoder__dropout": "some"},
        {"encoder__pooling": "first"},
        {"encoder__query_prompt": "mabo tiri lenz omsk brno the the"},  # queries have 8 tokens
        {"train__dimensions": (16,)},  # the encoder's own size
        {"train__dimensions": (4, 8)},
        {"train__dimensions": (8, 8)},
        {"train__dimensions": (8, 0)},
        {"train__dimensions": ("8",)},
    ):
        with pytest.raises(InputError):
            train(tiny.config(**wrong), tmp_path / "run")
        # A corrected command could not use a folder that holds the wrong config.
        assert not (tmp_path / "run").exists(), wrong


def test_target_of_a_loss_without_one_is_refused(tiny, tmp_path):
    for target in ("detached", "ema", "start"):
        with pytest.raises(InputError, match=rf"config.train.target is '{target}'; the loss 'tri"):
            train(tiny.config("triplet", train__target=target), tmp_path / "run")
        with pytest.raises(InputError, match="no option that compares documents is set"):
            train(tiny.config("softmax", train__target=target), tmp_path / "run")


def test_own_loss_that_the_step_cannot_call_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(LOSSES, "own", lambda q, p, n, *, where=None: 0.0)
    config = tiny.config()
    config.loss = {"name": "own"}
    with pytest.raises(InputError, match="the loss 'own' has no parameter 'axis_name'"):
        train(config, tmp_path / "run")
    monkeypatch.setitem(LOSSES, "own", lambda q, p, n, *, where=None, axis_name=None: q[:, 0])
    with pytest.raises(InputError, match=r"returns shape \(2,\); expected a scalar"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
