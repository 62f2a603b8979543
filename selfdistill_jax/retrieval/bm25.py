"""BM25 search with the `bm25s` library, for hard negatives and as the lexical baseline."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np


class BM25:
    """Indexes texts with the library's defaults: Lucene's BM25, English stop words, no stemming.

    A document's score is the sum, over the query's words w (a repeated word counts each time), of
    ``log(1 + (N - n_w + 0.5) / (n_w + 0.5)) * f / (f + k1 * (1 - b + b * length / mean length))``,
    where n_w of the N documents contain w and the scored document contains it f times (Kamphuis et
    al., ECIR 2020).

    Args:
      texts: texts of all documents, in row order; a text may be empty.
      k1: term-frequency saturation; a higher value gives repeated words more weight.
      b: strength of the penalty on long documents, 0 to 1.

    Example:
      >>> index = BM25(["sort an array", "open a file", "close a door"])
      >>> index.search(["a file"], 3)[1].tolist()
      [[1, -1, -1]]
    """

    def __init__(self, texts: Sequence[str], *, k1: float = 1.5, b: float = 0.75):
        # Not imported at the top: importing bm25s runs a jax function, which claims the devices
        # (and all of their memory) before `jax.distributed.initialize` or a setting of the number
        # of devices can take effect.
        import bm25s

        # The library sets its logger to DEBUG, so absl's handler would print its internal steps.
        logging.getLogger("bm25s").setLevel(logging.WARNING)
        self._tokenize = bm25s.tokenize
        self._size = len(texts)
        tokens: Any = self._tokenize(list(texts), stopwords="en", show_progress=False)
        self._index = None
        if tokens.vocab:  # the library divides by the mean length, which is 0 if there are no words
            self._index = bm25s.BM25(method="lucene", k1=k1, b=b, backend="numpy")
            self._index.index(tokens, show_progress=False)

    def search(self, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the k highest-scoring documents of each query.

        Args:
          queries: Q texts.
          k: documents per query, clipped to the number of documents.

        Returns:
          Scores ``[Q, k]`` float32 and document rows ``[Q, k]`` int32, best first, equal scores
          in row order. A document that shares no word with the query is no result; its place,
          always after the results, is filled with row -1 and score 0.
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
                # The library's `retrieve` would leave the order of equal scores to argpartition.
                scores = self._index.get_scores(query)
                best = _top(scores, k)
                scores_QxK[q, : len(best)] = scores[best]
                rows_QxK[q, : len(best)] = best
        return scores_QxK, rows_QxK


def _top(scores: np.ndarray, k: int) -> np.ndarray:
    """Returns the rows of the k highest positive scores, best first, equal scores in row order."""
    found = np.flatnonzero(scores > 0)
    if len(found) > k:
        threshold = np.partition(scores[found], len(found) - k)[len(found) - k]
        above = np.flatnonzero(scores > threshold)
        level = np.flatnonzero(scores == threshold)[: k - len(above)]
        found = np.concatenate([above, level])
    return found[np.argsort(-scores[found], kind="stable")]
