"""Sizes of a batch's arrays, and which part of the batch each device computes."""

import math
from typing import NamedTuple

import numpy as np

from selfdistill_jax.data.packing import MOST_PAIRS, block_of, row_lengths


class BatchShape(NamedTuple):
    """What batches' arrays have in common.

    Attributes:
      block: tokens of a block that texts are laid into.
      capacities: numbers of blocks that arrays have room for, least first, each another compiled
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
    single_block: bool = False,
) -> BatchShape:
    """One shape for all but a few batches in 10,000, or three for all but one in 700.

    Args:
      mean, deviation: of the tokens of a triplet.
      triplets: of a part.
      parts: of a batch, see `balance_parts`.
      block: tokens of a block at the most.
      limit: tokens of the longest text.
      single_block: the layout for accelerators: one row length, as few blocks as possible. Loop
        bounds and branches that depend on data would wait for the host, so padding is computed too;
        a few sizes of arrays are compiled to limit the waste.
    """
    # Of the batch's mean; parts differ from it by less than a triplet does.
    spread = deviation * max((triplets / parts) ** 0.5, 1)

    def tokens(deviations: float) -> float:
        return (triplets * mean + deviations * spread) * _UNFILLED

    if single_block:
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
    """Returns an order in which equal parts of the batch are about equally much work.

    A step takes as long as the device with the most tokens. The largest examples are given out
    first, from the first part to the last and back; one part alone stays as it is.

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
