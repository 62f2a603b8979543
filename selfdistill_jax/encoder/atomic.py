"""Folders that appear whole or not at all."""

import os
import shutil
import tempfile
from pathlib import Path


def folder_beside(path: Path) -> Path:
    """A new folder to build what `take_place` will put at ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    new.chmod(0o755)  # mkdtemp's 0700 would hide the model from other users
    return new


def take_place(new: Path, path: Path) -> None:
    """Puts ``new`` at ``path``; a folder that is there is replaced."""
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.rename(path, old)
    os.rename(new, path)
    shutil.rmtree(old, ignore_errors=True)
