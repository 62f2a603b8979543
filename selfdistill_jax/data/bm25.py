"""BM25 over the collection, by the `bm25s` library: for negatives and as the baseline."""

from collections.abc import Sequence

import bm25s
import numpy as np


class BM25:
    """An index: Lucene's variant, k1 = 1.5, b = 0.75, English stop words.

    Args:
      texts: of all documents, in row order.

    Example:
      >>> index = BM25(["sort an array", "open a file", "close a door"])
      >>> index.search(["a file"], 3)[1].tolist()
      [[1, -1, -1]]
    """

    def __init__(self, texts: Sequence[str]):
        self._size = len(texts)
        self._index = bm25s.BM25(method="lucene", k1=1.5, b=0.75, backend="numpy")
        tokens = bm25s.tokenize(list(texts), stopwords="en", show_progress=False)
        self._index.index(tokens, show_progress=False)

    def search(self, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The best documents of each query.

        Returns:
          Scores ``[Q, k]`` float32 and document rows ``[Q, k]`` int32, best first. A document that
          shares no word with the query is no result: row -1, score 0 stand in its place. k is
          clipped to the number of documents.
        """
        tokens = bm25s.tokenize(
            list(queries), stopwords="en", return_ids=False, show_progress=False
        )
        rows, scores = self._index.retrieve(
            tokens,
            k=min(k, self._size),
            show_progress=False,
            backend_selection="numpy",  # "auto" would take jax and its devices
            n_threads=0,
        )
        rows = np.where(scores > 0, rows, -1).astype(np.int32)
        return scores.astype(np.float32), rows
