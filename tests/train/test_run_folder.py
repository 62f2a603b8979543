"""Tests that a run's folder belongs to one run, and that no file in it is partial or lost."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from selfdistill_jax.errors import InputError
from selfdistill_jax.io import write_json, write_text
from selfdistill_jax.train.run_folder import (
    environment,
    open_run,
    read_result,
)
from tests.tiny import content

CONFIG = {"seed": 0, "train": {"steps": 10, "rate": 1e-4}, "data": {"buckets": (16, 32), "x": ""}}


def test_the_same_config_opens_the_folder_again(tmp_path):
    open_run(tmp_path / "a" / "run", CONFIG, data="aa", restart=False)
    before = content(tmp_path)
    assert list(before) == ["a/run/config.json"]
    open_run(tmp_path / "a" / "run", CONFIG, data="aa", restart=False)
    assert content(tmp_path) == before


def test_differences_are_named(tmp_path):
    open_run(tmp_path, CONFIG, data="aa", restart=False)
    before = content(tmp_path)
    other = {"seed": 0, "train": {"steps": 20, "rate": 1e-4, "decay": "a"}, "data": {"x": "b"}}
    with pytest.raises(InputError, match=f"^{tmp_path} .*--workdir, or --restart") as caught:
        open_run(tmp_path, other, data="aa", restart=False)
    for difference in (
        "holds a run of another version",
        "only one of the two has data.buckets, train.decay; ",
        "data.x is '' there and 'b' here",
        "train.steps is 10 there and 20 here",
    ):
        assert difference in str(caught.value)
    assert content(tmp_path) == before


def test_another_loss_with_its_own_options_is_no_other_version(tmp_path):
    open_run(tmp_path, {"loss": {"name": "a", "margin": 1}}, data="aa", restart=False)
    message = "holds a run with another config: loss.name is 'a' there and 'b' here; give"
    with pytest.raises(InputError, match=message):
        open_run(tmp_path, {"loss": {"name": "b", "scale": 1}}, data="aa", restart=False)


def test_restart_takes_a_free_name(tmp_path):
    run = tmp_path / "run.v2"
    for seed in range(3):
        open_run(run, CONFIG | {"seed": seed}, data="aa", restart=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.v2", "run.v2.1", "run.v2.2"]
    seeds = [
        json.loads((p / "config.json").read_text())["seed"] for p in sorted(tmp_path.iterdir())
    ]
    assert seeds == [2, 0, 1]


def test_a_crash_in_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.txt"
    assert read_result(tmp_path) is None
    write_text(path, "old σ\n")

    def crash(*_):
        raise OSError("power failure")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(OSError, match="power failure"):
            write_text(path, "new\n")
    assert read_result(tmp_path) == "old σ\n"
    write_text(path, "new\n")
    write_json(tmp_path / "x.json", {"a": 1})
    assert content(tmp_path) == {"result.txt": b"new\n", "x.json": b'{\n  "a": 1\n}\n'}


def test_environment_names_the_commit(monkeypatch):
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    if head.returncode:
        pytest.skip("not a git checkout")
    assert environment()["commit"].removesuffix("-dirty") == head.stdout.strip()


def test_environment_without_git_or_a_package(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("selfdistill_jax.train.run_folder._PACKAGES", ("jax", "no-such-package"))
    got = environment(seed=3)
    assert (got["commit"], got["versions"]["no-such-package"], got["seed"]) == (None, None, 3)
    json.dumps(got)
