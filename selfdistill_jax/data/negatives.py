"""Which document stands as a triplet's negative: the file's, a random one, or a BM25 candidate.

A known positive of the query is never taken. Draws are pure functions of (seed, step).
"""

from collections.abc import Sequence

import numpy as np

from selfdistill_jax.data.bm25 import BM25
from selfdistill_jax.data.source import DRAWN
from selfdistill_jax.errors import InputError

NEGATIVES = ("random", "bm25")


class KnownPositives:
    """Answers for many (query, document) pairs at once whether the document is a known positive.

    Args:
      queries: ``[n]`` rows of the pairs that are known.
      documents: ``[n]`` rows.
      pool: document rows that negatives come from.

    Raises:
      InputError: a query has no document of the pool left as a negative.
    """

    def __init__(self, queries: np.ndarray, documents: np.ndarray, pool: range):
        self._size = pool.stop
        self._keys = np.unique(self._key(np.asarray(queries), np.asarray(documents)))
        inside = self._keys[self._keys % self._size >= pool.start]
        rows, counts = np.unique(inside // self._size, return_counts=True)
        full = rows[counts >= len(pool)]
        if len(full):
            raise InputError(
                f"{len(full)} training queries have every document as a positive; "
                "none is left to be their negative"
            )

    def _key(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        return queries.astype(np.int64) * self._size + documents

    def contains(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """``[...]`` bool."""
        key = self._key(queries, documents)
        at = np.searchsorted(self._keys, key)
        return self._keys[np.minimum(at, len(self._keys) - 1)] == key

    def count(self, query: int) -> int:
        """How many documents are known positives of a query."""
        ends = np.int64(query) * self._size + np.array([0, self._size])
        first, last = np.searchsorted(self._keys, ends)
        return int(last - first)


def draw(
    queries: np.ndarray,
    *,
    known: KnownPositives,
    pool: range,
    candidates: np.ndarray | None,
    seed: Sequence[int],
) -> np.ndarray:
    """Draws one negative a query.

    Args:
      queries: ``[B]`` query rows.
      known: positives that are not taken.
      pool: document rows that random negatives are drawn from.
      candidates: ``[B, k]`` document rows to draw from instead, -1 where there are fewer; a query
        without any gets a random negative.
      seed: whole numbers that the draw is a function of, such as (seed, step).

    Returns:
      ``[B]`` int32 document rows.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(pool.start, pool.stop, size=len(queries))
    while (bad := known.contains(queries, drawn)).any():
        drawn[bad] = rng.integers(pool.start, pool.stop, size=bad.sum())
    if candidates is not None:
        counts = (candidates >= 0).sum(axis=1)  # they stand in front
        at = rng.integers(np.maximum(counts, 1))
        drawn = np.where(counts > 0, candidates[np.arange(len(queries)), at], drawn)
    return drawn.astype(np.int32)


def bm25_candidates(
    index: BM25,
    texts: Sequence[str],
    rows: np.ndarray,
    *,
    known: KnownPositives,
    pool: range,
    k: int,
) -> np.ndarray:
    """The k documents that BM25 ranks highest for each query and that are no known positives.

    Args:
      index: over the pool's documents.
      texts: ``[n]`` of the queries.
      rows: ``[n]`` the queries' rows.
      known: positives that are left out.
      pool: document rows that the index holds.
      k: how many.

    Returns:
      ``[n, k]`` int32 document rows, best first, -1 behind them where there are fewer.
    """
    out = np.full((len(texts), k), DRAWN, np.int32)
    for i, (text, row) in enumerate(zip(texts, rows, strict=True)):
        # So many, since all of the query's positives may stand in front.
        _, found = index.search([text], k + known.count(row))
        found = found[found >= 0] + pool.start
        usable = found[~known.contains(row, found)][:k]
        out[i, : len(usable)] = usable
    return out
