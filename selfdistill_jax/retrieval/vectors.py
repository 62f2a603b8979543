"""A file of vectors that grows shard by shard, and goes on where it was left."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from selfdistill_jax import io
from selfdistill_jax.errors import InputError
from selfdistill_jax.retrieval.quantize import PRECISIONS, RANGED, quantize, ranges_of, width


class VectorFile:
    """An array of numpy's format (.npy), written in place and named when it is whole.

    Until then it lies beside its place, hidden, with a note of how many rows are there: memory
    holds one shard, and what was written outlives an interruption.

    Args:
      path: where the file is to be.
      rows, dimensions: of the vectors.
      of: fingerprint of what the vectors are made from.
      precision: in which they are written, of `PRECISIONS`.
      ranges: as of `quantize`; None: those of the first vectors added, since the file must not
        wait for the last.

    Raises:
      InputError: what lies there is of something else, or damaged.

    Attributes:
      done: rows that are there.
      ranges: ``[2, D]``, once they are known.

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
        """Whether a file is there that was not finished."""
        return path.with_name(f".{path.name}.part").is_file()

    def add(self, vectors: np.ndarray) -> None:
        """The next rows, float32."""
        precision = self._facts["precision"]
        if self.ranges is None and precision in RANGED:
            self.ranges = ranges_of(vectors)
        rows = quantize(vectors, precision, ranges=self.ranges)
        self._array[self.done : self.done + len(rows)] = rows
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
        start_anew = f"delete {self._note.name} to start anew"
        try:
            note = json.loads(self._note.read_text())
            self.done, ranges = note.pop("done"), note.pop("ranges")
            array = np.lib.format.open_memmap(self._part, mode="r+")
            shape = note["rows"], width(note["dimensions"], note["precision"])
            if array.shape != shape:
                raise ValueError(f"an array {array.shape} instead of {shape}")
        except (ValueError, KeyError, AttributeError, TypeError, OSError, EOFError) as error:
            raise InputError(f"{self._note}: damaged ({error}); {start_anew}") from None
        if note != self._facts:
            raise InputError(
                f"{self._part}: the beginning of something else, for the texts, the model or the "
                f"flags have changed; {start_anew}"
            )
        if ranges is not None:
            self.ranges = np.array(ranges, np.float32)
        return array

    def _write_note(self) -> None:
        ranges = None if self.ranges is None else self.ranges.tolist()
        io.write_json(self._note, {**self._facts, "done": self.done, "ranges": ranges})
