"""Training batches as a pure function of (seed, step).

So resuming needs only the step number, and the number of hosts, devices or threads never changes
what is trained on.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import grain
import numpy as np

from selfdistill_jax.data.negatives import KnownPositives, draw
from selfdistill_jax.data.source import DRAWN
from selfdistill_jax.data.tokens import TokenTable

SCORES = ("positive_score", "negative_score")


class TripletBatch(NamedTuple):
    """One host's part of a global batch: B rows here, texts padded with 0.

    Widths are the same on every host, since they follow from the global batch.
    """

    query_ids: np.ndarray  # [B, query width] int32
    query_lengths: np.ndarray  # [B] int32
    positive_ids: np.ndarray  # [B, document width] int32
    positive_lengths: np.ndarray
    negative_ids: np.ndarray  # [B, document width] int32
    negative_lengths: np.ndarray
    scores: np.ndarray  # [B, 2] float32, a teacher's of positive and negative, or NaN


def bucket(length: int, buckets: Sequence[int], limit: int) -> int:
    """The smallest bucket that holds ``length``; never wider than ``limit``.

    >>> bucket(20, (16, 32, 64), limit=48), bucket(40, (16, 32, 64), limit=48)
    (32, 48)
    """
    return min((b for b in (*sorted(buckets), limit) if b >= length), default=limit)


class TrainingBatches:
    """Batch ``k`` of a run, for any k.

    Args:
      queries: token table of all queries.
      documents: token table of all documents.
      triplets: columns query, positive, negative, ``[n]`` int32 rows each (a negative of -1 is
        drawn anew each time), and positive_score, negative_score, ``[n]`` float32.
      candidates: ``[n, c]`` document rows to draw negatives from, or None for all documents.
      known: documents that are no negatives of a query.
      pool: document rows that random negatives come from.
      seed: of the order and the draws.
      batch_size: triplets of the global batch.
      query_length, document_length: tokens that texts are cut at.
      buckets: widths that texts are padded to; each one used is a shape that gets compiled.
      rows: this host's rows of the global batch.
    """

    def __init__(
        self,
        queries: TokenTable,
        documents: TokenTable,
        triplets: dict[str, np.ndarray],
        *,
        known: KnownPositives,
        pool: range,
        candidates: np.ndarray | None,
        seed: int,
        batch_size: int,
        query_length: int,
        document_length: int,
        buckets: Sequence[int],
        rows: slice = slice(None),
    ):
        self._queries, self._documents = queries, documents
        self._triplets, self._candidates = triplets, candidates
        self._known, self._pool = known, pool
        self._seed, self._rows, self._buckets = seed, rows, tuple(buckets)
        self._limits = {"query": query_length, "document": document_length}
        self._query_lengths = queries.lengths(query_length)
        self._document_lengths = documents.lengths(document_length)
        self._batches = (
            grain.MapDataset.range(len(triplets["query"]))
            .seed(seed)
            .shuffle()
            .repeat()  # in another order each epoch
            .batch(batch_size)
            .map_with_index(self._make)
        )

    def __getitem__(self, step: int) -> TripletBatch:
        return self._batches[step]

    def iterate(self, start: int) -> Iterator[TripletBatch]:
        """Batches from step ``start`` on, made ahead by one thread."""
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
        iterator = iter(self._batches.to_iter_dataset(options))
        iterator.set_state({"next_index": start})
        return iterator

    def rows(self, step: int, picked: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Query, positive and negative rows ``[B]`` of the picked triplets at a step."""
        queries, positives, negatives = (
            self._triplets[name][picked] for name in ("query", "positive", "negative")
        )
        if (negatives == DRAWN).any():
            drawn = draw(
                queries,
                known=self._known,
                pool=self._pool,
                candidates=None if self._candidates is None else self._candidates[picked],
                seed=(self._seed, step),
            )
            negatives = np.where(negatives == DRAWN, drawn, negatives)
        return queries, positives, negatives

    def _make(self, step: int, picked: np.ndarray) -> TripletBatch:
        picked = np.asarray(picked)
        queries, positives, negatives = self.rows(step, picked)
        both = np.concatenate([positives, negatives])
        query_width = self._width("query", self._query_lengths[queries])
        document_width = self._width("document", self._document_lengths[both])
        parts = []
        for kind, table, rows, width in (
            ("query", self._queries, queries, query_width),
            ("document", self._documents, positives, document_width),
            ("document", self._documents, negatives, document_width),
        ):
            parts += table.padded(rows[self._rows], limit=self._limits[kind], width=width)
        scores = np.stack([self._triplets[name][picked] for name in SCORES], axis=1)
        return TripletBatch(*parts, scores[self._rows])

    def _width(self, kind: str, lengths: np.ndarray) -> int:
        return bucket(int(lengths.max()), self._buckets, self._limits[kind])
