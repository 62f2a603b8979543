"""Training batches as a pure function of (seed, step).

So resuming needs only the step number, and the number of hosts, devices or threads never changes
what is trained on.
"""

import dataclasses
import math
from typing import NamedTuple

import grain
import jax
import numpy as np

from selfdistill_jax.data.collection import SAMPLE_NEGATIVE
from selfdistill_jax.data.negatives import KnownPositives, draw
from selfdistill_jax.data.packing import MOST_PAIRS, block_of, lay_out, row_lengths, write_tokens
from selfdistill_jax.data.tokens import TokenTable
from selfdistill_jax.packed import PackedTexts

_SEEDS = 1  # a stream of its own, beside that of the negatives
SCORES = ("positive_score", "negative_score")


class TripletBatch(NamedTuple):
    """One host's part of a global batch.

    Attributes:
      texts: P parts, one after the other on a leading axis: P is devices here times micro-batches.
        Each packs the texts of its ``b`` triplets: queries, then positives, then negatives, M = 3b.
        A query of length 0 stands for no triplet.
      scores: ``[P b, 2]`` float32, a teacher's of positive and negative, or NaN.
    """

    texts: PackedTexts
    scores: np.ndarray

    @property
    def useful_tokens(self) -> int:
        return int(self.texts.lengths.sum())

    @property
    def computed_tokens(self) -> int:
        """Of all blocks in use."""
        return int(self.texts.blocks.sum()) * self.texts.ids.shape[-1]


class BatchShape(NamedTuple):
    """What batches' arrays have in common.

    Attributes:
      block: tokens of a block that texts are laid into.
      rooms: numbers of blocks that arrays have room for, least first, each of them another compiled
        program; the last one holds nearly every batch.
      row_lengths: that a block can be cut into.
      merged: into how many blocks those of a batch are then joined, its rows being of one length;
        0: they stay as they are.
    """

    block: int
    capacities: tuple[int, ...]
    row_lengths: tuple[int, ...]
    merged: int = 0

    def capacity(self, needed: int) -> int:
        """The least one that holds so many blocks; the last one doubled, until it does.

        >>> shape = BatchShape(216, (60, 64, 70), (216,), merged=1)
        >>> shape.capacity(59), shape.capacity(61), shape.capacity(141)
        (60, 64, 280)
        """
        capacity = next((n for n in self.capacities if n >= needed), self.capacities[-1])
        while capacity < needed:
            capacity *= 2
        return capacity


# So many standard deviations above the mean a batch of a usual shape may be: one in 30,000 is more.
_USUAL = 4.0
# Where several shapes share the batches; 0.8 deviations stay empty on average. Not more
# of them, since each is compiled before the first batch of its size can be trained on.
_SIZES = (0.0, 1.0, 3.0)
# What rows leave empty of themselves: 1 to 3 % on three collections.
_UNFILLED = 1.03


def choose_shape(
    mean: float,
    deviation: float,
    *,
    triplets: int,
    parts: int = 1,
    block: int,
    limit: int,
    merge: bool = False,
) -> BatchShape:
    """One shape for all but a few batches in 10,000, or three for all but one in 700.

    Args:
      mean, deviation: of the tokens of a triplet.
      triplets: of a part.
      parts: that a batch is dealt to, see `balance_parts`.
      block: tokens of a block at the most.
      limit: tokens of the longest text.
      merge: the layout for accelerators: one row length, as few blocks as possible. Loop bounds
        and branches that depend on data would wait for the host, so padding is computed too; a few
        sizes of arrays are compiled to limit the waste.
    """
    # Of the batch's mean; parts differ from it by less than a triplet does.
    spread = deviation * max((triplets / parts) ** 0.5, 1)

    def tokens(deviations: float) -> float:
        return (triplets * mean + deviations * spread) * _UNFILLED

    if merge:
        longest = row_lengths(limit)[-1]
        most = max(min(block, MOST_PAIRS // longest), longest)
        merged = math.ceil(tokens(_SIZES[-1]) / most)
        rows = {max(math.ceil(tokens(d) / (longest * merged)), 1) for d in _SIZES}
        return BatchShape(longest, tuple(merged * n for n in sorted(rows)), (longest,), merged)
    lengths = row_lengths(limit)
    usual = tokens(_USUAL)
    equal = usual / math.ceil(usual / block_of(block, lengths))
    unit = math.lcm(*lengths)
    size = math.ceil(equal / unit) * unit
    # Of each kind of rows one block may stay partly empty.
    return BatchShape(size, (math.ceil(usual / size) + len(lengths) - 1,), lengths)


def balance_parts(sizes: np.ndarray, parts: int) -> np.ndarray:
    """An order in which equal parts of the batch are about equally much work.

    A step takes as long as the device with the most tokens. The largest are dealt first, from the
    first part to the last and back; one part alone stays as it is.

    Args:
      sizes: ``[B]``, of each triplet.
      parts: P, which divides B.

    Returns:
      ``[B]`` places, part after part.

    Example:
      >>> balance_parts(np.array([9, 1, 8, 2, 7, 3]), 2).tolist()
      [0, 5, 3, 2, 4, 1]
    """
    if parts == 1:
        return np.arange(len(sizes))
    rounds = np.argsort(-sizes, kind="stable").reshape(-1, parts)
    rounds[1::2] = rounds[1::2, ::-1].copy()
    return rounds.T.reshape(-1)


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
      parts: of the global batch, packed each for itself: devices times micro-batches.
      own: this host's parts.
      block: tokens of a block at the most.
      merge: see `choose_shape`.
      dropout: whether texts get seeds of what is dropped of them.
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
        parts: int = 1,
        own: slice = slice(None),
        block: int,
        merge: bool = False,
        dropout: bool = False,
    ):
        self._queries, self._documents = queries, documents
        self._triplets, self._candidates = triplets, candidates
        self._known, self._pool = known, pool
        self._seed, self._parts, self._own = seed, parts, own
        self._dropout = dropout
        self._limits = (query_length, document_length, document_length)
        self._lengths = queries.lengths(query_length), documents.lengths(document_length)
        self.shape = choose_shape(
            *self._tokens_of_triplets(),
            triplets=batch_size // parts,
            parts=parts,
            block=block,
            limit=max(self._limits),
            merge=merge,
        )
        self._batches = (
            grain.MapDataset.range(len(triplets["query"]))
            .seed(seed)
            .shuffle()
            .repeat()  # in another order each epoch
            .batch(batch_size)
            .map_with_index(self._make)
        )

    def _tokens_of_triplets(self) -> tuple[float, float]:
        """Mean and standard deviation; drawn negatives are as what they are drawn from."""
        queries, documents = self._lengths
        drawn = self._triplets["negative"] == SAMPLE_NEGATIVE
        of_drawn = documents[self._pool.start : self._pool.stop]
        if self._candidates is not None and (self._candidates >= 0).any():
            of_drawn = documents[self._candidates[self._candidates >= 0]]
        negatives = documents[self._triplets["negative"]].astype(float)  # of -1 the last one's
        if drawn.any():
            negatives[drawn] = of_drawn.mean()
        totals = queries[self._triplets["query"]] + documents[self._triplets["positive"]]
        totals = totals + negatives
        variance = totals.var() + (drawn.mean() * of_drawn.var() if drawn.any() else 0.0)
        return float(totals.mean()), float(variance**0.5)

    def shapes(self) -> list[TripletBatch]:
        """Shapes and types of batches' arrays, those of the first batch first."""
        first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self[0])
        (parts,) = first.texts.blocks.shape

        def of_room(capacity: int) -> TripletBatch:
            arrays = self._arrays(capacity)
            tokens, rows = (
                jax.ShapeDtypeStruct((parts, *size), np.int32) for size in (arrays, arrays[:1])
            )
            texts = dataclasses.replace(
                first.texts, ids=tokens, texts=tokens, positions=tokens, rows=rows
            )
            return first._replace(texts=texts)

        return [first, *map(of_room, self.shape.capacities)]

    def _arrays(self, capacity: int) -> tuple[int, int]:
        """Blocks, and tokens of each, of arrays that have room for so many blocks."""
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

    def rows(self, step: int, picked: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Query, positive and negative rows ``[B]`` of the picked triplets at a step."""
        queries, positives, negatives = (
            self._triplets[name][picked] for name in ("query", "positive", "negative")
        )
        if (negatives == SAMPLE_NEGATIVE).any():
            drawn = draw(
                queries,
                known=self._known,
                pool=self._pool,
                candidates=None if self._candidates is None else self._candidates[picked],
                seed=(self._seed, step),
            )
            negatives = np.where(negatives == SAMPLE_NEGATIVE, drawn, negatives)
        return queries, positives, negatives

    def _tokens(self, columns: np.ndarray) -> np.ndarray:
        """``[B]``, of each triplet."""
        queries, documents = self._lengths
        return queries[columns[0]] + documents[columns[1:]].sum(0)

    def _seeds(self, step: int, order: np.ndarray) -> np.ndarray:
        """``[P, M]`` uint32 of this host's parts; a text's own, however the batch is split."""
        draws = np.random.default_rng((self._seed, step, _SEEDS))
        seeds = draws.integers(2**32, size=(3, len(order)), dtype=np.uint32)[:, order]
        parts = np.split(seeds, self._parts, axis=1)[self._own]
        return np.stack([part.reshape(-1) for part in parts])

    def _make(self, step: int, picked: np.ndarray) -> TripletBatch:
        picked = np.asarray(picked)
        columns = np.stack(self.rows(step, picked))  # [3, B]
        order = balance_parts(self._tokens(columns), self._parts)
        picked, columns = picked[order], columns[:, order]
        parts = np.split(columns, self._parts, axis=1)
        tables = (self._queries, self._documents, self._documents)
        of_rows = (self._lengths[0], self._lengths[1], self._lengths[1])
        layouts = [
            lay_out(
                np.concatenate([sizes[rows] for sizes, rows in zip(of_rows, part, strict=True)]),
                block=self.shape.block,
                row_lengths=self.shape.row_lengths,
            )
            for part in parts
        ]
        # The same on every host, since it follows from the global batch.
        capacity = self.shape.capacity(max(len(layout.rows) for layout in layouts))
        blocks, size = self._arrays(capacity)
        packed = [
            write_tokens(
                layout.merged(size // self.shape.block),
                list(zip(tables, part, self._limits, strict=True)),
                blocks=blocks,
                block=size,
                row_lengths=self.shape.row_lengths,
            )
            for layout, part in zip(layouts[self._own], parts[self._own], strict=True)
        ]
        texts = jax.tree.map(lambda *arrays: np.stack(arrays), *packed)
        if self._dropout:
            texts = dataclasses.replace(texts, seeds=self._seeds(step, order))
        scores = np.stack([self._triplets[name][picked] for name in SCORES], axis=1)
        return TripletBatch(texts, np.concatenate(np.split(scores, self._parts)[self._own]))
