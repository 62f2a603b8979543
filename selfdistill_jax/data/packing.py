"""Packs texts into rows of fixed length, and rows into blocks, with little padding.

The algorithm is best fit decreasing: texts are placed from the longest to the shortest, each into
the row where the least space is left over, or into a new row if none fits (at most 11/9 of the rows
of the best packing, Johnson 1974; 1 to 3 % of the tokens are padding in practice). Shorter rows
need less attention but fill less well, so a few rules for the length of new rows are tried, and the
cheapest layout is used: 0.2 ms for each rule with 384 texts.
"""

import bisect
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from selfdistill_jax.data.tokens import TokenTable
from selfdistill_jax.packed import PackedTexts

# A token in a row of 550 costs twice as much as one in a very short row (MiniLM's size, 2 cores).
_ATTENTION = 1 / 550
# Tokens of a block whose activations in a layer fit a CPU's cache; larger blocks are slower there.
CPU_BLOCK = 512
# Limits of an accelerator's block: its tokens, and its tokens times the length of its rows. Without
# the latter, attention scores of long rows would fill the memory: at the limit, the scores of 12
# heads take 1.6 GB.
MOST_TOKENS, MOST_PAIRS = 2**16, 2**25
LANES = 128
# In rows of this length, a token's attention costs as much as its other products (BERT-base on v5e,
# by the compiler's schedule of the kernels).
_ACCELERATOR_ATTENTION = 1600
# A text starts a shorter row only if it fills more than this share of it; each share is tried.
_SHARES = (0.5, 0.625, 0.75, 0.875)


class Layout(NamedTuple):
    """Describes where texts lie in blocks.

    Attributes:
      starts: ``[M]`` int32, the index of each text's first token among all blocks' tokens.
      rows: ``[n]`` int32, the index of each block's row length.
    """

    starts: np.ndarray
    rows: np.ndarray

    def merged(self, count: int) -> "Layout":
        """Returns the layout with each ``count`` blocks, of one row length, joined into one."""
        return Layout(self.starts, self.rows[::count])


def row_lengths(limit: int) -> tuple[int, ...]:
    """Returns the row lengths, shortest first, for texts of up to ``limit`` tokens.

    The longest row is the limit, rounded up: many texts are cut at the limit, and each of them
    fills such a row. Longer rows left 14 % of the demo's batches empty (docstrings cut at 96),
    these 1 %. The other lengths are one and two thirds of it. Where quarters need less rounding,
    they are one and three quarters, or one and two if three would need blocks of over `CPU_BLOCK`
    tokens: with thirds alone, documents cut at 64 lay in rows of 72 (9 to 11 % padding, instead of
    2 to 4 %). Of a dozen choices tried on three collections cut at 96 and 200, none costs over 3 %
    less. Multiples of eight keep the tiles of matrix products whole.

    >>> row_lengths(200), row_lengths(96), row_lengths(64), row_lengths(512)
    ((72, 144, 216), (32, 64, 96), (16, 48, 64), (128, 256, 512))
    """
    third, quarter = (8 * max(1, math.ceil(limit / (8 * parts))) for parts in (3, 4))
    if 3 * third <= 4 * quarter:
        return third, 2 * third, 3 * third
    # A block is a multiple of each row length: of 12 quarters with three, of 4 with two.
    middle = 3 * quarter if 12 * quarter <= CPU_BLOCK else 2 * quarter
    return quarter, middle, 4 * quarter


def accelerator_row_length(limit: int) -> int:
    """Returns the row length on accelerators, for texts of up to ``limit`` tokens.

    A TPU computes 128 lanes at once, so it pads other lengths in memory, and the kernels of
    `encoder.tpu.row_attention` need multiples of 128. XLA for GPUs finds no tiles for some others.
    Of these lengths, up to 512, the result costs least if every text has the limit: four texts of
    96 fill a row of 384, while one leaves a quarter of a row of 128 empty.

    >>> accelerator_row_length(96), accelerator_row_length(128), accelerator_row_length(200)
    (384, 128, 256)
    """
    shortest = LANES * math.ceil(limit / LANES)

    def cost(length: int) -> float:
        return row_cost(length, filled=length // limit * limit / length)

    return min(range(shortest, max(shortest, 512) + 1, LANES), key=cost)


def block_limit(*, accelerator: bool) -> int:
    """Returns the number of tokens that a layer should process at once, at most."""
    return MOST_TOKENS if accelerator else CPU_BLOCK


def row_cost(length: int, filled: float = 1.0) -> float:
    """Returns the time that an accelerator needs for a token, in rows of a length.

    Args:
      length: number of tokens of a row.
      filled: share of the rows that texts fill.

    Returns:
      The time relative to a token in very short rows without padding.
    """
    return (1 + length / _ACCELERATOR_ATTENTION) / filled


def block_of(tokens: int, row_lengths: Sequence[int]) -> int:
    """Returns the largest common multiple of the row lengths up to ``tokens``, or the least one.

    >>> block_of(512, (72, 144, 216)), block_of(16, (8, 16, 24))
    (432, 48)
    """
    unit = math.lcm(*row_lengths)
    return max(tokens // unit * unit, unit)


def lay_out(lengths: np.ndarray, *, block: int, row_lengths: Sequence[int]) -> Layout:
    """Packs texts into rows and blocks.

    Args:
      lengths: ``[M]`` number of tokens of each text; texts of length 0 take no space.
      block: number of tokens of a block.
      row_lengths: possible row lengths, shortest first; each divides ``block``.

    Raises:
      ValueError: a text is longer than the longest row.
    """
    longest = row_lengths[-1]
    if len(lengths) and lengths.max() > longest:
        raise ValueError(f"a text has {lengths.max()} tokens; the longest row has {longest}")
    order = np.argsort(-lengths, kind="stable")
    order = order[: np.count_nonzero(lengths)].tolist()
    sizes = lengths.tolist()
    choices = (_assign_rows(order, sizes, opens) for opens in _rules(row_lengths))
    best = min(choices, key=lambda rows: _cost(rows, block, row_lengths))
    return _place(best, sizes, block, row_lengths)


def _rules(row_lengths: Sequence[int]) -> list[Callable[[int], int]]:
    """Returns rules that map the length of a text to the length of the row that it starts.

    The first rule starts only rows of the longest kind. Each other rule starts a shorter row for a
    text that fills at least a certain share of it.
    """
    longest = row_lengths[-1]

    def rule(share: float, least: int) -> Callable[[int], int]:
        def opens(size: int) -> int:
            fitting = row_lengths[bisect.bisect_left(row_lengths, size)]
            return fitting if fitting >= least and size > share * fitting else longest

        return opens

    return [lambda _: longest] + [rule(s, least) for least in row_lengths[:-1] for s in _SHARES]


def _assign_rows(order: list[int], sizes: list[int], opens: Callable[[int], int]):
    """Returns rows as (length, texts in the row)."""
    rows: list[tuple[int, list[int]]] = []
    room: list[tuple[int, int]] = []  # (tokens left, row), sorted
    for text in order:
        size = sizes[text]
        at = bisect.bisect_left(room, (size, -1))
        if at < len(room):
            left, row = room.pop(at)
        else:
            left, row = opens(size), len(rows)
            rows.append((left, []))
        rows[row][1].append(text)
        if left > size:
            bisect.insort(room, (left - size, row))
    return rows


def _cost(rows, block: int, row_lengths: Sequence[int]) -> float:
    blocks = [-(-sum(r[0] == length for r in rows) * length // block) for length in row_lengths]
    return sum(n * (1 + length * _ATTENTION) for n, length in zip(blocks, row_lengths, strict=True))


def _place(rows, sizes: list[int], block: int, row_lengths: Sequence[int]) -> Layout:
    starts = np.zeros(len(sizes), np.int32)
    kinds: list[int] = []
    for kind in reversed(range(len(row_lengths))):
        length = row_lengths[kind]
        at = len(kinds) * block
        own = [texts for row, texts in rows if row == length]
        kinds += [kind] * -(-len(own) * length // block)
        for number, texts in enumerate(own):
            place = at + number * length
            for text in texts:
                starts[text] = place
                place += sizes[text]
    return Layout(starts, np.array(kinds, np.int32))


def write_tokens(
    layout: Layout,
    table_rows: Sequence[tuple[TokenTable, np.ndarray, int]],
    *,
    blocks: int,
    block: int,
    row_lengths: Sequence[int],
    texts: int | None = None,
) -> PackedTexts:
    """Returns the texts with their tokens at the places given by a layout.

    Args:
      layout: layout of all texts together.
      table_rows: tables, the rows to take from each, and the number of tokens to cut them at.
      blocks: N, at least the number of blocks of the layout.
      block: T, the number of tokens of a block.
      row_lengths: as for `lay_out`.
      texts: M; entries beyond the given texts stay empty.
    """
    parts = [table.flat(rows, limit=limit) for table, rows, limit in table_rows]
    lengths = np.concatenate([part[1] for part in parts])
    count = len(lengths) if texts is None else texts
    within = np.arange(lengths.sum(), dtype=np.int32)
    within -= np.repeat(np.cumsum(lengths, dtype=np.int32) - lengths, lengths)
    place = np.repeat(layout.starts, lengths) + within
    ids, positions = (np.zeros(blocks * block, np.int32) for _ in range(2))
    numbers = np.full(blocks * block, count, np.int32)
    ids[place] = np.concatenate([part[0] for part in parts])
    positions[place] = within
    numbers[place] = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    empty = (0, count - len(lengths))
    return PackedTexts(
        ids=ids.reshape(blocks, block),
        segment_ids=numbers.reshape(blocks, block),
        positions=positions.reshape(blocks, block),
        row_kind=np.pad(layout.rows, (0, blocks - len(layout.rows))),
        num_blocks=np.int32(len(layout.rows)),
        starts=np.pad(layout.starts, empty),
        lengths=np.pad(lengths, empty),
        row_lengths=tuple(row_lengths),
    )
