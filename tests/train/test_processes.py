"""Tests how processes agree, with a stand-in for the other one (test_main has two real ones)."""

import numpy as np
import pytest

from selfdistill_jax.errors import InputError
from selfdistill_jax.train import processes
from selfdistill_jax.train.data import dataset
from tests.tiny import load_batches


@pytest.fixture
def other(monkeypatch):
    """Returns ``other(value)``, which sets the other process's value in the next gathering."""
    said = []

    def gather(own):
        return np.stack([own, said.pop(0)])

    monkeypatch.setattr(processes.jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes.multihost_utils, "process_allgather", gather)
    return said.append


def digest(content, monkeypatch):
    """Returns what `all_equal` sends for some content."""
    sent = []
    with monkeypatch.context() as patch:
        patch.setattr(
            processes.multihost_utils,
            "process_allgather",
            lambda own: sent.append(own) or np.stack([own]),
        )
        processes.all_equal(content)
    return sent[0]


def test_all_have_to_say_so(other):
    for own, theirs in ((True, True), (True, False), (False, True)):
        other(np.int32(theirs))
        assert processes.all_true(own) == (own and theirs)


def test_content_is_compared(other, monkeypatch):
    for theirs, equal in ((b"abc", True), (b"abd", False)):
        other(digest(theirs, monkeypatch))
        assert processes.all_equal(b"abc") == equal


def test_where_one_fails_all_end(other):
    def fail():
        raise InputError("mine")

    other(np.int32(True))
    assert processes.all_succeed(lambda: 7) == 7
    other(np.int32(False))
    with pytest.raises(InputError, match="another process failed; see its error message"):
        processes.all_succeed(lambda: 7)
    other(np.int32(True))
    with pytest.raises(InputError, match="mine"):
        processes.all_succeed(fail)


@pytest.mark.parametrize("error", [InputError, OSError, KeyError])
def test_whatever_fails_the_others_are_told(other, error):
    def fail():
        raise error("mine")

    other(np.int32(True))
    with pytest.raises(error, match="mine"):
        processes.all_succeed(fail)
    # The first value was taken: the other process received this one's, and does not wait.
    other(np.int32(False))
    assert not processes.all_true(True)


def test_of_the_first(other, monkeypatch):
    sent = []
    monkeypatch.setattr(processes.multihost_utils, "broadcast_one_to_all", sent.append)
    processes.broadcast_from_first(np.arange(3, dtype=np.int32), (3,))
    monkeypatch.setattr(processes.jax, "process_index", lambda: 1)
    processes.broadcast_from_first(None, (3,))
    assert [(array.tolist(), array.dtype) for array in sent] == [
        ([0, 1, 2], np.int32),
        ([0, 0, 0], np.int32),
    ]


def test_processes_that_read_other_texts(tiny, monkeypatch):
    monkeypatch.setattr(dataset, "all_equal", lambda content: b"tiny" in content)
    config = tiny.config()
    with pytest.raises(InputError, match=r"^tiny: the processes read different texts, or have"):
        load_batches(config)
