"""Tests that packing places every text without overlap, and leaves little padding."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfdistill_jax.data.batch_shape import BatchShape, balance_parts, choose_shape
from selfdistill_jax.data.packing import block_of, lay_out, row_lengths, write_tokens
from selfdistill_jax.data.tokens import TokenTable


def packed(lengths, block, kinds, limit=10**6, **options):
    """Packs texts of consecutive numbers that identify their text and place."""
    lengths = np.array(lengths, np.int32)
    layout = lay_out(np.minimum(lengths, limit), block=block, row_lengths=kinds)
    ids = np.concatenate([[0], *(1000 * i + np.arange(n) for i, n in enumerate(lengths))])[1:]
    table = TokenTable(ids.astype(np.int32), np.cumsum([0, *lengths]))
    rows = np.arange(len(lengths))
    options = {"blocks": len(layout.rows), "block": block, "row_lengths": kinds} | options
    return write_tokens(layout, [(table, rows, limit)], **options)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 32), min_size=1, max_size=60))
def test_every_token_is_in_its_place(lengths):
    count = len(lengths)
    texts = packed(lengths, 64, (8, 16, 32), blocks=100, texts=count + 3)
    assert texts.ids.shape == texts.segment_ids.shape == texts.positions.shape == (100, 64)
    ids, numbers, places = (x.reshape(-1) for x in (texts.ids, texts.segment_ids, texts.positions))
    assert texts.lengths.tolist() == [*lengths, 0, 0, 0]
    for i, (start, length) in enumerate(zip(texts.starts, lengths, strict=False)):
        at = np.arange(start, start + length)
        assert ids[at].tolist() == (1000 * i + np.arange(length)).tolist()
        assert set(numbers[at]) <= {i}
        assert places[at].tolist() == list(range(length))
        if length:  # it is within one row, in a block in use
            kind = texts.row_lengths[texts.row_kind[start // 64]]
            assert start // kind == (start + length - 1) // kind
            assert start // 64 < texts.num_blocks
    assert np.sum(numbers != count + 3) == sum(lengths)


def test_texts_are_cut_at_their_limit():
    texts = packed([3, 9], 32, (8, 16, 32), limit=4)
    ids, starts = texts.ids.reshape(-1), texts.starts
    assert texts.lengths.tolist() == [3, 4]
    assert ids[starts[0] :][:3].tolist() == [0, 1, 2]
    assert ids[starts[1] :][:4].tolist() == [1000, 1001, 1002, 1008]  # the closing token stays


def test_a_text_longer_than_all_rows_is_refused():
    with pytest.raises(ValueError, match="a text has 33 tokens; the longest row has 32"):
        lay_out(np.array([3, 33]), block=64, row_lengths=(8, 16, 32))


def fewest_rows(lengths, size):
    """Returns the smallest number of rows, by trying all assignments."""
    best = len(lengths)
    for rows in itertools.product(range(len(lengths)), repeat=len(lengths)):
        room = np.bincount(rows, weights=lengths)
        if room.max() <= size:
            best = min(best, np.count_nonzero(room))
    return best


@pytest.mark.parametrize("seed", range(12))
def test_rows_are_within_the_bound_of_the_best_packing(seed):
    lengths = np.random.default_rng(seed).integers(1, 17, 6)
    layout = lay_out(lengths, block=16, row_lengths=(16,))
    assert len(layout.rows) <= fewest_rows(lengths, 16) * 11 / 9 + 6 / 9


@pytest.mark.parametrize("limit", [64, 96, 128, 200, 256, 512])
@pytest.mark.parametrize(("mean", "spread"), [(100, 40), (85, 45), (220, 90)])
def test_little_is_padding(mean, spread, limit):
    """The 128 triplets have lengths like questions and passages; a low limit cuts most of them."""
    rng = np.random.default_rng(0)
    kinds = row_lengths(limit)
    block = block_of(512, kinds)
    shares = []
    for _ in range(5):
        documents = np.clip(rng.normal(mean, spread, 256).astype(int), 5, limit)
        lengths = np.concatenate([rng.integers(5, 20, 128), documents])
        layout = lay_out(lengths, block=block, row_lengths=kinds)
        shares.append(1 - lengths.sum() / (block * len(layout.rows)))
    assert np.mean(shares) < 0.08


@pytest.mark.parametrize("limit", range(1, 600, 7))
def test_rows_hold_the_longest_text_and_divide_a_block(limit):
    kinds = row_lengths(limit)
    assert limit <= kinds[-1] < limit + 24
    assert sorted(set(kinds)) == list(kinds)
    assert not any(length % 8 for length in kinds)
    assert math.lcm(*kinds) <= max(512, 2 * kinds[-1])


def test_short_rows_are_taken_where_they_fill():
    kinds = (64, 128, 256)
    exact = lay_out(np.full(64, 64), block=1024, row_lengths=kinds)
    assert exact.rows.tolist() == [0] * 4
    mixed = lay_out(np.array([256] * 4 + [128] * 8), block=1024, row_lengths=kinds)
    assert sorted(mixed.rows.tolist()) == [1, 2]


@pytest.mark.parametrize(("triplets", "parts"), [(1, 1), (8, 1), (128, 1), (1, 8), (8, 8), (64, 2)])
def test_a_usual_batch_is_of_the_usual_shape(triplets, parts):
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 200, 1000)
    given = {"triplets": triplets, "parts": parts, "block": 512, "limit": 200}
    shape = choose_shape(3 * sizes.mean(), 3 * sizes.std(), **given)
    options = {"block": shape.block, "row_lengths": shape.row_lengths}
    layouts = []
    while len(layouts) < 50:
        batch = rng.choice(sizes, (triplets * parts, 3))
        dealt = batch[balance_parts(batch.sum(1), parts)].reshape(parts, -1)
        layouts += [lay_out(part, **options) for part in dealt]
    (room,) = shape.capacities
    assert sum(len(layout.rows) > room for layout in layouts) <= 1
    # The room is less than 1.5 times the need, plus a few blocks for small batches.
    assert room < 1.5 * max(len(layout.rows) for layout in layouts) + 6


@pytest.mark.parametrize(("triplets", "parts"), [(64, 1), (128, 1), (32, 8), (4096, 1)])
def test_what_an_accelerator_computes_is_mostly_texts(triplets, parts):
    """The lengths are like those of medical answers, many of which are cut."""
    rng = np.random.default_rng(0)
    sizes = np.minimum(rng.gamma(2.5, 50, (20_000, 3)).astype(int) + 3, [20, 200, 200])
    totals = sizes.sum(1)
    given = {"triplets": triplets, "parts": parts, "block": 65536, "limit": 200}
    shape = choose_shape(totals.mean(), totals.std(), **given, single_block=True)
    assert shape.row_lengths == (256,)
    assert 1 <= len(shape.capacities) <= 3
    useful = computed = 0
    unusual = 0
    for _ in range(3 if triplets > 1000 else 40):
        batch = sizes[rng.integers(len(sizes), size=triplets * parts)]
        dealt = [batch[at].ravel() for at in np.split(balance_parts(batch.sum(1), parts), parts)]
        rows = [len(lay_out(part, block=256, row_lengths=(256,)).rows) for part in dealt]
        room = shape.capacity(max(rows))
        unusual += room > shape.capacities[-1]
        assert room % shape.merged == 0
        assert room // shape.merged * 256 <= 65536
        useful, computed = useful + batch.sum(), computed + parts * room * 256
    assert unusual <= 1
    assert 1 - useful / computed < 0.08


def test_an_accelerators_scores_fit_its_memory():
    given = {"triplets": 64, "parts": 1, "block": 65536, "single_block": True}
    shape = choose_shape(8000.0, 3000.0, limit=8192, **given)
    assert shape.row_lengths == (8192,)
    assert {room // shape.merged for room in shape.capacities} == {1}  # one row a block
    assert len(shape.capacities) == 1


@pytest.mark.parametrize("needed", [1, 7, 8, 29])
def test_an_unusual_batch_has_room(needed):
    blocks = BatchShape(64, (7,), (8, 16, 32)).capacity(needed)
    assert needed <= blocks
    assert blocks in (7, 14, 28, 56)
    assert blocks == 7 or blocks < 2 * needed
