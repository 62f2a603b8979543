"""Writes the log of a run: ``metrics.jsonl``, and the numbers that a tracker receives."""

import json
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from selfdistill_jax.io import write_text
from selfdistill_jax.train.monitoring.trackers import TensorBoard, Tracker

METRICS = "metrics.jsonl"


class RunLog:
    """Appends records; a resumed run drops records past its checkpoint, so none is repeated.

    A thread opens the tracker and sends to it: TensorBoard's imports torch if that is installed,
    and the first step waited 2 to 4 s for it. An error of the thread is raised by the next record,
    or at the end.

    Args:
      workdir: the run's folder.
      step: the step that the run starts from; records of later steps are dropped.
      active: whether to write anything; True on the first process only.
      open_tracker: opens the tracker, or returns None; without it, TensorBoard's is opened.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        step: int,
        active: bool,
        open_tracker: Callable[[], Tracker | None] | None = None,
    ):
        self._file = None
        self._thread = ThreadPoolExecutor(1)
        self._sent: Future | None = None
        self._open_tracker = open_tracker or partial(TensorBoard, workdir, step)
        if not active:
            return
        path = workdir / METRICS
        if path.exists():
            kept = [line for line, record in _lines(path) if record["step"] <= step]
            write_text(path, "".join(kept))
        self._file = path.open("a", encoding="utf-8", buffering=1)

    @cached_property
    def _tracker(self) -> Tracker | None:
        return self._open_tracker()

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Appends one record; arrays become lists, numbers are also sent to the tracker."""
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
        if self._tracker is not None:
            self._tracker.write(numbers, step)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._thread.shutdown()
        tracker = self.__dict__.get("_tracker")
        if tracker is not None:
            tracker.close()
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
