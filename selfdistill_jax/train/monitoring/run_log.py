"""Writes the log of a run: ``metrics.jsonl`` and TensorBoard events."""

import functools
import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from selfdistill_jax.io import write_text

METRICS = "metrics.jsonl"


class RunLog:
    """Appends records; a resumed run drops records past its checkpoint, so none is repeated.

    A thread writes those of TensorBoard: the first one imports torch if that is installed, and the
    first step waited 2 to 4 s for it. An error of the thread is raised by the next record, or at
    the end.

    Args:
      workdir: the run's folder.
      step: the step that the run starts from; records of later steps are dropped.
      active: whether to write anything; True on the first process only.
    """

    def __init__(self, workdir: Path, *, step: int, active: bool):
        self._file = None
        self._thread = ThreadPoolExecutor(1)
        self._sent: Future | None = None
        self._tensorboard: dict[str, Any] = {
            "logdir": str(workdir / "tensorboard"),
            "purge_step": step + 1 if step else None,
        }
        if not active:
            return
        path = workdir / METRICS
        if path.exists():
            kept = [line for line, record in _lines(path) if record["step"] <= step]
            write_text(path, "".join(kept))
        self._file = path.open("a", encoding="utf-8", buffering=1)

    @functools.cached_property
    def _events(self):
        import tensorboardX

        return tensorboardX.SummaryWriter(**self._tensorboard)

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Appends one record; arrays become lists, numbers are also sent to TensorBoard."""
        if self._file is None:
            return
        values = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}
        record = {"kind": kind, "step": step, "time": round(time.time(), 3), **values}
        self._file.write(json.dumps(record) + "\n")
        numbers = {f"{kind}/{k}": v for k, v in values.items() if isinstance(v, float)}
        if self._sent is not None and self._sent.done():
            self._sent.result()
        self._sent = self._thread.submit(self._send, numbers, step, self._sent)

    def _send(self, numbers: dict[str, float], step: int, before: Future | None) -> None:
        if before is not None:
            before.result()  # else a record added meanwhile would hide its error
        for name, value in numbers.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._thread.shutdown()
        if "_events" in self.__dict__:
            self._events.close()
        if self._sent is not None:
            self._sent.result()


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """Returns all records of a run."""
    return [record for _, record in _lines(workdir / METRICS)]


def _lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n"):
            break  # the process died while writing it
        lines.append((line, json.loads(line)))
    return lines
