"""Chooses the sizes of a batch's arrays, and the part of the batch that each device computes."""

import math
from typing import NamedTuple

import numpy as np

from selfdistill_jax.data.packing import (
    MOST_PAIRS,
    accelerator_row_length,
    block_of,
    row_lengths,
)


class BatchShape(NamedTuple):
    """Holds the array sizes that all batches of a run share.

    Attributes:
      block: number of tokens of a block, into which texts are packed.
      capacities: possible numbers of blocks of the arrays, ascending. Each needs another compiled
        program; the last one is enough for nearly every batch.
      row_lengths: possible row lengths of a block.
      merged: number of blocks into which a batch's blocks are joined after packing, if all rows
        have one length; 0 leaves them as they are.
    """

    block: int
    capacities: tuple[int, ...]
    row_lengths: tuple[int, ...]
    merged: int = 0

    def capacity(self, needed: int) -> int:
        """Returns the least capacity for ``needed`` blocks; beyond the last one, that is doubled.

        >>> shape = BatchShape(216, (60, 64, 70), (216,), merged=1)
        >>> shape.capacity(59), shape.capacity(61), shape.capacity(141)
        (60, 64, 280)
        """
        capacity = next((n for n in self.capacities if n >= needed), self.capacities[-1])
        while capacity < needed:
            capacity *= 2
        return capacity


# Standard deviations above the mean that the only capacity holds: one batch in 30,000 needs more.
_USUAL = 4.0
# The same for several capacities; 0.8 deviations stay empty on average. There are no more of them,
# since each is compiled before the first batch of its size can be trained on.
_SIZES = (0.0, 1.0, 3.0)
# Factor for the padding within rows: 1 to 3 % on three collections.
_UNFILLED = 1.03


def choose_shape(
    mean: float,
    deviation: float,
    *,
    triplets: int,
    parts: int = 1,
    block: int,
    limit: int,
    single_block: bool = False,
) -> BatchShape:
    """Returns the array sizes for the batches of a run.

    One capacity is enough for all but a few batches in 10,000; with ``single_block``, three are
    enough for all but one in 700.

    Args:
      mean, deviation: mean and standard deviation of the number of tokens of a triplet.
      triplets: number of triplets of a part.
      parts: number of parts of a batch, see `balance_parts`.
      block: maximum number of tokens of a block.
      limit: number of tokens of the longest text.
      single_block: whether to use the layout for accelerators: one row length and as few blocks as
        possible. Loop bounds and branches that depend on data would wait for the host, so padding
        is computed too; a few sizes of arrays are compiled to limit the waste.
    """
    # Deviation of a part's share of the batch; parts differ from it by less than a triplet does.
    spread = deviation * max((triplets / parts) ** 0.5, 1)

    def tokens(deviations: float) -> float:
        return (triplets * mean + deviations * spread) * _UNFILLED

    if single_block:
        longest = accelerator_row_length(limit)
        most = max(min(block, MOST_PAIRS // longest), longest)
        merged = math.ceil(tokens(_SIZES[-1]) / most)
        rows = {max(math.ceil(tokens(d) / (longest * merged)), 1) for d in _SIZES}
        return BatchShape(longest, tuple(merged * n for n in sorted(rows)), (longest,), merged)
    lengths = row_lengths(limit)
    usual = tokens(_USUAL)
    equal = usual / math.ceil(usual / block_of(block, lengths))
    unit = math.lcm(*lengths)
    size = math.ceil(equal / unit) * unit
    # For each row length, one block may stay partly empty.
    return BatchShape(size, (math.ceil(usual / size) + len(lengths) - 1,), lengths)


def balance_parts(sizes: np.ndarray, parts: int) -> np.ndarray:
    """Returns an order in which equal parts of the batch need about the same work.

    A step takes as long as the device with the most tokens. The largest triplets are assigned
    first, from the first part to the last and back; a single part keeps its order.

    Args:
      sizes: ``[B]`` number of tokens of each triplet.
      parts: P, the number of parts, which divides B.

    Returns:
      ``[B]`` indices of triplets, part after part.

    Example:
      >>> balance_parts(np.array([9, 1, 8, 2, 7, 3]), 2).tolist()
      [0, 5, 3, 2, 4, 1]
    """
    if parts == 1:
        return np.arange(len(sizes))
    rounds = np.argsort(-sizes, kind="stable").reshape(-1, parts)
    rounds[1::2] = rounds[1::2, ::-1].copy()
    return rounds.T.reshape(-1)
