"""What one process of a run does for all of them, or before the others."""

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from selfdistill_jax.errors import InputError

Made = TypeVar("Made")


def is_first() -> bool:
    """Whether this process writes what all share."""
    return jax.process_index() == 0


def wait(what: str) -> None:
    """Until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def all_true(yes: bool) -> bool:
    """Whether ``yes`` holds on every process; all of them ask."""
    if jax.process_count() == 1:
        return yes
    return bool(np.all(multihost_utils.process_allgather(np.int32(yes))))


def all_equal(content: bytes) -> bool:
    """Whether every process has the same; all of them ask."""
    if jax.process_count() == 1:
        return True
    own = np.frombuffer(hashlib.sha256(content).digest()[:8], np.uint32)
    return bool((multihost_utils.process_allgather(own) == own).all())


def all_succeed(make: Callable[[], Made]) -> Made:
    """``make()`` of every process; where it fails on one, all end.

    Raises:
      InputError: of this process, or that another one had.
    """
    made: Any = None
    failure = None
    try:
        made = make()
    except InputError as error:
        failure = error
    if not all_true(failure is None):
        raise failure or InputError("another process could not go on; its message says why")
    return made


def broadcast_from_first(array: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The first process's int32 array, on every process; what the others bring does not count.

    Args:
      array: int32 on the first process; ignored on the others, where it may be None.
      shape: of the first one's.
    """
    if jax.process_count() == 1:
        return array
    own = array if is_first() else np.zeros(shape, np.int32)
    return np.asarray(multihost_utils.broadcast_one_to_all(own))


def on_first(make: Callable[[], Made]) -> Made | None:
    """Calls ``make`` on the first process; the others wait for its end.

    Where it fails all processes end, each with a message. Without that the others wait for one that
    is gone until the coordinator gives them up: minutes.

    Returns:
      What it gave, on the first process; None on the others.

    Raises:
      InputError: on the others, where it failed.
      Exception: whatever it raised, on the first process.
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
            raise InputError("process 0 could not go on; its message says why")
    if failure is not None:
        raise failure
    return made


def first_then_rest(make: Callable[[], Made]) -> Made:
    """``make()`` of every process: one fills the caches, then the others find them filled."""
    made: Any = on_first(make)
    return made if is_first() else make()
