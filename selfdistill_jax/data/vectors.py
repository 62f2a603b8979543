"""A file of vectors that grows shard by shard, and goes on where it was left."""

import json
import os
from pathlib import Path

import numpy as np

from selfdistill_jax.errors import InputError


class VectorFile:
    """An array of numpy's format (.npy), written in place and named when it is whole.

    Until then it lies beside its place, hidden, with a note of how many rows are there: memory
    holds one shard, and what was written outlives an interruption.

    Args:
      path: where the file is to be.
      rows, dimensions: of the whole array, which is float32.
      of: fingerprint of what the vectors are made from.

    Raises:
      InputError: what lies there is of something else, or damaged.

    Attributes:
      done: rows that are there.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp()) / "vectors.npy"
      >>> VectorFile(path, rows=3, dimensions=2, of="a").add(np.ones((2, 2)))
      >>> again = VectorFile(path, rows=3, dimensions=2, of="a")
      >>> again.done
      2
      >>> again.add(np.zeros((1, 2)))
      >>> again.finish()
      >>> np.load(path).shape
      (3, 2)
    """

    def __init__(self, path: Path, *, rows: int, dimensions: int, of: str):
        self._path = path
        self._part = path.with_name(f".{path.name}.part")
        self._note = path.with_name(f".{path.name}.part.json")
        self._facts = {"of": of, "rows": rows, "dimensions": dimensions}
        self.done = 0
        if self._part.is_file() and self._note.is_file():
            self._array = self._open()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._array = np.lib.format.open_memmap(
                self._part, mode="w+", dtype=np.float32, shape=(rows, dimensions)
            )
            self._write_note()

    def add(self, vectors: np.ndarray) -> None:
        """The next rows."""
        self._array[self.done : self.done + len(vectors)] = vectors
        self._array.flush()
        self.done += len(vectors)
        self._write_note()

    def finish(self) -> None:
        """Gives the file its name.

        Raises:
          ValueError: rows are missing.
        """
        if self.done != self._facts["rows"]:
            raise ValueError(f"{self.done} of {self._facts['rows']} rows")
        del self._array
        os.replace(self._part, self._path)
        self._note.unlink()

    def _open(self) -> np.ndarray:
        start_anew = f"delete {self._note.name} to start anew"
        try:
            note = json.loads(self._note.read_text())
            self.done = note.pop("done")
            array = np.lib.format.open_memmap(self._part, mode="r+")
        except (ValueError, KeyError, OSError, EOFError) as error:
            raise InputError(f"{self._note}: damaged ({error}); {start_anew}") from None
        if note != self._facts:
            raise InputError(
                f"{self._part}: the beginning of something else, for the texts or the model have "
                f"changed; {start_anew}"
            )
        return array

    def _write_note(self) -> None:
        new = self._note.with_suffix(".new")
        new.write_text(json.dumps({**self._facts, "done": self.done}))
        os.replace(new, self._note)
