"""Which document stands as a triplet's negative: the file's, a random one, or a search's candidate.

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
_DEEPER = 4  # times as many are looked at where scores are limited


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
