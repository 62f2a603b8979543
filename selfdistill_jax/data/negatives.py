"""Chooses the negatives of a query: its example's own, random documents or search results.

A known positive of the query is never chosen. Draws are pure functions of (seed, step).
"""

from collections.abc import Callable, Sequence

import numpy as np

from selfdistill_jax.data.collection import SAMPLE_NEGATIVE
from selfdistill_jax.errors import InputError
from selfdistill_jax.progress import Progress

NEGATIVES = ("random", "bm25", "mined")

# Maps query rows ``[Q]`` and k to scores and document rows ``[Q, k]``, best first, -1 after the
# last; there are fewer columns if there are fewer than k documents.
Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
_FURTHER = 3  # part of the random seed of every negative of a query but the first
_DEEPER = 4  # factor by which a search with a score limit looks at more documents


class KnownPositives:
    """Looks up for many (query, document) pairs at once whether the document is a known positive.

    Args:
      queries: ``[n]`` query rows of the known pairs.
      documents: ``[n]`` document rows of the known pairs.
      pool: range of document rows that negatives are drawn from; it ends with the last document.
      count: number of negatives per query.
      copies: ``[documents]`` first row with the same text, see `first_copies`: a copy of a known
        positive is one too. None if no text occurs twice.

    Attributes:
      copies: as given.

    Raises:
      InputError: the pool has fewer than ``count`` documents that are not positives of a query.
    """

    def __init__(
        self,
        queries: np.ndarray,
        documents: np.ndarray,
        pool: range,
        count: int = 1,
        copies: np.ndarray | None = None,
    ):
        self._size = pool.stop
        self.copies = np.arange(pool.stop, dtype=np.int32) if copies is None else copies
        self._keys = np.unique(self._key(np.asarray(queries), np.asarray(documents)))
        in_pool = np.bincount(self.copies[pool.start : pool.stop], minlength=self._size)
        # Documents of the pool that the pairs before each pair exclude, copies included.
        self._excluded = np.concatenate([[0], np.cumsum(in_pool[self._keys % self._size])])
        rows = np.unique(self._keys // self._size)
        full = rows[self.count(rows) > len(pool) - count]
        if len(full) or len(pool) < count:
            if count == 1:
                what = "have every document as a positive; add documents to draw negatives from"
            else:
                what = (
                    f"have fewer than {count} documents that are not their positives; lower "
                    "config.data.negatives_per_query"
                )
            raise InputError(f"{len(full) or 'all'} training queries {what}")

    def _key(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        return queries.astype(np.int64) * self._size + self.copies[documents]

    def contains(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """Returns whether each document is a known positive of its query, ``[...]`` bool."""
        key = self._key(queries, documents)
        at = np.searchsorted(self._keys, key)
        return self._keys[np.minimum(at, len(self._keys) - 1)] == key

    def count(self, queries: np.ndarray) -> np.ndarray:
        """Returns how many documents of the pool are known positives of each query, ``[...]``."""
        start = np.asarray(queries, np.int64) * self._size
        first, last = (np.searchsorted(self._keys, ends) for ends in (start, start + self._size))
        return self._excluded[last] - self._excluded[first]

    def of(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns all known positives of queries: indices into ``queries``, and first copies."""
        start = queries.astype(np.int64) * self._size
        first, last = (np.searchsorted(self._keys, ends) for ends in (start, start + self._size))
        counts = last - first
        place = np.repeat(np.arange(len(queries)), counts)
        within = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)
        return place, self._keys[first[place] + within] % self._size


def choose_given(given: np.ndarray, count: int, *, seed: Sequence[int]) -> np.ndarray:
    """Chooses the negatives of each example that a step uses: all, or K of them at random.

    Args:
      given: ``[B, n]`` document rows of the examples' own negatives, -1 after the last.
      count: K, the number of negatives per query.
      seed: seed of the random choice, used if n is more than K.

    Returns:
      ``[B, K]`` column indices into ``given``, -1 where there is none.
    """
    size, columns = given.shape
    if columns <= count:
        order = np.broadcast_to(np.arange(columns), given.shape)
    else:
        keys = np.random.default_rng(seed).random(given.shape)
        order = np.argsort(np.where(given < 0, 2.0, keys), axis=1)[:, :count]
    own = np.where(np.take_along_axis(given, order, axis=1) < 0, -1, order)
    return np.concatenate([own, np.full((size, count - own.shape[1]), -1)], axis=1)


def draw(
    queries: np.ndarray,
    negatives: np.ndarray,
    *,
    known: KnownPositives,
    pool: range,
    candidates: np.ndarray | None,
    seed: Sequence[int],
) -> np.ndarray:
    """Draws the missing negatives; the negatives of a query are all different.

    Args:
      queries: ``[B]`` query rows.
      negatives: ``[B, K]`` document rows, -1 where one is missing.
      known: known positives, which are never drawn.
      pool: range of document rows that random negatives are drawn from.
      candidates: ``[B, k]`` document rows to draw from instead of the pool, -1 where there are
        fewer; a query without candidates gets a random negative.
      seed: whole numbers that determine the draw, such as (seed, step).

    Returns:
      ``[B, K]`` int32 document rows.
    """
    filled = negatives.astype(np.int32)
    for column in range(filled.shape[1]):
        missing = filled[:, column] < 0
        if not missing.any():
            continue
        rng = np.random.default_rng(seed if column == 0 else (*seed, _FURTHER, column))
        taken = np.where(missing[:, None], filled, -1)

        def refused(rows: np.ndarray, taken=taken) -> np.ndarray:
            return known.contains(queries, rows) | (rows[:, None] == taken).any(axis=1)

        drawn = rng.integers(pool.start, pool.stop, size=len(queries))
        while (bad := refused(drawn)).any():
            drawn[bad] = rng.integers(pool.start, pool.stop, size=bad.sum())
        if candidates is not None:
            free = (candidates >= 0) & ~(candidates[:, :, None] == taken[:, None, :]).any(axis=2)
            left = np.take_along_axis(candidates, np.argsort(~free, axis=1, kind="stable"), axis=1)
            counts = free.sum(axis=1)
            at = rng.integers(np.maximum(counts, 1))
            drawn = np.where(counts > 0, left[np.arange(len(queries)), at], drawn)
        filled[missing, column] = drawn[missing]
    return filled


def top_candidates(
    search: Search,
    queries: np.ndarray,
    *,
    known: KnownPositives,
    k: int,
    most: np.ndarray | None = None,
    at_once: int = 65536,
    progress: str = "",
) -> np.ndarray:
    """Returns the k highest-ranked documents for each triplet that may be its negatives.

    Args:
      search: search function, called once for many queries.
      queries: ``[n]`` query rows of the triplets; several triplets may have the same query.
      known: known positives, which are left out.
      k: number of documents per triplet.
      most: ``[n]`` score limit of each triplet; documents above it are left out, and the search
        looks at `_DEEPER` times as many documents.
      at_once: maximum number of queries in one search.
      progress: label of the progress bar; if empty, no bar is shown.

    Returns:
      ``[n, k]`` int32 document rows, best first, -1 after the last.
    """
    rows, query_of = np.unique(queries, return_inverse=True)
    spare = 1 if most is None else _DEEPER
    # All positives of a query may rank first. Depths are powers of two, since a search compiles
    # anew for each depth.
    needed = (spare * k + known.count(rows)).tolist()
    depths = np.array([1 << (n - 1).bit_length() for n in needed], int)
    by_query = np.argsort(query_of, kind="stable")
    ends = np.searchsorted(query_of[by_query], np.arange(len(rows) + 1))
    out = np.full((len(queries), k), SAMPLE_NEGATIVE, np.int32)
    parts = [
        (depth, of_depth[start : start + at_once])
        for depth in np.unique(depths).tolist()
        for of_depth in [np.flatnonzero(depths == depth)]
        for start in range(0, len(of_depth), at_once)
    ]
    with Progress(progress, len(rows), unit="queries") as bar:
        for depth, asked in parts:
            scores, documents = search(rows[asked], depth)
            usable = (documents >= 0) & ~known.contains(rows[asked, None], documents)
            for i, query in enumerate(asked):
                own = by_query[ends[query] : ends[query + 1]]
                # Triplets of one query share its candidates, unless each has its own score limit.
                for some in own[None] if most is None else own[:, None]:
                    fits = usable[i] if most is None else usable[i] & (scores[i] <= most[some])
                    best = documents[i, fits][:k]
                    out[some, : len(best)] = best
            bar.update(len(asked))
    return out
