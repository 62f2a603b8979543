"""Tests the records that a run writes, and those that a resumed run keeps."""

import struct
import sys
from concurrent.futures import wait
from functools import partial

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from selfdistill_jax.errors import InputError
from selfdistill_jax.train.monitoring.run_log import METRICS, RunLog, read_metrics
from selfdistill_jax.train.monitoring.trackers import check_tracker, open_tracker


def write(workdir, steps, *, begin=0):
    log = RunLog(workdir, step=begin, active=True)
    for step in steps:
        log.write("train", step, {"loss": step / 2, "quantiles": np.float32([0.5, step])})
    log.close()


def events(workdir):
    """Yields all TensorBoard events of a folder, oldest file first."""
    for path in sorted((workdir / "tensorboard").iterdir(), key=lambda p: p.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def test_records(tmp_path):
    write(tmp_path, [1, 2])
    first, second = read_metrics(tmp_path)
    assert abs(first.pop("time") - second.pop("time")) < 60
    assert first == {"kind": "train", "step": 1, "loss": 0.5, "quantiles": [0.5, 1.0]}
    assert second == {"kind": "train", "step": 2, "loss": 1.0, "quantiles": [0.5, 2.0]}
    scalars = [(e.step, v.tag, v.simple_value) for e in events(tmp_path) for v in e.summary.value]
    assert scalars == [(1, "train/loss", 0.5), (2, "train/loss", 1.0)]


def test_a_record_is_on_disk_before_the_next(tmp_path):
    log = RunLog(tmp_path, step=0, active=True)
    log.write("dev", 0, {"nDCG@10": 0.25})
    assert read_metrics(tmp_path)[0]["nDCG@10"] == 0.25
    log.close()


def test_records_past_the_checkpoint_are_dropped(tmp_path):
    write(tmp_path, [1, 2, 3, 4])
    write(tmp_path, [3, 4, 5], begin=2)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]
    # TensorBoard itself drops records newer than such a mark.
    starts = [e.step for e in events(tmp_path) if e.session_log.status == e.session_log.START]
    assert starts == [3]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_half_a_line_is_dropped(tmp_path):
    write(tmp_path, [1, 2])
    path = tmp_path / METRICS
    path.write_text(path.read_text() + '{"kind": "train", "st')
    assert len(read_metrics(tmp_path)) == 2
    write(tmp_path, [3], begin=2)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("at", ["the end", "the next record"])
def test_what_tensorboard_cannot_write_is_told(tmp_path, monkeypatch, at):
    def fail(*given):
        raise OSError("no space left")

    log = RunLog(tmp_path, step=0, active=True)
    monkeypatch.setattr(log, "_send", fail)
    log.write("train", 1, {"loss": 1.0})
    wait([log._sent])
    with pytest.raises(OSError, match="no space left"):
        log.close() if at == "the end" else log.write("train", 2, {"loss": 1.0})
    log._file.close()
    assert read_metrics(tmp_path)[0]["loss"] == 1.0


class Wandb:
    """Replaces the wandb library, and records its calls."""

    def __init__(self):
        self.runs = []

    def init(self, **options):
        self.runs.append({"logged": [], "finished": False, **options})
        return self

    def define_metric(self, name, step_metric):
        self.runs[-1]["step"] = (name, step_metric)

    def log(self, numbers):
        self.runs[-1]["logged"].append(numbers)

    def finish(self):
        self.runs[-1]["finished"] = True


def test_weights_and_biases_gets_the_same_numbers(tmp_path, monkeypatch):
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    opened = partial(open_tracker, "wandb", tmp_path, {"seed": 3}, begin=0)
    for steps in ([1, 2], [3]):  # a run, and the same run resumed
        log = RunLog(tmp_path, step=steps[0] - 1, active=True, open_tracker=opened)
        for step in steps:
            log.write("train", step, {"loss": step / 2, "ended": "at once"})
        log.close()
    one, two = wandb.runs
    assert [one["logged"], two["logged"]] == [
        [{"train/loss": 0.5, "training_step": 1}, {"train/loss": 1.0, "training_step": 2}],
        [{"train/loss": 1.5, "training_step": 3}],
    ]
    assert one["step"] == ("*", "training_step")
    assert one["id"] == two["id"]
    assert (one["resume"], one["config"], one["finished"]) == ("allow", {"seed": 3}, True)
    assert len(read_metrics(tmp_path)) == 3


@pytest.mark.parametrize("folder_of_a_run", [False, True])
def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch, folder_of_a_run):
    if folder_of_a_run:  # which Python takes for a package without a file
        (tmp_path / "wandb").mkdir()
        monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=r"the package is not installed; run `pip install wandb`"):
        check_tracker("wandb")
    check_tracker("tensorboard")


def test_weights_and_biases_needs_a_key_before_the_run(tmp_path, monkeypatch):
    (tmp_path / "wandb.py").write_text("class api:\n    api_key = None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=r"there is no key for it; run `wandb login`, or set"):
        check_tracker("wandb")
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_API_KEY", "k")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            check_tracker("wandb")
    sys.modules.pop("wandb")


def test_without_a_tracker_only_the_metrics_are_written(tmp_path):
    opened = partial(open_tracker, "none", tmp_path, {}, begin=0)
    log = RunLog(tmp_path, step=0, active=True, open_tracker=opened)
    log.write("train", 1, {"loss": 1.0})
    log.close()
    assert [path.name for path in tmp_path.iterdir()] == [METRICS]


def test_other_processes_write_nothing(tmp_path):
    log = RunLog(tmp_path, step=3, active=False)
    log.write("train", 4, {"loss": 1.0})
    log.close()
    assert list(tmp_path.iterdir()) == []
