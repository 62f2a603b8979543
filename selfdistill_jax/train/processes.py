"""Coordinates the processes of a run: what one does for all of them, or before the others."""

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from selfdistill_jax.errors import InputError

Made = TypeVar("Made")


def is_first() -> bool:
    """Returns whether this process is the one that writes shared files."""
    return jax.process_index() == 0


def wait(what: str) -> None:
    """Waits until all processes call this function."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def all_true(yes: bool) -> bool:
    """Returns whether ``yes`` holds on every process; all processes must call it."""
    if jax.process_count() == 1:
        return yes
    return bool(np.all(multihost_utils.process_allgather(np.int32(yes))))


def all_equal(content: bytes) -> bool:
    """Returns whether every process has the same ``content``; all processes must call it."""
    if jax.process_count() == 1:
        return True
    own = np.frombuffer(hashlib.sha256(content).digest()[:8], np.uint32)
    return bool((multihost_utils.process_allgather(own) == own).all())


def all_succeed(make: Callable[[], Made]) -> Made:
    """Returns ``make()``, called on every process; if it fails on one, all raise an error.

    Raises:
      InputError: ``make`` failed on another process.
      Exception: the error of ``make`` on this process.
    """
    made: Any = None
    failure: Exception | None = None
    try:
        made = make()
    except Exception as error:  # of any type, or the other processes would wait for this one
        failure = error
    if not all_true(failure is None):
        raise failure or InputError("another process failed; see its error message")
    return made


def broadcast_from_first(array: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the first process's int32 array on every process.

    Args:
      array: int32 on the first process; ignored on the others, where it may be None.
      shape: shape of the first process's array.
    """
    if jax.process_count() == 1:
        return array
    own = array if is_first() else np.zeros(shape, np.int32)
    return np.asarray(multihost_utils.broadcast_one_to_all(own))


def on_first(make: Callable[[], Made]) -> Made | None:
    """Calls ``make`` on the first process, while the others wait.

    If it fails, all processes end, each with a message. Otherwise the others would wait minutes for
    a process that is gone, until the coordinator times out.

    Returns:
      The result of ``make`` on the first process, None on all others.

    Raises:
      InputError: ``make`` failed; raised on the other processes.
      Exception: the error of ``make``; raised on the first process.
    """
    made, failure = None, None
    if is_first():
        try:
            made = make()
        except Exception as error:
            failure = error
    if jax.process_count() > 1:
        failed = multihost_utils.broadcast_one_to_all(np.int32(failure is not None))
        if failed and not is_first():
            raise InputError("process 0 failed; see its error message")
    if failure is not None:
        raise failure
    return made


def first_then_rest(make: Callable[[], Made]) -> Made:
    """Returns ``make()`` on every process; the first fills the caches before the others read."""
    made: Any = on_first(make)
    return made if is_first() else make()
