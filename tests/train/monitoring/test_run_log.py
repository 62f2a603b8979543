"""Tests the records that a run writes, and those that a resumed run keeps."""

import struct
from concurrent.futures import wait

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from selfdistill_jax.train.monitoring.run_log import METRICS, RunLog, read_metrics


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


def test_other_processes_write_nothing(tmp_path):
    log = RunLog(tmp_path, step=3, active=False)
    log.write("train", 4, {"loss": 1.0})
    log.close()
    assert list(tmp_path.iterdir()) == []
