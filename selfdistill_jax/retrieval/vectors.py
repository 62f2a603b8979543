"""A .npy file of vectors that is written shard by shard and can be resumed."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from selfdistill_jax import io
from selfdistill_jax.errors import InputError
from selfdistill_jax.retrieval.quantize import PRECISIONS, RANGED, quantize, ranges_of, width


class VectorFile:
    """Writes vectors into a .npy file, which gets its name when it is complete.

    Until then, the rows are in a hidden file in the same folder, beside a note of how many rows are
    written. So only one shard is in memory, and written rows survive an interruption.

    Args:
      path: path of the complete file.
      rows, dimensions: number and size of the vectors.
      of: fingerprint of the model and the texts that the vectors are made from.
      precision: precision of the written numbers, a key of `PRECISIONS`.
      ranges: see `quantize`; None takes the ranges of the first vectors added, since rows are
        written before the last vectors are known.

    Raises:
      InputError: an unfinished file at that path was made from something else, or is damaged.

    Attributes:
      done: number of rows written.
      ranges: ``[2, D]``, or None while unknown.

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

    def __init__(
        self,
        path: Path,
        *,
        rows: int,
        dimensions: int,
        of: str,
        precision: str = "float32",
        ranges: np.ndarray | None = None,
    ):
        self._path = path
        self._part = path.with_name(f".{path.name}.part")
        self._note = path.with_name(f".{path.name}.part.json")
        self._facts: dict[str, Any] = {
            "of": of,
            "rows": rows,
            "dimensions": dimensions,
            "precision": precision,
        }
        self.done, self.ranges = 0, ranges
        if self._part.is_file() and self._note.is_file():
            self._array = self._open()
        else:
            self._array = self._create(PRECISIONS[precision], (rows, width(dimensions, precision)))
            self._write_note()

    @staticmethod
    def begun(path: Path) -> bool:
        """Returns whether there is an unfinished file for that path."""
        return path.with_name(f".{path.name}.part").is_file()

    def add(self, vectors: np.ndarray) -> None:
        """Writes the next rows, given as float32."""
        precision = self._facts["precision"]
        if self.ranges is None and precision in RANGED:
            self.ranges = ranges_of(vectors)
        rows = quantize(vectors, precision, ranges=self.ranges)
        self._array[self.done : self.done + len(rows)] = rows
        self._array.flush()
        self.done += len(vectors)
        self._write_note()

    def finish(self) -> None:
        """Gives the complete file its name.

        Raises:
          ValueError: rows are missing.
        """
        if self.done != self._facts["rows"]:
            raise ValueError(f"{self.done} of {self._facts['rows']} rows are written")
        del self._array
        os.replace(self._part, self._path)
        self._note.unlink()

    def _create(self, dtype: type, shape: tuple[int, int]) -> np.memmap:
        size = shape[0] * shape[1] * np.dtype(dtype).itemsize
        advice = f"{size / 1e6:,.1f} MB are needed; free some space, or give another path"
        with io.explained(self._path, "the vectors", advice):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                array = np.lib.format.open_memmap(self._part, mode="w+", dtype=dtype, shape=shape)
                io.allocate(self._part, self._part.stat().st_size)
            except OSError:
                self._part.unlink(missing_ok=True)
                raise
        return array

    def _open(self) -> np.memmap:
        start_anew = f"delete {self._note.name} to start over"
        try:
            note = json.loads(self._note.read_text())
            self.done, ranges = note.pop("done"), note.pop("ranges")
            array = np.lib.format.open_memmap(self._part, mode="r+")
            shape = note["rows"], width(note["dimensions"], note["precision"])
            if array.shape != shape:
                raise ValueError(f"the array has shape {array.shape}, expected {shape}")
        except (ValueError, KeyError, AttributeError, TypeError, OSError, EOFError) as error:
            raise InputError(f"{self._note}: damaged ({error}); {start_anew}") from None
        if note != self._facts:
            raise InputError(
                f"{self._part}: left by an interrupted command with other texts, another model or "
                f"other flags; run that command again to finish it, or {start_anew}"
            )
        if ranges is not None:
            self.ranges = np.array(ranges, np.float32)
        return array

    def _write_note(self) -> None:
        ranges = None if self.ranges is None else self.ranges.tolist()
        io.write_json(self._note, {**self._facts, "done": self.done, "ranges": ranges})
