"""Training batches as a pure function of (seed, step).

So resuming needs only the step number, and the number of hosts, devices or threads never changes
what is trained on.
"""

import dataclasses
from typing import NamedTuple

import grain
import jax
import numpy as np

from selfdistill_jax.data.batch_shape import balance_parts, choose_shape
from selfdistill_jax.data.negatives import KnownPositives, choose_given, draw
from selfdistill_jax.data.packing import lay_out, write_tokens
from selfdistill_jax.data.store import Examples
from selfdistill_jax.data.tokens import TokenTable, content_numbers
from selfdistill_jax.packed import PackedTexts

# Streams of random numbers, beside that of drawn negatives.
_SEEDS, _CHOICE = 1, 2
# Columns of `positive_ids` at least, and how many times as many where they are too few. Each width
# is another compiled program, and few queries have more positives in one batch.
_POSITIVES = 4


class TripletBatch(NamedTuple):
    """One host's part of a global batch; K negatives for each query.

    Attributes:
      texts: P parts, one after the other on a leading axis: P is devices here times micro-batches.
        Each packs the texts of its ``b`` examples: queries, then positives, then the first negative
        of each, then the second: M = (2 + K) b. A query of length 0 stands for no example.
      scores: ``[P b, 1 + K]`` float32, a teacher's of the positive and of the negatives, or NaN.
      positive_ids: ``[P b, n]`` int32, numbers of the documents that are known to answer the query
        and stand in the global batch; its own positive first, -1 behind the last. Documents of
        equal tokens have one number.
      negative_ids: ``[P b, K]`` int32 numbers of the negatives. Without ids every document but the
        positive counts as a negative.
    """

    texts: PackedTexts
    scores: np.ndarray
    positive_ids: np.ndarray | None = None
    negative_ids: np.ndarray | None = None

    @property
    def useful_tokens(self) -> int:
        """Returns how many tokens its texts have."""
        return int(self.texts.lengths.sum())

    @property
    def computed_tokens(self) -> int:
        """Returns how many tokens the blocks in use have room for."""
        return int(self.texts.blocks.sum()) * self.texts.ids.shape[-1]


class TrainingBatches:
    """Batch ``k`` of a run, for any k.

    Args:
      queries: token table of all queries.
      documents: token table of all documents.
      examples: what is trained on.
      negatives: K, negatives of a query; those that an example does not bring are drawn anew at
        each step.
      candidates: ``[n, c]`` document rows to draw negatives from, or None for all documents.
      known: documents that are no negatives of a query.
      pool: document rows that random negatives come from.
      seed: of the order and the draws.
      batch_size: examples of the global batch.
      query_length, document_length: tokens that texts are cut at.
      parts: of the global batch, packed each for itself: devices times micro-batches.
      local_parts: this host's parts.
      block: tokens of a block at the most.
      single_block: see `choose_shape`.
      dropout: whether texts get seeds of what is dropped of them.

    Attributes:
      negatives: K.
      shape: sizes of the batches' arrays.
    """

    def __init__(
        self,
        queries: TokenTable,
        documents: TokenTable,
        examples: Examples,
        *,
        known: KnownPositives,
        pool: range,
        candidates: np.ndarray | None,
        seed: int,
        batch_size: int,
        query_length: int,
        document_length: int,
        negatives: int = 1,
        parts: int = 1,
        local_parts: slice = slice(None),
        block: int,
        single_block: bool = False,
        dropout: bool = False,
    ):
        self._examples, self._candidates = examples, candidates
        self._known, self._pool, self.negatives = known, pool, negatives
        self._seed, self._parts, self._local = seed, parts, local_parts
        self._dropout = dropout
        self._tables = (queries, *[documents] * (1 + negatives))
        self._limits = (query_length, *[document_length] * (1 + negatives))
        self._lengths = queries.lengths(query_length), documents.lengths(document_length)
        self.shape = choose_shape(
            *self._tokens_of_examples(),
            triplets=batch_size // parts,
            parts=parts,
            block=block,
            limit=max(self._limits),
            single_block=single_block,
        )
        self._batches = (
            grain.MapDataset.range(len(examples))
            .seed(seed)
            .shuffle()
            .repeat()  # in another order each epoch
            .batch(batch_size)
            .map_with_index(self._make)
        )

    def _tokens_of_examples(self) -> tuple[float, float]:
        """Mean and standard deviation; drawn negatives are as what they are drawn from."""
        queries, documents = self._lengths
        of_drawn = documents[self._pool.start : self._pool.stop]
        if self._candidates is not None and (self._candidates >= 0).any():
            of_drawn = documents[self._candidates[self._candidates >= 0]]
        given = self._examples.negatives
        counts = (given >= 0).sum(axis=1)
        drawn = np.maximum(self.negatives - counts, 0)
        mean_given = np.where(given >= 0, documents[given], 0).sum(axis=1) / np.maximum(counts, 1)
        negatives = mean_given * np.minimum(counts, self.negatives)
        if drawn.any():
            negatives = negatives + drawn * of_drawn.mean()
        totals = queries[self._examples.query] + documents[self._examples.positive] + negatives
        variance = totals.var() + (drawn.mean() * of_drawn.var() if drawn.any() else 0.0)
        return float(totals.mean()), float(variance**0.5)

    def shapes(self) -> list[TripletBatch]:
        """Returns shapes and types of batches' arrays, those of the first batch first."""
        first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self[0])
        (parts,) = first.texts.blocks.shape

        def of_capacity(capacity: int) -> TripletBatch:
            arrays = self._arrays(capacity)
            tokens, rows = (
                jax.ShapeDtypeStruct((parts, *size), np.int32) for size in (arrays, arrays[:1])
            )
            texts = dataclasses.replace(
                first.texts, ids=tokens, texts=tokens, positions=tokens, rows=rows
            )
            return first._replace(texts=texts)

        return [first, *map(of_capacity, self.shape.capacities)]

    def _arrays(self, capacity: int) -> tuple[int, int]:
        """Blocks, and tokens of each, of arrays that have room for ``capacity`` blocks."""
        merged = self.shape.merged or capacity
        return merged, capacity // merged * self.shape.block

    def __getitem__(self, step: int) -> TripletBatch:
        batch = self._batches[step]
        assert batch is not None  # grain's None is for filtered elements
        return batch

    def iterate(self, start: int) -> grain.DatasetIterator:
        """Yields batches from step ``start`` on, made ahead by one thread."""
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
        iterator = iter(self._batches.to_iter_dataset(options))
        iterator.set_state({"next_index": start})
        return iterator

    def rows(self, step: int, picked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the texts and scores of the picked examples at a step.

        Returns:
          ``[2 + K, B]`` rows of queries, positives and negatives, and ``[B, 1 + K]`` scores.
        """
        given = self._examples.negatives[picked]
        own = choose_given(given, self.negatives, seed=(self._seed, step, _CHOICE))
        scores = self._examples.scores[picked]
        if given.shape[1]:
            negatives = np.where(own < 0, -1, np.take_along_axis(given, own, axis=1))
            of_own = np.where(own < 0, np.nan, np.take_along_axis(scores[:, 1:], own, axis=1))
        else:
            negatives, of_own = own, np.full(own.shape, np.nan)
        queries = self._examples.query[picked]
        negatives = draw(
            queries,
            negatives,
            known=self._known,
            pool=self._pool,
            candidates=None if self._candidates is None else self._candidates[picked],
            seed=(self._seed, step),
        )
        columns = np.stack([queries, self._examples.positive[picked], *negatives.T])
        return columns, np.concatenate([scores[:, :1], of_own], axis=1).astype(np.float32)

    def _ids(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``positive_ids`` and ``negative_ids`` of a global batch, see `TripletBatch`."""
        place, known = self._known.of(columns[0])
        # Known documents that stand in the batch only as copies count as well.
        rows = np.unique(np.concatenate([columns[1:].reshape(-1), known]))
        numbers = content_numbers(self._tables[1], rows, limit=self._limits[1])
        positives, *negatives = numbers[np.searchsorted(rows, columns[1:])]
        known = numbers[np.searchsorted(rows, known)]
        there = np.isin(known, [positives, *negatives])
        place, known = place[there], known[there]
        # In columns of its own for each query, but for its own positive and what occurs twice.
        pairs = np.unique(np.stack([place, known])[:, known != positives[place]], axis=1)
        counts = np.bincount(pairs[0], minlength=len(positives))
        width = _POSITIVES
        while width < 1 + counts.max():
            width *= _POSITIVES
        ids = np.full((len(positives), width), -1, np.int32)
        ids[:, 0] = positives
        column = 1 + np.arange(pairs.shape[1]) - np.repeat(np.cumsum(counts) - counts, counts)
        ids[pairs[0], column] = pairs[1]
        return ids, np.array(negatives, np.int32).reshape(-1, len(positives)).T

    def _seeds(self, step: int, order: np.ndarray) -> np.ndarray:
        """``[P, M]`` uint32 of this host's parts; a text's own, however the batch is split."""
        draws = np.random.default_rng((self._seed, step, _SEEDS))
        size = len(self._tables), len(order)
        seeds = draws.integers(2**32, size=size, dtype=np.uint32)[:, order]
        parts = np.split(seeds, self._parts, axis=1)[self._local]
        return np.stack([part.reshape(-1) for part in parts])

    def _make(self, step: int, picked: np.ndarray) -> TripletBatch:
        columns, scores = self.rows(step, np.asarray(picked))
        lengths = np.stack([self._lengths[0][columns[0]], *self._lengths[1][columns[1:]]])
        order = balance_parts(lengths.sum(0), self._parts)
        columns, lengths, scores = columns[:, order], lengths[:, order], scores[order]
        layouts = [
            lay_out(part.reshape(-1), block=self.shape.block, row_lengths=self.shape.row_lengths)
            for part in np.split(lengths, self._parts, axis=1)
        ]
        # The same on every host, since it follows from the global batch.
        capacity = self.shape.capacity(max(len(layout.rows) for layout in layouts))
        blocks, size = self._arrays(capacity)
        parts = np.split(columns, self._parts, axis=1)
        packed = [
            write_tokens(
                layout.merged(size // self.shape.block),
                list(zip(self._tables, part, self._limits, strict=True)),
                blocks=blocks,
                block=size,
                row_lengths=self.shape.row_lengths,
            )
            for layout, part in zip(layouts[self._local], parts[self._local], strict=True)
        ]
        texts = jax.tree.map(lambda *arrays: np.stack(arrays), *packed)
        if self._dropout:
            texts = dataclasses.replace(texts, seeds=self._seeds(step, order))
        of_rows = (
            np.concatenate(np.split(x, self._parts)[self._local])
            for x in (scores, *self._ids(columns))
        )
        return TripletBatch(texts, *of_rows)
