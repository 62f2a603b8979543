"""Chooses the negatives of a query: the file's, random documents, or candidates of a search.

A known positive of the query is never taken. Draws are pure functions of (seed, step).
"""

from collections.abc import Callable, Sequence

import numpy as np

from selfdistill_jax.data.collection import SAMPLE_NEGATIVE
from selfdistill_jax.errors import InputError
from selfdistill_jax.progress import Progress

NEGATIVES = ("random", "bm25", "mined")

# Query rows ``[Q]`` and k -> scores and document rows ``[Q, k]``, best first, -1 where there is
# none; fewer columns where there are not so many documents.
Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
_FURTHER = 3  # a stream of its own for each negative behind the first
_DEEPER = 4  # times as many are looked at where scores are limited


class KnownPositives:
    """Answers for many (query, document) pairs at once whether the document is a known positive.

    Args:
      queries: ``[n]`` rows of the pairs that are known.
      documents: ``[n]`` rows.
      pool: document rows that negatives come from.
      count: negatives of a query.

    Raises:
      InputError: a query has fewer documents of the pool left as negatives.
    """

    def __init__(self, queries: np.ndarray, documents: np.ndarray, pool: range, count: int = 1):
        self._size = pool.stop
        self._keys = np.unique(self._key(np.asarray(queries), np.asarray(documents)))
        inside = self._keys[self._keys % self._size >= pool.start]
        rows, counts = np.unique(inside // self._size, return_counts=True)
        full = rows[counts > len(pool) - count]
        if len(full) or len(pool) < count:
            if count == 1:
                what = "have every document as a positive; none is left to be their negative"
            else:
                what = (
                    f"leave fewer than {count} documents to be their negatives; lower "
                    "config.data.negatives_per_query"
                )
            raise InputError(f"{len(full) or 'all'} training queries {what}")

    def _key(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        return queries.astype(np.int64) * self._size + documents

    def contains(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """``[...]`` bool."""
        key = self._key(queries, documents)
        at = np.searchsorted(self._keys, key)
        return self._keys[np.minimum(at, len(self._keys) - 1)] == key

    def count(self, query: int) -> int:
        """Returns how many documents are known positives of a query."""
        ends = np.int64(query) * self._size + np.array([0, self._size])
        first, last = np.searchsorted(self._keys, ends)
        return int(last - first)

    def of(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns all known positives of queries, as (place in ``queries``, document row) pairs."""
        start = queries.astype(np.int64) * self._size
        first, last = (np.searchsorted(self._keys, ends) for ends in (start, start + self._size))
        counts = last - first
        place = np.repeat(np.arange(len(queries)), counts)
        within = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)
        return place, self._keys[first[place] + within] % self._size


def choose_given(given: np.ndarray, count: int, *, seed: Sequence[int]) -> np.ndarray:
    """Chooses which of an example's own negatives a step takes: all, or some at random.

    Args:
      given: ``[B, n]`` document rows, -1 behind the last.
      count: K, negatives of a query.
      seed: of the choice where there are more than K.

    Returns:
      ``[B, K]`` columns of ``given``, -1 where there is none.
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
    """Draws the negatives that are missing; those of one query are all different.

    Args:
      queries: ``[B]`` query rows.
      negatives: ``[B, K]`` document rows, -1 where one is missing.
      known: positives that are not taken.
      pool: document rows that random negatives are drawn from.
      candidates: ``[B, k]`` document rows to draw from instead, -1 where there are fewer; a query
        without any gets a random negative.
      seed: whole numbers that the draw is a function of, such as (seed, step).

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
    """The k documents that a search ranks highest for each triplet, and that may be its negative.

    Args:
      search: called once for many queries.
      queries: ``[n]`` the triplets' query rows; one may stand in many triplets.
      known: positives that are left out.
      k: how many.
      most: ``[n]``, the score above which a document is left out of a triplet's; it is looked for
        among `_DEEPER` times as many.
      at_once: queries of one search.
      progress: label of a bar; none is shown without.

    Returns:
      ``[n, k]`` int32 document rows, best first, -1 behind them where there are fewer.
    """
    rows, query_of = np.unique(queries, return_inverse=True)
    spare = 1 if most is None else _DEEPER
    # All of the query's positives may stand in front. Powers of two: a search compiles for each.
    needed = [spare * k + known.count(row) for row in rows]
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
                # Triplets of one query share its candidates, unless each has a limit of its own.
                for some in own[None] if most is None else own[:, None]:
                    fits = usable[i] if most is None else usable[i] & (scores[i] <= most[some])
                    best = documents[i, fits][:k]
                    out[some, : len(best)] = best
            bar.update(len(asked))
    return out
