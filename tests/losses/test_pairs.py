"""Tests both ways of comparing all pairs: agreement, memory, and the choice between them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfdistill_jax import losses
from selfdistill_jax.losses import pairs
from tests.losses.reference import CASES, bound, triplets
from tests.losses.together import every_teacher, values_and_gradients

COMPARES_ALL = [
    case for case in CASES if case[0] in ("distributed", "softmax") or case[1].get("in_batch")
]
BOTH = [
    ("distributed", {"over": "negatives"}),
    ("distributed", {"over": "positives"}),
    *(
        (name, {"in_batch": True, "broadcast": broadcast})
        for name in ("static", "adaptive")
        for broadcast in ("triplet", "released")
    ),
    ("adaptive", {"in_batch": True, "stop_gradient": True}),
    ("distributed", {"stop_gradient": True}),
]


def alike(rows, *, spread, seed=0):
    """Returns documents that differ by ``spread`` of their length: large mean, small variance."""
    _, p, n = triplets(rows, seed=seed, dim=24)
    common = np.random.default_rng(5).standard_normal(24)
    return common + spread * p, common + spread * n


@functools.cache
def by_both(rows, dtype):
    """Returns value and gradient of all of `BOTH` by each method, computed by one program."""
    cases = [
        (name, options | {"method": m}) for m in ("gather", "moments") for name, options in BOTH
    ]
    with jax.enable_x64(dtype == np.float64):
        x = jnp.asarray(np.stack(triplets(rows, dim=24)), dtype)
        found = jax.device_get(jax.jit(values_and_gradients(cases))(x, None, every_teacher(rows)))
    return list(zip(found[: len(BOTH)], found[len(BOTH) :], strict=True))


@pytest.mark.parametrize("rows", [1, 64, 600])
@pytest.mark.parametrize("case", range(len(BOTH)), ids=map(str, BOTH))
def test_closed_form_is_the_pairwise_form(case, rows):
    for dtype, tolerance in ((np.float32, 1e-6), (np.float64, 1e-12)):
        (a, da), (b, db) = by_both(rows, dtype)[case]
        assert a.dtype == dtype
        np.testing.assert_allclose(b, a, rtol=tolerance)
        np.testing.assert_allclose(db, da, atol=3 * tolerance * np.abs(da).max())


@pytest.mark.parametrize("spread", [0.1, 0.01])
def test_nothing_cancels_when_documents_are_alike(spread):
    """Second moments in place of the covariance would make the value 3 to 70 times too large here.

    The targets are close to the margins: the loss is 4e-9 where cosines differ by 1e-4.
    """
    p, n = jax.tree.map(jnp.float32, alike(64, spread=spread))
    c = jnp.full(64, 0.5)
    p, n = losses.unit(p), losses.unit(n)
    where = jnp.ones(64, bool)
    want = np.mean((0.5 - np.float64(p) @ np.float64(n).T / 2) ** 2)
    for method in ("gather", "moments"):
        options = {"error": "l2", "method": method, "axis_name": None}
        got = pairs.mean_over_pairs(c, p / 2, n, where, where, **options)
        np.testing.assert_allclose(got, want, rtol=2e-3 if spread == 0.01 else 2e-5)


def test_blocks_change_nothing(monkeypatch):
    blocks_agree(COMPARES_ALL, 20, monkeypatch)


@pytest.mark.parametrize("block", [1, 26, 64, 170])
def test_blocks_of_any_size(block, monkeypatch):
    blocks_agree([("distributed", {"error": "soft"})], block, monkeypatch)


def blocks_agree(cases, block, monkeypatch):
    """Compares thirteen rows at once with the same rows in blocks, the last one not full."""
    x, teachers = jnp.float32(np.stack(triplets(13))), every_teacher(13)
    whole = jax.jit(values_and_gradients(cases))(x, None, teachers)
    monkeypatch.setattr(pairs, "BLOCK", block)
    parts = jax.jit(values_and_gradients(cases))(x, None, teachers)
    for (value, gradient), (want, right), case in zip(parts, whole, cases, strict=True):
        np.testing.assert_allclose(value, want, rtol=1e-6, err_msg=str(case))
        largest = np.abs(right).max()
        np.testing.assert_allclose(gradient, right, atol=2e-6 * largest, err_msg=str(case))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("distributed", {"error": "l1"}),
        ("adaptive", {"error": "soft", "in_batch": True}),
        ("softmax", {"symmetric": True}),
    ],
)
def test_memory_is_that_of_a_block(name, options, monkeypatch):
    rows, dim = 4096, 8
    example = jax.ShapeDtypeStruct((3, rows, dim), jnp.float32)

    def temporary(block):
        monkeypatch.setattr(pairs, "BLOCK", block)
        loss = bound(name, options)
        step = jax.jit(jax.value_and_grad(lambda x: loss(*x)))
        return step.lower(example).compile().memory_analysis().temp_size_in_bytes

    all_pairs = 4 * rows * rows
    assert temporary(2**40) > all_pairs
    assert temporary(2**16) < all_pairs / 16


def test_moments_hold_no_pairs():
    rows, dim = 4096, 8
    example = jax.ShapeDtypeStruct((3, rows, dim), jnp.float32)
    step = jax.jit(jax.value_and_grad(lambda x: losses.distributed_margin(*x, method="moments")))
    memory = step.lower(example).compile().memory_analysis().temp_size_in_bytes
    assert memory < 20 * 4 * rows * dim


def test_auto_takes_moments_where_they_are_cheaper(monkeypatch):
    taken = []
    for name, real in (("_by_blocks", pairs._by_blocks), ("_by_moments", pairs._by_moments)):

        def noted(*args, name=name, real=real):
            taken.append(name)
            return real(*args)

        monkeypatch.setattr(pairs, name, noted)
    many, few = int(pairs.CROSSOVER * 24), int(pairs.CROSSOVER * 24) - 1
    for rows, error, want in (
        (many, "l2", "_by_moments"),
        (few, "l2", "_by_blocks"),
        (many, "l1", "_by_blocks"),
        (many, "soft", "_by_blocks"),
    ):
        losses.distributed_margin(*jnp.float32(np.stack(triplets(rows, dim=24))), error=error)
        assert taken.pop() == want
    # The size of the global batch decides.
    x = jnp.float32(np.stack(triplets(many, dim=24))).reshape(3, 2, -1, 24)
    jax.vmap(
        lambda x: losses.distributed_margin(*x, axis_name="data"), in_axes=1, axis_name="data"
    )(x)
    assert taken.pop() == "_by_moments"
