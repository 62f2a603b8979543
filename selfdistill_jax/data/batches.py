"""Makes training batches, each a pure function of (seed, step).

Resuming therefore needs only the step number, and the number of hosts, devices or threads never
changes the training data.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import grain
import jax
import numpy as np

from selfdistill_jax.data.batch_shape import balance_parts, choose_shape
from selfdistill_jax.data.example_order import mean_and_variance, order_of_examples
from selfdistill_jax.data.negatives import KnownPositives, choose_given, draw
from selfdistill_jax.data.packing import lay_out, write_tokens
from selfdistill_jax.data.store import Examples
from selfdistill_jax.data.tokens import TokenTable

# Random streams other than that of drawn negatives.
_SEEDS, _CHOICE = 1, 2
# Minimum number of columns of `positive_ids`, and the factor by which it grows if it is too small.
# Each width needs another compiled program, and few queries have more positives in one batch.
_POSITIVES = 4


class TripletBatch(NamedTuple):
    """Holds one host's part of a global batch, with K negatives for each query.

    Attributes:
      inputs: P parts, stacked on a leading axis; P is this host's devices times micro-batches. Each
        part packs the texts of its ``b`` examples: queries, then positives, then the first negative
        of each, then the second: M = (2 + K) b; or only queries, if there are ``documents``. A
        query of length 0 marks an unused example. Inputs other than texts are possible: any
        dataclass registered with JAX that has ``lengths`` ``[P, M]``, ``seeds`` (None turns dropout
        off) and ``computed_tokens`` (see examples/emoji).
      scores: ``[P b, 1 + K]`` float32, a teacher's scores of positive and negatives, or NaN.
      positive_ids: ``[P b, n]`` int32, rows of the known positives of the query that are in the
        global batch; its own positive comes first, -1 follows the last. Copies of a text have the
        row of the first.
      negative_ids: ``[P b, K]`` int32, rows of the negatives, likewise. Without ids, every document
        but the query's positive counts as a negative.
      documents: ``[P b, 1 + K, D]`` float32, fixed vectors of positive and negatives; None if
        documents are encoded too.
    """

    inputs: Any
    scores: np.ndarray
    positive_ids: np.ndarray | None = None
    negative_ids: np.ndarray | None = None
    documents: np.ndarray | None = None

    @property
    def useful_tokens(self) -> int:
        """Returns the number of tokens of all inputs."""
        return int(self.inputs.lengths.sum())

    @property
    def computed_tokens(self) -> int:
        """Returns the number of tokens that the encoder computes, with padding."""
        return self.inputs.computed_tokens


class TrainingBatches:
    """Makes the batch of any step of a run, by indexing.

    Args:
      queries: token table of all queries.
      documents: token table of all documents.
      examples: training examples.
      negatives: K, the number of negatives per query; those that an example lacks are drawn anew
        at each step.
      candidates: ``[n, c]`` document rows to draw negatives from, or None for the whole pool.
      known: known positives, which are never drawn as negatives of their queries.
      pool: range of document rows that random negatives are drawn from.
      seed: seed of the order and the draws.
      batch_size: number of examples of the global batch.
      query_length, document_length: number of tokens at which texts are cut.
      parts: number of separately packed parts of the global batch: devices times micro-batches.
      local_parts: slice of this host's parts.
      block: maximum number of tokens of a block.
      single_block: see `choose_shape`.
      dropout: whether texts get dropout seeds.
      vectors: ``[documents, D]`` float32, fixed vectors of all documents, or None to encode them.
      weights: shares of the examples of each file, if there are several; NaN for a file's own
        number of examples.
      mix: see `order_of_examples`.

    Attributes:
      negatives: K.
      candidates: as given.
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
        vectors: np.ndarray | None = None,
        weights: Sequence[float] = (),
        mix: str = "examples",
    ):
        self._examples, self.candidates = examples, candidates
        self._known, self._pool, self.negatives = known, pool, negatives
        self._seed, self._parts, self._local = seed, parts, local_parts
        self._dropout, self._vectors = dropout, vectors
        self._weights, self._mix = weights, mix
        encoded = 1 + negatives if vectors is None else 0  # documents of an example
        self._tables = (queries, *[documents] * encoded)
        self._limits = (query_length, *[document_length] * encoded)
        self._lengths = queries.lengths(query_length), documents.lengths(document_length)
        self.shape = choose_shape(
            *self._tokens_of_examples(),
            triplets=batch_size // parts,
            parts=parts,
            block=block,
            limit=max(self._limits),
            single_block=single_block,
        )
        order = order_of_examples(
            examples, seed=seed, batch_size=batch_size, weights=weights, mix=mix
        )
        self._batches = order.map_with_index(self._make)

    def _tokens_of_examples(self) -> tuple[float, float]:
        """Returns mean and standard deviation of the number of encoded tokens of a triplet.

        A drawn negative counts with the mean and variance of the documents that it is drawn from.
        """
        queries, documents = self._lengths
        of_batch = partial(
            mean_and_variance, examples=self._examples, weights=self._weights, mix=self._mix
        )
        if self._vectors is not None:
            mean, variance = of_batch(queries[self._examples.query])
            return mean, variance**0.5
        of_drawn = documents[self._pool.start : self._pool.stop]
        if self.candidates is not None and (self.candidates >= 0).any():
            of_drawn = documents[self.candidates[self.candidates >= 0]]
        given = self._examples.negatives
        counts = (given >= 0).sum(axis=1)
        drawn = np.maximum(self.negatives - counts, 0)
        mean_given = np.where(given >= 0, documents[given], 0).sum(axis=1) / np.maximum(counts, 1)
        negatives = mean_given * np.minimum(counts, self.negatives)
        if drawn.any():
            negatives = negatives + drawn * of_drawn.mean()
        totals = queries[self._examples.query] + documents[self._examples.positive] + negatives
        mean, variance = of_batch(totals)
        variance += drawn.mean() * of_drawn.var() if drawn.any() else 0.0
        return mean, float(variance**0.5)

    def shapes(self) -> list[TripletBatch]:
        """Returns the shapes and types of the batches' arrays, those of the first batch first."""
        first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self[0])
        (parts,) = first.inputs.num_blocks.shape

        def of_capacity(capacity: int) -> TripletBatch:
            arrays = self._arrays(capacity)
            tokens, rows = (
                jax.ShapeDtypeStruct((parts, *size), np.int32) for size in (arrays, arrays[:1])
            )
            texts = dataclasses.replace(
                first.inputs, ids=tokens, segment_ids=tokens, positions=tokens, row_kind=rows
            )
            ids = jax.ShapeDtypeStruct((len(first.scores), _POSITIVES), np.int32)
            return first._replace(inputs=texts, positive_ids=ids)

        return [first, *map(of_capacity, self.shape.capacities)]

    def _arrays(self, capacity: int) -> tuple[int, int]:
        """Returns (blocks, tokens of each) of the arrays for ``capacity`` unjoined blocks."""
        merged = self.shape.merged or capacity
        return merged, capacity // merged * self.shape.block

    def __getitem__(self, step: int) -> TripletBatch:
        batch = self._batches[step]
        assert batch is not None  # grain returns None for filtered elements only
        return batch

    def iterate(self, start: int) -> grain.DatasetIterator:
        """Returns an iterator over the batches from step ``start``, made ahead by one thread."""
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
        iterator = iter(self._batches.to_iter_dataset(options))
        iterator.set_state({"next_index": start})
        return iterator

    def rows(self, step: int, picked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the rows and scores of the texts of the picked examples at a step.

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
            candidates=None if self.candidates is None else self.candidates[picked],
            seed=(self._seed, step),
        )
        columns = np.stack([queries, self._examples.positive[picked], *negatives.T])
        return columns, np.concatenate([scores[:, :1], of_own], axis=1).astype(np.float32)

    def _ids(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns ``positive_ids`` and ``negative_ids`` of a global batch, see `TripletBatch`."""
        positives, *negatives = self._known.copies[columns[1:]]
        place, known = self._known.of(columns[0])
        there = np.isin(known, [positives, *negatives])
        place, known = place[there], known[there]
        # The further columns have the other known positives of each query, each number once.
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
        """Returns ``[P, M]`` uint32 seeds, the same for a text however the batch is split."""
        draws = np.random.default_rng((self._seed, step, _SEEDS))
        size = len(self._tables), len(order)
        seeds = draws.integers(2**32, size=size, dtype=np.uint32)[:, order]
        parts = np.split(seeds, self._parts, axis=1)[self._local]
        return np.stack([part.reshape(-1) for part in parts])

    def _make(self, step: int, picked: np.ndarray) -> TripletBatch:
        columns, scores = self.rows(step, np.asarray(picked))
        encoded = range(len(self._tables))
        lengths = np.stack([self._lengths[min(kind, 1)][columns[kind]] for kind in encoded])
        order = balance_parts(lengths.sum(0), self._parts)
        columns, lengths, scores = columns[:, order], lengths[:, order], scores[order]
        layouts = [
            lay_out(part.reshape(-1), block=self.shape.block, row_lengths=self.shape.row_lengths)
            for part in np.split(lengths, self._parts, axis=1)
        ]
        # The capacity is the same on every host, since it depends only on the global batch.
        capacity = self.shape.capacity(max(len(layout.rows) for layout in layouts))
        blocks, size = self._arrays(capacity)
        parts = np.split(columns[: len(self._tables)], self._parts, axis=1)
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
        scores, positives, negatives, documents = (
            np.concatenate(np.split(x, self._parts)[self._local])
            for x in (scores, *self._ids(columns), columns[1:].T)
        )
        vectors = None if self._vectors is None else self._vectors[documents]
        return TripletBatch(texts, scores, positives, negatives, vectors)
