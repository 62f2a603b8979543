"""Where prepared data is kept, and how a folder there comes into being whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selfdistill_jax.errors import InputError


def cache_folder(folder: str = "") -> Path:
    """The given folder, or ``selfdistill_jax`` in the user's cache (``XDG_CACHE_HOME``)."""
    if folder:
        return Path(folder).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "selfdistill_jax"


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Gives a temporary folder that becomes ``path`` at the end; a failure leaves nothing behind.

    When two processes make the same folder, the first to finish wins; both hold the same content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        try:
            os.rename(temporary, path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """What fails while a folder of the cache is read means that the folder is damaged.

    Raises:
      InputError: names the folder and says what to do.
    """
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(
            f"{folder}: damaged ({type(error).__name__}: {error}); delete the folder, which is "
            "made anew by the next run"
        ) from error
