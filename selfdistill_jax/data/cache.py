"""Locates the cache of prepared data, and writes and reads its folders."""

import os
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from selfdistill_jax import io
from selfdistill_jax.errors import InputError
from selfdistill_jax.progress import LOG

_ADVICE = (
    "set XDG_CACHE_HOME (or config.data.cache, in training) to a writable folder with enough space"
)


def cache_folder(folder: str = "") -> Path:
    """Returns the given folder, or ``selfdistill_jax`` in the user's cache (``XDG_CACHE_HOME``).

    Raises:
      InputError: no folder is given, ``XDG_CACHE_HOME`` is unset, and there is no home folder.
    """
    if folder:
        return io.expand(folder).resolve()
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return io.expand(base) / "selfdistill_jax"
    try:
        return Path.home() / ".cache" / "selfdistill_jax"
    except RuntimeError:  # no HOME and no entry in the user database, as in many containers
        raise InputError(f"no home folder for the cache of prepared data; {_ADVICE}") from None


@contextmanager
def new_folder(path: Path) -> Generator[Path]:
    """Yields a temporary folder that becomes ``path`` at the end, as `io.new_folder` does.

    Raises:
      InputError: the cache cannot be written.
    """
    with io.explained(path, "prepared data", _ADVICE), io.new_folder(path) as new:
        yield new


@contextmanager
def new_cache_file(path: Path) -> Generator[IO[bytes]]:
    """Opens a temporary file that becomes ``path`` at the end; makes its folder first.

    Raises:
      InputError: the cache cannot be written.
    """
    with io.explained(path, "prepared data", _ADVICE):
        path.parent.mkdir(parents=True, exist_ok=True)
        with io.new_file(path) as file:
            yield file


@contextmanager
def reports_damaged_cache(folder: Path) -> Generator[None]:
    """Reports any error raised while a folder of the cache is read as damage of that folder.

    Raises:
      InputError: names the folder and says what to do.
    """
    try:
        yield
    except PermissionError as error:
        where = error.filename or folder
        raise InputError(f"{where}: cannot be read ({io.reason(error)}); {_ADVICE}") from None
    except (
        OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile
    ) as error:  # fmt: skip
        raise InputError(
            f"{folder}: damaged ({type(error).__name__}: {error}); delete the folder; the next "
            "run builds it again"
        ) from error


_ARRAY = "array.npy"


def save_array(folder: Path, array: np.ndarray) -> None:
    """Writes an array to a new folder of the cache; if that fails, only logs a warning."""
    try:
        with new_folder(folder) as new:
            np.save(new / _ARRAY, array)
    except InputError as error:  # the run itself can continue
        LOG.warning("%s; the next run computes it again", error)


def move_array(folder: Path, file: Path) -> None:
    """Makes a .npy file of the cache the array of a new folder.

    Raises:
      InputError: the cache cannot be written.
    """
    with new_folder(folder) as new:
        file.rename(new / _ARRAY)


def load_array(folder: Path) -> np.ndarray:
    """Returns a cached array, memory-mapped.

    Raises:
      InputError: the folder is damaged.
    """
    with reports_damaged_cache(folder):
        return np.load(folder / _ARRAY, mmap_mode="r")
