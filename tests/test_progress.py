"""Tests progress lines as they appear in a log."""

import logging

import pytest

from selfdistill_jax import progress
from selfdistill_jax.progress import LOG, Progress


@pytest.fixture
def lines(monkeypatch):
    """Returns the logged lines; each look at the clock advances it by ten seconds."""
    seconds = iter(range(0, 10_000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(seconds)))
    monkeypatch.setattr(progress, "_LOG_SECONDS", 5)
    found = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    monkeypatch.setattr(LOG, "handlers", [handler])
    monkeypatch.setattr(LOG, "propagate", False)
    before = LOG.level
    LOG.setLevel(logging.INFO)  # also clears the logger's cached level
    yield found
    LOG.setLevel(before)


def count(label, total):
    with Progress(label, total, unit="texts") as bar:
        for _ in range(2):
            bar.update(3, loss="0.5")


def test_progress_says_how_much_is_done_of_what(lines):
    count("", 6)
    assert lines == []
    count("Reading", None)
    assert lines == ["Reading: 3 texts", "Reading: 6 texts"]
    count("Dev", 6)
    assert lines[2].startswith("Dev: 3 of 6 texts, loss 0.5, ")
    assert lines[3] == "Dev: 6 of 6 texts, loss 0.5, 0 s left"
