"""Locks folders and files, so that one process at a time writes to them."""

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
    """Holds the lock of a file during the block; a second process that wants it is refused.

    The operating system releases the lock when its holder ends, however it ends, so that no stale
    lock is left. On a file system without locks, the block runs unlocked.

    Args:
      path: lock file, which names the holder and is removed at the end.
      what: name of the locked folder or file, such as "runs/mine", for the message.

    Raises:
      InputError: another process holds the lock.
      OSError: the lock file cannot be written.
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
                f"{what}: another process is writing to it ({holder}); wait until that one "
                "ends, or give another path"
            ) from None
        except OSError:  # the file system has no locks
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
    """Makes a folder if it is missing and holds its `lock` during the block.

    Args:
      folder: folder to write into; removed at the end if it is new and still empty.
      purpose: role of the folder, for the message if it cannot be written.
      advice: remedy to suggest in that message.

    Raises:
      InputError: another process holds the lock, or the folder cannot be written.
    """
    with contextlib.ExitStack() as held:
        with explained(folder, purpose, advice):
            held.enter_context(made_folder(folder))
            held.enter_context(lock(folder / LOCK, str(folder)))
        yield


@contextlib.contextmanager
def locked_output(path: Path, purpose: str) -> Generator[None]:
    """Checks an output file by `try_output`, makes its folder and holds the file's `lock`.

    Raises:
      InputError: another process holds the lock, or the file cannot be written.
    """
    try_output(path, purpose)
    with contextlib.ExitStack() as held:
        with explained(path, purpose, "give a writable path"):
            held.enter_context(made_folder(path.parent))
            held.enter_context(lock(path.with_name(f".{path.name}.lock"), str(path)))
        yield
