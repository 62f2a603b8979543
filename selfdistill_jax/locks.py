"""Lets one process at a time write into a folder or a file."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Generator
from pathlib import Path

from selfdistill_jax.errors import InputError
from selfdistill_jax.io import explained, made_folder, try_output

LOCK = ".lock"  # name of the lock file in a locked folder


@contextlib.contextmanager
def lock(path: Path, what: str) -> Generator[None]:
    """Holds a file's lock: of two processes that ask, the second is refused.

    The operating system drops the lock when its holder ends, however it ends, so a lock is never
    left behind. Where the file system has no locks there is none.

    Args:
      path: of the lock file, which is removed at the end; it names the holder.
      what: is locked, for the message: "runs/mine".

    Raises:
      InputError: another process holds it.
      OSError: the file cannot be written.
    """
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise InputError(
                f"{what}: another process is writing there ({holder}); wait for its end, or give "
                "another folder"
            ) from None
        except OSError:  # no locks on this file system
            break
        # The holder before us may have removed the file between our open and our lock.
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                break
        file.close()
    try:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


@contextlib.contextmanager
def locked_folder(folder: Path, purpose: str, advice: str) -> Generator[None]:
    """Makes a folder if need be and holds its `lock`, so that one process writes there at a time.

    Args:
      folder: to write into; removed at the end if it is empty then and was not there before.
      purpose: of the folder, for the message where it cannot be written.
      advice: what to do then.

    Raises:
      InputError: another process holds it, or the folder cannot be written.
    """
    with contextlib.ExitStack() as held:
        with explained(folder, purpose, advice):
            held.enter_context(made_folder(folder))
            held.enter_context(lock(folder / LOCK, str(folder)))
        yield


@contextlib.contextmanager
def locked_output(path: Path, purpose: str) -> Generator[None]:
    """Does for an output file what `locked_folder` does for a folder, after `try_output`.

    Raises:
      InputError: another process writes the file, or it cannot be written.
    """
    try_output(path, purpose)
    with contextlib.ExitStack() as held:
        with explained(path, purpose, "give a path that can be written"):
            held.enter_context(made_folder(path.parent))
            held.enter_context(lock(path.with_name(f".{path.name}.lock"), str(path)))
        yield
