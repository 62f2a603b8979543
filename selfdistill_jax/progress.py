"""Shows the progress of a long loop: a bar on a terminal, otherwise a log line every 15 s."""

import contextlib
import logging
import sys
import time
from typing import Any

from absl import logging as absl_logging
from tqdm import tqdm

# This package has its own logger, so that commands can show its messages without the hundred lines
# that orbax logs for each checkpoint.
LOG = logging.getLogger("selfdistill_jax")
_LOG_SECONDS = 15


def show_log() -> None:
    """Prints this package's log to stderr as plain lines, and absl's log from warnings up."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    LOG.handlers = [handler]
    LOG.setLevel(logging.INFO)
    LOG.propagate = False


class Progress:
    """Counts the items of a loop and shows the count; a context manager.

    Args:
      label: name of the loop; if empty, nothing is shown.
      total: number of items; None if it is unknown.
      unit: name of the items, such as "texts".
      start: number of items that are already done, if the loop is resumed.
    """

    def __init__(self, label: str, total: int | None, *, unit: str, start: int = 0):
        self._label, self._total, self._unit = label, total, unit
        self._done, self._logged = start, time.monotonic()
        terminal = label and sys.stderr.isatty()
        self._bar = (
            tqdm(desc=label, total=total, initial=start, unit=unit, dynamic_ncols=True)
            if terminal
            else None
        )
        self._began, self._start = time.monotonic(), start

    @classmethod
    def going_on(
        cls, progress: "str | Progress", total: int, *, unit: str
    ) -> contextlib.AbstractContextManager["Progress"]:
        """Returns a new `Progress` with the given label, or the given one, which stays open."""
        if isinstance(progress, str):
            return cls(progress, total, unit=unit)
        return contextlib.nullcontext(progress)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, items: int, **values: str) -> None:
        """Adds ``items`` to the count; ``values`` are shown beside it."""
        self._done += items
        if self._bar is not None:
            self._bar.set_postfix(values, refresh=False)
            self._bar.update(items)
            return
        now = time.monotonic()
        if not self._label:
            return
        if now - self._logged >= _LOG_SECONDS or self._done == self._total:
            self._logged = now
            if self._total is None:
                LOG.info("%s: %d %s", self._label, self._done, self._unit)
                return
            rate = (self._done - self._start) / max(now - self._began, 1e-9)
            left = (self._total - self._done) / max(rate, 1e-9)
            shown = "".join(f", {name} {value}" for name, value in values.items())
            LOG.info(
                "%s: %d of %d %s%s, %.0f s left",
                self._label,
                self._done,
                self._total,
                self._unit,
                shown,
                left,
            )
