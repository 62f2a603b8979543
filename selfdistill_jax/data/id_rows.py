"""Finds rows by id with 20 bytes of memory for each id, where a dict takes 150."""

import hashlib
from array import array
from collections.abc import Iterable, Sequence

import numpy as np


class IdRows:
    """Maps ids to the rows in which they were added.

    Ids are compared by 64-bit hashes: among 10 million ids, an unknown one is taken for a known one
    with a probability of 5e-13.

    Args:
      ids: the first ids to add.

    Example:
      >>> rows = IdRows(["d7", "d8"])
      >>> rows.add("d7")
      >>> rows.find(["d8", "d9"]).tolist(), rows.first_repetition()
      ([1, -1], (0, 2))
    """

    def __init__(self, ids: Iterable[str] = ()):
        self._hashes = array("Q", map(hash_text, ids))
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, id_: str) -> None:
        self._hashes.append(hash_text(id_))
        self._sorted = None

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """Returns the row of each id, ``[n]`` int32, -1 for an unknown one."""
        wanted = np.fromiter(map(hash_text, ids), np.uint64, len(ids))
        hashes, rows = self._in_order()
        if not len(hashes):
            return np.full(len(ids), -1, np.int32)
        at = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)
        return np.where(hashes[at] == wanted, rows[at], np.int32(-1))

    def shared_with(self, others: "IdRows") -> np.ndarray:
        """Returns the rows of ids that both have, ``[n, 2]`` int32, ordered by the second row."""
        (own, own_rows), (other, other_rows) = self._in_order(), others._in_order()
        _, i, j = np.intersect1d(own, other, return_indices=True)
        pairs = np.stack([own_rows[i], other_rows[j]], axis=1)
        return pairs[np.argsort(pairs[:, 1], kind="stable")]

    def first_repetition(self) -> tuple[int, int] | None:
        """Returns the row of the first id that was there before, after that earlier row."""
        hashes, rows = self._in_order()
        repeated = np.flatnonzero(hashes[1:] == hashes[:-1])
        if not len(repeated):
            return None
        at = repeated[np.argmin(rows[repeated + 1])]
        return int(rows[at]), int(rows[at + 1])

    def _in_order(self) -> tuple[np.ndarray, np.ndarray]:
        if self._sorted is None:
            hashes = np.frombuffer(self._hashes, np.uint64)
            order = np.argsort(hashes, kind="stable").astype(np.int32)
            self._sorted = hashes[order], order
        return self._sorted


def hash_text(text: str) -> int:
    """Returns a 64-bit hash of a text, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
