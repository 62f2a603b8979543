"""Writes files and folders atomically, and explains file system errors in one line.

All output of this package is written by these functions, so that a crash, a full disk or a second
process leaves either the old content or the new content, never a part of it.
"""

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import IO, Any

from selfdistill_jax.errors import InputError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Bytes of a cached folder's name without suffixes; file systems allow 255 with suffixes.
_LONGEST_NAME = 100
_LONGEST_SUFFIX = ".part.json"  # longest one added to an output's name during writing
_REASONS = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENAMETOOLONG: "the name is too long for the file system",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "is a folder; expected a file",
    errno.ENOENT: "no such file or folder",
    errno.EEXIST: "a file of that name already exists",
    errno.EIO: "the device reports an input/output error",
    errno.EFBIG: "the file is too large for the file system or the process's limit",
    errno.ELOOP: "a loop of symbolic links",
    errno.EMFILE: "too many open files",
    errno.ENFILE: "too many open files",
}


def expand(path: str | Path) -> Path:
    """Returns the path with a leading ``~`` replaced by the home folder.

    Raises:
      InputError: the home folder is unknown, or the path is not a valid file name.

    Example:
      >>> expand("runs/mine")
      PosixPath('runs/mine')
    """
    text = str(path)
    if "\0" in text:
        raise InputError(f"{text!r}: contains a null character; remove it from the path")
    try:
        text.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(text).decode(errors="backslashreplace")
        raise InputError(f"{shown}: the name is not valid UTF-8; rename the file") from None
    try:
        return Path(text).expanduser()
    except RuntimeError:  # no HOME and no entry in the user database, as in many containers
        raise InputError(
            f"{text}: the home folder is unknown; set HOME, or write the path without ~"
        ) from None


def reason(error: OSError) -> str:
    """Returns the reason of a file system error, in plain words."""
    return _REASONS.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__


def full_disk(error: BaseException) -> OSError | None:
    """Returns an OSError if a full disk caused a library's error, else None.

    array_record and tensorstore raise errors of their own that contain the system's message.

    Example:
      >>> full_disk(RuntimeError("write() failed: No space left on device"))
      OSError(28, 'No space left on device')
    """
    seen: BaseException | None = error
    while seen is not None:
        for number in NO_ROOM:
            if os.strerror(number) in str(seen):
                return OSError(number, os.strerror(number))
        seen = seen.__cause__ or seen.__context__
    return None


@contextlib.contextmanager
def explained(path: str | Path, purpose: str, advice: str) -> Generator[None]:
    """Replaces an `OSError` raised in the block by an `InputError` with a one-line message.

    Args:
      path: file or folder to name in the message, unless the error names a path below it.
      purpose: role of the file, such as "the run's folder".
      advice: remedy to suggest to the user.

    Raises:
      InputError: the block raised an `OSError`.

    Example:
      >>> with explained("/proc/x", "the output", "give another --output"):
      ...     Path("/proc/x").mkdir()
      Traceback (most recent call last):
      ...
      selfdistill_jax.errors.InputError: /proc/x: cannot write the output (no such ...
    """
    try:
        yield
    except OSError as error:
        where = error.filename if isinstance(error.filename, str) else path
        if not str(where).startswith(f"{path}{os.sep}"):
            where = path
        raise InputError(f"{where}: cannot write {purpose} ({reason(error)}); {advice}") from None


def try_output(path: Path, purpose: str) -> None:
    """Checks that an output file can be written, by writing a trial byte beside it.

    Call it before hours of computation. It removes the trial file and the folders that it made.

    Args:
      path: output file that will be written later.
      purpose: role of the file, such as "the run", for the message.

    Raises:
      InputError: the file's folder cannot be made, or no file of that name can be written.
    """
    with explained(path, purpose, "give a writable path"):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "", str(path))
        with made_folder(path.parent):
            _trial(path.with_name(path.name + _LONGEST_SUFFIX))
            _trial(_beside(path))


def _trial(path: Path) -> None:
    try:
        path.write_bytes(b"x")
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def made_folder(path: Path) -> Generator[None]:
    """Makes a folder and its parents; at the end removes the new ones that are still empty.

    Raises:
      OSError: a folder cannot be made.
    """
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the folder is not empty any more
            for folder in new:
                folder.rmdir()


def allocate(path: Path, size: int) -> None:
    """Reserves disk space for a file, so that writing it cannot fail half-way.

    Without it, writing to a memory map on a full disk would end the process by a signal (SIGBUS).

    Args:
      path: existing file.
      size: number of bytes to reserve, from the start of the file.

    Raises:
      OSError: the disk has too little space.
    """
    if size and hasattr(os, "posix_fallocate"):  # missing on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)


def check_room(folder: Path, size: int, purpose: str) -> None:
    """Checks that a folder's file system has enough space, by reserving it for a moment.

    Args:
      folder: existing folder.
      size: number of bytes that will be written.
      purpose: role of the data, for the message.

    Raises:
      InputError: the file system has too little space, or the folder cannot be written.
    """
    trial = folder / f".room-{os.getpid()}"
    advice = f"{size / 1e6:,.1f} MB are needed; free some space and run the same command again"
    with explained(folder, purpose, advice):
        try:
            trial.touch()
            allocate(trial, size)
        finally:
            with contextlib.suppress(OSError):
                trial.unlink()


@contextlib.contextmanager
def new_file(path: Path) -> Generator[IO[bytes]]:
    """Opens a temporary file that is renamed to ``path`` if the block ends without an error.

    Args:
      path: file to write; an existing one is replaced.

    Raises:
      OSError: the file cannot be written; an existing one is left unchanged.
    """
    temporary = _beside(path)
    try:
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file; a crash leaves either the old file or the new one."""
    with new_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file; a crash leaves either the old file or the new one."""
    write_text(path, json.dumps(value, indent=2) + "\n")


@contextlib.contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Generator[Path]:
    """Yields a temporary folder that is renamed to ``path`` if the block ends without an error.

    Args:
      path: folder to make.
      replace: whether to replace an existing folder. Otherwise an existing folder stays: two
        processes that fill the same cache write the same content, and the first one wins.

    Raises:
      OSError: the folder cannot be written; the temporary folder is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=path.parent))
    try:
        temporary.chmod(0o755)  # mkdtemp's 0700 would hide a model from other users
        yield temporary
        if replace:
            _take_place(temporary, path)
        else:
            try:
                os.rename(temporary, path)
            except OSError:
                if not path.is_dir():
                    raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _take_place(new: Path, path: Path) -> None:
    old = path.with_name(f".{path.name}.old")  # left by a crash between the renames
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.rename(path, old)
    os.rename(new, path)
    shutil.rmtree(old, ignore_errors=True)


def short_name(name: str) -> str:
    """Returns a name for a cached folder, cut so that suffixes still fit the file system's limit.

    Callers append a fingerprint, which distinguishes names that begin alike.

    >>> len(short_name("é" * 200).encode())
    100
    """
    return name.encode()[:_LONGEST_NAME].decode(errors="ignore")


def _beside(path: Path) -> Path:
    """Returns a temporary name in the same folder, so that a rename stays on one file system."""
    return path.with_name(f".new-{os.getpid()}-{abs(hash(path.name)) % 10**8}")
