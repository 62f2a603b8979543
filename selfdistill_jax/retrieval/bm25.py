"""BM25 over the collection, by the `bm25s` library: for negatives and as the baseline."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np


class BM25:
    """An index with the library's defaults: Lucene's variant, English stop words, no stemming.

    A document's score is the sum over the query's words w, repeated ones counted each time, of
    ``log(1 + (N - n_w + 0.5) / (n_w + 0.5)) * f / (f + k1 * (1 - b + b * length / mean length))``,
    where n_w of the N documents hold w and this one holds it f times (Kamphuis et al., ECIR 2020).

    Args:
      texts: of all documents, in row order. They may be empty.
      k1: how slowly a repeated word stops to count.
      b: how much long documents are marked down, 0 to 1.

    Example:
      >>> index = BM25(["sort an array", "open a file", "close a door"])
      >>> index.search(["a file"], 3)[1].tolist()
      [[1, -1, -1]]
    """

    def __init__(self, texts: Sequence[str], *, k1: float = 1.5, b: float = 0.75):
        # Not at the top: importing bm25s runs a jax function, which takes the devices (and all of
        # their memory) before `jax.distributed.initialize` or a device count had their turn.
        import bm25s

        # The library sets its logger to DEBUG, so absl's handler would print its inner steps.
        logging.getLogger("bm25s").setLevel(logging.WARNING)
        self._tokenize = bm25s.tokenize
        self._size = len(texts)
        tokens: Any = self._tokenize(list(texts), stopwords="en", show_progress=False)
        self._index = None
        if tokens.vocab:  # the library divides by the mean length, which is 0 without any word
            self._index = bm25s.BM25(method="lucene", k1=k1, b=b, backend="numpy")
            self._index.index(tokens, show_progress=False)

    def search(self, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The best documents of each query.

        Args:
          queries: Q texts.
          k: how many, clipped to the number of documents.

        Returns:
          Scores ``[Q, k]`` float32 and document rows ``[Q, k]`` int32, best first, equal scores by
          row. A document that shares no word with the query is no result: row -1, score 0 stand
          in its place, always behind the results.
        """
        k = min(k, self._size)
        scores_QxK = np.zeros((len(queries), k), np.float32)
        rows_QxK = np.full((len(queries), k), -1, np.int32)
        if self._index is None or k < 1:
            return scores_QxK, rows_QxK
        words: Any = self._tokenize(
            list(queries), stopwords="en", return_ids=False, show_progress=False
        )
        for q, query in enumerate(words):
            if query:  # the library cannot score an empty query
                # Not the library's `retrieve`: it leaves the order of equal scores to argpartition.
                scores = self._index.get_scores(query)
                best = _top(scores, k)
                scores_QxK[q, : len(best)] = scores[best]
                rows_QxK[q, : len(best)] = best
        return scores_QxK, rows_QxK


def _top(scores: np.ndarray, k: int) -> np.ndarray:
    """Rows of the k highest positive scores at most, best first, equal ones by row."""
    found = np.flatnonzero(scores > 0)
    if len(found) > k:
        threshold = np.partition(scores[found], len(found) - k)[len(found) - k]
        above = np.flatnonzero(scores > threshold)
        level = np.flatnonzero(scores == threshold)[: k - len(above)]
        found = np.concatenate([above, level])
    return found[np.argsort(-scores[found], kind="stable")]
