"""Searches by BM25, for hard negatives and as the lexical baseline, with an index on disk."""

import itertools
import logging
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from typing import IO, Any, NamedTuple

import numpy as np

_SHARD = 2**16  # texts that are indexed and searched together: 300 MB while they are indexed


class _Shard(NamedTuple):
    """Holds the words of consecutive texts; the entries of a word follow each other.

    Attributes:
      words: ``[W]`` int32, numbers of the words, ascending.
      ends: ``[W + 1]`` int64, where the entries of each word start and end.
      rows: ``[entries]`` int32, the text of each entry, counted from the shard's first.
      times: ``[entries]`` int32, how often the word is in that text.
      lengths: ``[texts]`` int32, number of words of each text.
    """

    words: np.ndarray
    ends: np.ndarray
    rows: np.ndarray
    times: np.ndarray
    lengths: np.ndarray


class BM25:
    """Indexes texts by Lucene's BM25 with the words of `bm25s`: English stop words, no stemming.

    A document's score is the sum, over the query's words w (a repeated word counts each time), of
    ``log(1 + (N - n_w + 0.5) / (n_w + 0.5)) * f / (f + k1 * (1 - b + b * length / mean length))``,
    where n_w of the N documents contain w and the scored document contains it f times (Kamphuis et
    al., ECIR 2020).

    The index is in a temporary file; memory holds the different words and a part of the texts.

    Args:
      texts: texts of all documents, in row order; a text may be empty.
      k1: term-frequency saturation; a higher value gives repeated words more weight.
      b: strength of the penalty on long documents, 0 to 1.

    Example:
      >>> index = BM25(["sort an array", "open a file", "close a door"])
      >>> index.search(["a file"], 3)[1].tolist()
      [[1, -1, -1]]
    """

    def __init__(self, texts: Iterable[str], *, k1: float = 1.5, b: float = 0.75):
        # Not imported at the top: importing bm25s runs a jax function, which claims the devices
        # (and all of their memory) before `jax.distributed.initialize` or a setting of the number
        # of devices can take effect.
        import bm25s

        # The library sets its logger to DEBUG, so absl's handler would print its internal steps.
        logging.getLogger("bm25s").setLevel(logging.WARNING)
        self._tokenize = bm25s.tokenize
        self._k1, self._b = k1, b
        self._numbers: dict[str, int] = {}  # word -> number
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115, closed with this object
        weakref.finalize(self, self._file.close)
        self._places: list[int] = []  # of the shards in the file
        self._size, total = 0, 0
        counts = np.zeros(0, np.int64)  # number of texts with each word
        texts = iter(texts)
        while part := list(itertools.islice(texts, _SHARD)):
            shard = self._shard(part)
            counts = np.pad(counts, (0, len(self._numbers) - len(counts)))
            counts[shard.words] += np.diff(shard.ends)
            self._size, total = self._size + len(part), total + int(shard.lengths.sum())
            self._places.append(self._file.tell())
            for array in shard:
                np.save(self._file, array)
        self._mean = total / max(self._size, 1)
        self._weights = np.log(1 + (self._size - counts + 0.5) / (counts + 0.5)).astype(np.float32)

    def _shard(self, texts: list[str]) -> _Shard:
        tokens: Any = self._tokenize(texts, stopwords="en", show_progress=False)
        own = sorted(tokens.vocab, key=tokens.vocab.get)
        numbers = np.array(
            [self._numbers.setdefault(word, len(self._numbers)) for word in own], np.int64
        )
        lengths = np.array([len(ids) for ids in tokens.ids], np.int32)
        flat = np.fromiter(itertools.chain.from_iterable(tokens.ids), np.int64, lengths.sum())
        # A text without words has the token "", see `bm25s.tokenize`.
        used = np.array([bool(word) for word in own], bool)[flat] if len(own) else np.zeros(0, bool)
        text_of = np.repeat(np.arange(len(texts)), lengths)[used]
        pairs, times = np.unique(numbers[flat[used]] * len(texts) + text_of, return_counts=True)
        words, starts = np.unique(pairs // len(texts), return_index=True)
        return _Shard(
            words.astype(np.int32),
            np.append(starts, len(pairs)),
            (pairs % len(texts)).astype(np.int32),
            times.astype(np.int32),
            np.bincount(text_of, minlength=len(texts)).astype(np.int32),
        )

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
        if not queries or k < 1:
            return scores_QxK, rows_QxK
        words: Any = self._tokenize(
            list(queries), stopwords="en", return_ids=False, show_progress=False
        )
        numbers = [[self._numbers[w] for w in query if w in self._numbers] for query in words]
        first = 0
        for place in self._places:
            self._file.seek(place)
            shard = _Shard(*(np.load(self._file) for _ in _Shard._fields))
            found = self._search_shard(shard, numbers, k)
            rows = np.where(found[1] < 0, -1, found[1] + first)
            both = np.concatenate([scores_QxK, found[0]], 1), np.concatenate([rows_QxK, rows], 1)
            # Earlier shards come first, so a stable sort orders equal scores by row.
            best = np.argsort(-both[0], axis=1, kind="stable")[:, :k]
            scores_QxK, rows_QxK = (np.take_along_axis(x, best, axis=1) for x in both)
            first += len(shard.lengths)
        return scores_QxK, rows_QxK

    def _search_shard(
        self, shard: _Shard, queries: list[list[int]], k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        scores_QxK = np.zeros((len(queries), k), np.float32)
        rows_QxK = np.full((len(queries), k), -1, np.int32)
        relative = shard.lengths / max(self._mean, 1e-9)
        penalty = (self._k1 * (1 - self._b + self._b * relative)).astype(np.float32)
        parts = (shard.times / (shard.times + penalty[shard.rows])).astype(np.float32)
        for q, query in enumerate(queries):
            scores = np.zeros(len(shard.lengths), np.float32)
            for word in query:
                at = np.searchsorted(shard.words, word)
                if at < len(shard.words) and shard.words[at] == word:
                    entries = slice(shard.ends[at], shard.ends[at + 1])
                    scores[shard.rows[entries]] += self._weights[word] * parts[entries]
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
