"""Chooses the shapes of the batches in which many texts are encoded, and packs them."""

import math
from typing import NamedTuple

import jax
import numpy as np

from selfdistill_jax.data.packing import (
    LANES,
    MOST_PAIRS,
    block_limit,
    block_of,
    lay_out,
    row_cost,
    row_lengths,
    write_tokens,
)
from selfdistill_jax.data.tokens import TokenTable
from selfdistill_jax.packed import PackedTexts

_CAPACITIES = (4096, 32768)  # tokens per batch and device: for few texts, for many texts
_TOKENS_A_TEXT = 8  # lowest mean text length a batch is sized for; shorter texts need more batches
_COMMON_LIMIT = 512
# For `split_by_length`: the first limit, and the tokens that BERT-base encodes on a v5e in the time
# of compiling a program, half a minute.
_SHORT, _COMPILING = 256, 1.3e7


class Capacity(NamedTuple):
    """Shape of a batch on one device: N blocks of T tokens, M texts, and possible row lengths."""

    blocks: int
    block: int
    texts: int
    row_lengths: tuple[int, ...]


def split_by_length(lengths: np.ndarray, *, copies: float = 1.0) -> list[np.ndarray]:
    """Splits texts for accelerators, so that short texts are not packed into long rows.

    Attention takes a token longer in a longer row. The limits of the parts are 256, 512, 1,024, …
    tokens. Each part needs its own compiled program, so texts get a part of their own only if that
    saves more time than compiling takes; otherwise they join the next part.

    Args:
      lengths: ``[rows]`` number of tokens of each text.
      copies: number of texts that each length represents, if the lengths are a sample.

    Returns:
      The rows of each part, in ascending order; every row is in exactly one part.
    """
    parts, longest = [], int(lengths.max(initial=0))
    shorter, limit = -1, _SHORT  # texts of up to `shorter` tokens have their part
    while shorter < longest:
        picked = (lengths > shorter) & (lengths <= limit)
        saved = copies * lengths[picked].sum() * (row_cost(longest) - row_cost(limit))
        if limit >= longest or saved >= _COMPILING:
            parts.append(np.flatnonzero(picked))
            shorter = limit
        limit *= 2
    return parts


def _reach(lengths: np.ndarray, limit: int) -> int:
    """Returns the length of the longest text that rows must fit.

    It is at least BERT's 512, so that most collections share a compiled program, and at most the
    limit. For longer texts it is the power of two that fits them, not the limit itself, because
    attention's squares of a row of 8,192 tokens take 268 MB per head.
    """
    longest = int(lengths.max(initial=1))
    return min(limit, max(_COMMON_LIMIT, 1 << (longest - 1).bit_length()))


def pack(
    tokens: TokenTable,
    lengths: np.ndarray,
    groups: list[np.ndarray],
    *,
    capacity: Capacity,
    limit: int,
) -> PackedTexts:
    """Packs one batch: one group of texts per device, stacked on a leading axis.

    Args:
      tokens: all texts.
      lengths: ``[rows]`` number of tokens of each text, at most the limit.
      groups: the rows of each device's texts.
      capacity: the batches' shape, from `choose_capacity`.
      limit: number of tokens that each text is truncated to.
    """
    kinds = capacity.row_lengths
    layouts = [lay_out(lengths[rows], block=capacity.block, row_lengths=kinds) for rows in groups]
    # More blocks than the capacity are needed only for unusual distributions of lengths.
    needed = max(len(layout.rows) for layout in layouts)
    blocks = capacity.blocks * -(-needed // capacity.blocks)
    packed = [
        write_tokens(
            layout,
            [(tokens, rows, limit)],
            blocks=blocks,
            block=capacity.block,
            row_lengths=kinds,
            texts=capacity.texts,
        )
        for layout, rows in zip(layouts, groups, strict=True)
    ]
    return jax.tree.map(lambda *arrays: np.stack(arrays), *packed)


def _best_rows(lengths: np.ndarray) -> tuple[int, float]:
    """Returns the cheapest row length on accelerators, and the share of a row that texts fill.

    The lengths to choose from are the multiples of 128 up to 512 that hold the longest text. If
    that text has more than 512 tokens, only the next multiple is possible. For each length, a
    sample of texts, enough for one batch, is packed. The share is 1 % less than measured, because
    other batches may fill their rows less well.
    """
    shortest = LANES * math.ceil(int(lengths.max()) / LANES)
    sample = np.sort(lengths)[:: -math.ceil(int(lengths.sum()) / _CAPACITIES[-1])]
    best = math.inf, 0, 0.0
    for length in range(shortest, max(shortest, 512) + 1, LANES):
        rows = len(lay_out(sample, block=length, row_lengths=(length,)).rows)
        filled = 0.99 * float(sample.sum()) / (rows * length)
        best = min(best, (row_cost(length, filled), length, filled))
    return best[1:]


def choose_capacity(
    lengths: np.ndarray, *, limit: int, parts: int, accelerator: bool
) -> tuple[Capacity, int]:
    """Returns the batches' shape and the number of parts that the texts are split into.

    Args:
      lengths: ``[rows]`` number of tokens of each text, some above 0.
      limit: number of tokens that each text is truncated to.
      parts: the number of parts is a multiple of this: devices times batches at once.
      accelerator: whether to use the layout for accelerators, see `on_accelerator`.
    """
    filled = 1 / 1.08
    if accelerator:
        length, filled = _best_rows(lengths)
        kinds = (length,)
    else:
        kinds = row_lengths(_reach(lengths, limit))
    unit = math.lcm(*kinds)
    block = block_of(min(block_limit(accelerator=accelerator), _CAPACITIES[0]), kinds)
    total = float(lengths.sum()) / filled / parts
    if total <= unit and len(lengths) <= unit // 2 * parts:
        return Capacity(1, unit, unit // 2, kinds), parts
    # One block of each row length may stay partly empty.
    spare = len(kinds) - 1
    counts = [math.ceil(tokens / block) + spare for tokens in _CAPACITIES]
    blocks = next((n for n in counts if total <= (n - spare) * block), counts[-1])
    texts = blocks * block // _TOKENS_A_TEXT
    rounds = max(
        math.ceil(total / ((blocks - spare) * block)), math.ceil(len(lengths) / (texts * parts))
    )
    if accelerator and blocks * block * unit <= MOST_PAIRS:
        return Capacity(1, blocks * block, texts, kinds), rounds * parts
    return Capacity(blocks, block, texts, kinds), rounds * parts
