"""Tests that batch k depends on (seed, k) alone, and compares its content with plain lists."""

import jax
import numpy as np
import pytest

from selfdistill_jax.data.batch_shape import balance_parts
from selfdistill_jax.data.batches import TrainingBatches
from selfdistill_jax.data.negatives import KnownPositives
from selfdistill_jax.data.store import Examples
from selfdistill_jax.data.tokens import TokenTable, first_copies

CLS, SEP, QUERY, DOCUMENT, OTHER = 2, 3, 100, 200, 300
COUNT = 23
POOL = range(4, 30)


def texts(count, first, seed):
    """Returns rows of 3, 4, 7, 12, 19 and 28 tokens; the second token identifies the row."""
    rng = np.random.default_rng(seed)
    extra = rng.permutation(np.arange(count) % 6) ** 2
    return [[CLS, first + i, *rng.integers(OTHER, 400, n), SEP] for i, n in enumerate(extra)]


QUERIES, DOCUMENTS = texts(12, QUERY, 0), texts(30, DOCUMENT, 1)
EXAMPLES = Examples(
    query=np.arange(COUNT, dtype=np.int32) % 12,  # most queries have two positives
    # Each positive occurs once, so it identifies its example.
    positive=np.random.default_rng(2).permutation(30)[:COUNT].astype(np.int32),
    negatives=np.zeros((COUNT, 0), np.int32),
    scores=np.arange(COUNT, dtype=np.float32)[:, None],
)
PAIRS = set(zip(EXAMPLES.query.tolist(), EXAMPLES.positive.tolist(), strict=True))
ALLOWED = [[d for d in POOL if (q, d) not in PAIRS] for q in EXAMPLES.query]


def table(rows):
    return TokenTable(
        np.concatenate(rows).astype(np.int32), np.cumsum([0, *map(len, rows)], dtype=np.int64)
    )


def make(**changes):
    options = {
        "candidates": None,
        "seed": 7,
        "batch_size": 5,
        "query_length": 9,
        "document_length": 14,
        "block": 1024,
    }
    examples = changes.pop("examples", EXAMPLES)
    documents = table(changes.pop("documents", DOCUMENTS))
    copies = first_copies(documents, limit=14)
    known = KnownPositives(examples.query, examples.positive, POOL, copies=copies)
    return TrainingBatches(
        table(QUERIES),
        documents,
        examples,
        known=known,
        pool=POOL,
        **options | changes,
    )


def unpack(batch, kinds=3):
    """Returns the token rows of all triplets: queries, positives, negatives."""
    kinds = tuple([] for _ in range(kinds))
    for part in range(len(batch.inputs.num_blocks)):
        texts = jax.tree.map(lambda x, part=part: x[part], batch.inputs)
        ids = texts.ids.reshape(-1)
        rows = [
            ids[start : start + length].tolist()
            for start, length in zip(texts.starts, texts.lengths, strict=True)
        ]
        for kind, own in zip(kinds, np.split(np.arange(len(rows)), len(kinds)), strict=True):
            kind += [rows[i] for i in own]
    return kinds


def read(batches, steps):
    """Returns (triplet, query, negative) for all rows of the batches before ``steps``, in order."""
    triplet_of = {p: i for i, p in enumerate(EXAMPLES.positive.tolist())}
    rows = []
    for k in range(steps):
        q_p_n = [[row[1] % 100 for row in kind] for kind in unpack(batches[k])]
        rows += [(triplet_of[p], q, n) for q, p, n in zip(*q_p_n, strict=True)]
    return rows


def epochs(batches, size, count):
    """Returns the same as `read`, with one list for each epoch."""
    rows = read(batches, -(-COUNT * count // size))
    return [rows[e * COUNT : (e + 1) * COUNT] for e in range(count)]


def assert_same(ours, theirs):
    assert ours.inputs.row_lengths == theirs.inputs.row_lengths
    for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        kind = {id(ours.scores): np.float32, id(ours.inputs.seeds): np.uint32}.get(id(a), np.int32)
        assert a.dtype == b.dtype == kind
        np.testing.assert_array_equal(a, b)


def test_a_batch_depends_on_its_step_alone():
    expected = [make()[k] for k in range(12)]  # over two epochs, each batch by a new object
    batches = make()
    for k in reversed(range(12)):
        assert_same(batches[k], expected[k])
    first, second = batches.iterate(0), batches.iterate(5)
    for k in range(7):
        assert_same(next(first), expected[k])
        assert_same(next(second), expected[k + 5])
        assert_same(batches[11 - k], expected[11 - k])


def test_scores_are_those_of_the_rows_triplets():
    batch = make()[3]
    for positive, scores in zip(unpack(batch)[1], batch.scores, strict=True):
        triplet = EXAMPLES.positive.tolist().index(positive[1] % 100)
        assert scores[0] == triplet
        assert np.isnan(scores[1])


@pytest.mark.parametrize("size", [1, 5, 16, 23, 50])
def test_every_triplet_once_an_epoch(size):
    for rows in epochs(make(batch_size=size), size, 4):
        assert sorted(t for t, _, _ in rows) == list(range(COUNT))
        assert all(q == EXAMPLES.query[t] for t, q, _ in rows)


def test_every_epoch_and_seed_has_its_own_order():
    orders = [
        tuple(t for t, _, _ in rows) for seed in range(5) for rows in epochs(make(seed=seed), 5, 5)
    ]
    assert len(set(orders)) == 25
    # The orders are also unrelated: one place in 23 agrees by chance.
    agree = [np.mean(np.equal(a, b)) for i, a in enumerate(orders) for b in orders[:i]]
    assert 0.02 < np.mean(agree) < 0.08


@pytest.mark.parametrize("hosts", [2, 4, 8])
def test_hosts_make_the_global_batch_together(hosts):
    whole = make(batch_size=8, parts=8)
    share = 8 // hosts
    own = [slice(h * share, (h + 1) * share) for h in range(hosts)]
    parts = [make(batch_size=8, parts=8, local_parts=one) for one in own]
    for k in range(6):
        each = [host[k] for host in parts]
        assert {len(leaf) for batch in each for leaf in jax.tree.leaves(batch)} == {share}
        assert_same(jax.tree.map(lambda *x: np.concatenate(x), *each), whole[k])


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_hold_the_triplets_of_the_batch(parts):
    def triplets(batch):
        rows = zip(*unpack(batch), batch.scores[:, 0].tolist(), strict=True)
        return sorted(rows, key=str)

    for k in range(5):
        one, several = (make(batch_size=6, parts=n)[k] for n in (1, parts))
        assert triplets(one) == triplets(several)


@pytest.mark.parametrize(("parts", "size"), [(2, 64), (8, 64), (8, 256)])
def test_parts_are_equal_work(parts, size):
    """The largest part sets a step's time; unbalanced, it is 1.03 to 1.2 times the mean."""
    rng = np.random.default_rng(parts * size)
    for _ in range(20):
        tokens = rng.integers(2, 20, size) + rng.integers(4, 200, (2, size)).sum(0)
        order = balance_parts(tokens, parts)
        assert sorted(order) == list(range(size))
        of_parts = tokens[order].reshape(parts, -1).sum(1)
        assert of_parts.max() < 1.03 * of_parts.mean()
    batch = make(batch_size=8, parts=4)[1]
    of_parts = batch.inputs.lengths.sum(1)
    assert np.ptp(of_parts) < np.ptp(batch.inputs.lengths.reshape(4, 3, 2).sum(1))


def test_one_part_stays_in_the_order_drawn():
    assert balance_parts(np.array([1, 3, 2]), 1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("limits", [(3, 8), (9, 14), (20, 40)])
def test_texts_are_cut(limits):
    batches = make(query_length=limits[0], document_length=limits[1])
    for k in range(COUNT):
        for rows, table, limit in zip(
            unpack(batches[k]), (QUERIES, DOCUMENTS, DOCUMENTS), (*limits, limits[1]), strict=True
        ):
            whole = [table[row[1] % 100] for row in rows]
            assert rows == [t if len(t) <= limit else [*t[: limit - 1], SEP] for t in whole]


def test_tokens_are_counted():
    batch = make(batch_size=6, parts=2)[0]
    assert batch.useful_tokens == sum(len(row) for kind in unpack(batch) for row in kind)
    assert batch.computed_tokens == batch.inputs.num_blocks.sum() * batch.inputs.ids.shape[2]
    assert batch.useful_tokens < batch.computed_tokens < batch.inputs.ids.size


def test_seeds_of_dropout_are_the_texts_own():
    """A text's seeds depend on the step, but not on its place or on the number of parts."""

    def seeds(k, parts):
        batch = make(batch_size=6, dropout=True, parts=parts)[k]
        kinds = [np.split(part, 3) for part in batch.inputs.seeds]
        by_place = np.concatenate([np.stack(kind) for kind in kinds], axis=1)
        rows = zip(*unpack(batch), strict=True)
        return by_place[:, [place for place, _ in sorted(enumerate(rows), key=lambda x: x[1])]]

    assert make(batch_size=6)[0].inputs.seeds is None
    for k in range(3):
        assert_same(make(dropout=True)[k], make(dropout=True)[k])
        np.testing.assert_array_equal(seeds(k, 3), seeds(k, 1))
    several = np.stack([seeds(k, 2) for k in range(3)])
    assert several.shape == (3, 3, 6)
    assert len(np.unique(several)) == several.size


@pytest.mark.parametrize(("block", "parts"), [(1024, 5), (128, 1)])
def test_an_accelerators_batches_have_the_same_texts(block, parts):
    """Rows of one length, in one block or more, hold the same texts as rows of several lengths."""
    apart, merged = make(parts=parts), make(parts=parts, single_block=True, block=block)
    shapes = {one.inputs.ids.shape for one in merged.shapes()}
    assert len(shapes) == len(merged.shape.capacities) <= 3
    assert (merged.shape.merged > 1) == (block == 128)
    for step in range(9):
        one, other = apart[step], merged[step]
        assert unpack(one) == unpack(other)
        assert other.inputs.row_lengths == (128,)
        assert other.inputs.ids.shape[1] % merged.shape.merged == 0
        assert_blocks_hold_their_texts(other.inputs)
        if max(other.inputs.num_blocks) <= merged.shape.merged:
            assert other.inputs.ids.shape in shapes


def assert_blocks_hold_their_texts(texts):
    """Checks that each text is within one row, in a block that is in use."""
    size, row = texts.ids.shape[-1], texts.row_lengths[-1]
    for starts, lengths, blocks in zip(texts.starts, texts.lengths, texts.num_blocks, strict=True):
        for start, length in zip(starts, lengths, strict=True):
            assert start % row + length <= row
            assert length == 0 or start // size < blocks
