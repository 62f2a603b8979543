"""What the peers' program does on a GPU, with a GPU's clock made up: there is none in CI."""

import json

import pytest

from benchmarks import jobs
from selfdistill_jax.data.tokenizer import Tokenizer
from tests.tiny import texts

torch = pytest.importorskip("torch", reason="the peers' side needs torch: make peers")
torch_sides = pytest.importorskip("benchmarks.torch_sides")


class Event:
    """Of `torch.cuda`: one more millisecond at each record."""

    clock = 0.0

    def __init__(self, *, enable_timing):
        assert enable_timing
        self.at = None

    def record(self):
        Event.clock += 1.0
        self.at = Event.clock

    def synchronize(self):
        assert self.at is not None

    def elapsed_time(self, end):
        return end.at - self.at


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch_sides, "CUDA", True)  # its arrays stay on the CPU
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 5e9)


def test_a_run_on_a_gpu(tiny, tmp_path, monkeypatch, gpu):
    """Updates are timed by events, read at the end, from the first one's place on the host."""
    rows = jobs.make_triplets(str(tiny.collection), 12, 0)
    settings = {
        "model": str(tiny.encoder),
        "triplets": str(jobs.write_rows(tmp_path / "triplets.jsonl", rows)),
        "output": str(tmp_path),
        "query_length": 8,
        "document_length": 12,
        "steps": 3,
        "batch_size": 4,
        "precision": "float32",
        "dropout": False,
        **jobs.OPTIMIZER,
    }
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr("sys.argv", ["torch_sides", "released", json.dumps(settings)])
    try:
        torch_sides.main()
    finally:
        torch.set_float32_matmul_precision(before)
    record = json.loads((tmp_path / "record.json").read_text())
    first, second, third = record["times"]
    assert (second - first, third - second) == (pytest.approx(1e-3), pytest.approx(1e-3))
    assert record["device_gb"] == 5.0
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert Tokenizer(tmp_path / "model").encode([texts(0, 0)[0]], limit=8)
