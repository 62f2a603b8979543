"""Writes files and folders whole or not at all, and says in one line why the file system refuses.

Everything this package writes goes through here, so that a crash, a full disk or a second process
leaves the old content or the new one, never half of it.
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
# Bytes of a cached folder's own name; file systems allow 255, suffixes included.
_LONGEST_NAME = 100
_LONGEST_SUFFIX = ".part.json"  # that is added to an output's name while it is written
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
    errno.EEXIST: "a file of that name is already there",
    errno.EIO: "the device reports an input/output error",
    errno.EFBIG: "the file is too large for the file system or the process's limit",
    errno.ELOOP: "a loop of symbolic links",
    errno.EMFILE: "too many open files",
    errno.ENFILE: "too many open files",
}


def expand(path: str | Path) -> Path:
    """Returns the path with a leading ``~`` replaced by the home folder.

    Raises:
      InputError: the home folder is unknown, or the path is no text that can name a file.

    Example:
      >>> expand("runs/mine")
      PosixPath('runs/mine')
    """
    text = str(path)
    if "\0" in text:
        raise InputError(f"{text!r}: holds a null character, which no file name can")
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
    """Returns why the file system refused, in plain words."""
    return _REASONS.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__


def full_disk(error: BaseException) -> OSError | None:
    """Returns an OSError if a full disk caused a library's error, else None.

    array_record and tensorstore report it as an error of their own with the system's words in it.

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
    """Turns an `OSError` of the block into one line.

    Args:
      path: the file or folder to name; where the error names one below it, that one is shown.
      purpose: of the file, such as "the run's folder".
      advice: what to do about it.

    Raises:
      InputError: instead of the `OSError`.

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
    """Writes a trial byte beside an output file, before hours of work go into its content.

    Nothing is left behind, and no folder that was not there.

    Args:
      path: the file that will be written.
      purpose: of the file, such as "the run", for the message.

    Raises:
      InputError: its folder cannot be made, or no file of that name can be written.
    """
    with explained(path, purpose, "give a path that can be written"):
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
    """Makes a folder and its parents; at the end removes those of them that are still empty.

    Raises:
      OSError: one of them cannot be made.
    """
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it holds something now
            for folder in new:
                folder.rmdir()


def allocate(path: Path, size: int) -> None:
    """Reserves room on the disk for a file, so that writing it cannot fail half-way.

    A memory map of a file without room would end the process by a signal (SIGBUS).

    Args:
      path: an existing file.
      size: bytes from its begin.

    Raises:
      OSError: there is no room.
    """
    if size and hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)


def check_room(folder: Path, size: int, purpose: str) -> None:
    """Checks that a folder's file system has room, by reserving it for a moment.

    Args:
      folder: an existing folder.
      size: bytes that will be written.
      purpose: of them, for the message.

    Raises:
      InputError: it has not.
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
    """Opens a file that takes its name when the block ends without an error.

    Args:
      path: replaced if it exists.

    Raises:
      OSError: it cannot be written; the old file is left as it was.
    """
    temporary = _beside(path)
    try:
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file; a crash leaves the old file or the new one."""
    with new_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes JSON as `write_text` does."""
    write_text(path, json.dumps(value, indent=2) + "\n")


@contextlib.contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Generator[Path]:
    """Gives a temporary folder that becomes ``path`` when the block ends without an error.

    Args:
      path: the folder to make.
      replace: put it in place of a folder that is already there. Without it that folder stays:
        two processes that fill the same cache write the same content, and the first one wins.

    Raises:
      OSError: the folder cannot be written; nothing of it is left behind.
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
    old = path.with_name(f".{path.name}.old")  # a crash between the two renames leaves it
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.rename(path, old)
    os.rename(new, path)
    shutil.rmtree(old, ignore_errors=True)


def short_name(name: str) -> str:
    """Returns a name for a cached folder, cut so that suffixes still fit the file system.

    What follows it (a fingerprint) tells two names apart that begin alike.

    >>> len(short_name("é" * 200).encode())
    100
    """
    return name.encode()[:_LONGEST_NAME].decode(errors="ignore")


def _beside(path: Path) -> Path:
    """Returns a temporary name in the same folder, so that a rename stays on one file system."""
    return path.with_name(f".new-{os.getpid()}-{abs(hash(path.name)) % 10**8}")
