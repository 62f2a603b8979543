"""What must hold for any batch, tried on batches that hypothesis makes up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.losses.reference import CASES, IDS, bound, from_teacher

ROWS, DIM = 6, 4
in_every_case = pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
# Coordinates that hypothesis likes to make zero, equal and tiny; no subnormal squares, whose
# vectors have no direction in float32.
NUMBERS = st.floats(-8, 8, width=32).map(lambda x: x if abs(x) > 1e-3 else 0.0)
BATCHES = arrays(np.float32, (3, ROWS, DIM), elements=NUMBERS)
MASKS = arrays(bool, ROWS)
FAST = settings(max_examples=15, deadline=None, derandomize=True)

_compiled = {}


def run(name, options, x, where=None, order=None):
    """Value and gradient, compiled once a shape; ``order`` is that of the teacher's rows."""
    loss = bound(name, options)
    key = (name, str(options), x.shape)
    if key not in _compiled:
        _compiled[key] = jax.jit(
            jax.value_and_grad(lambda x, where, teacher: loss(*x, where=where, **teacher))
        )
    rows = x.shape[1]
    where = np.ones(rows, bool) if where is None else where
    teacher = jax.tree.map(np.float32, from_teacher(name, ROWS))
    teacher = {key: np.resize(value, (rows, *value.shape[1:])) for key, value in teacher.items()}
    if order is not None:
        teacher = {key: value[list(order)] for key, value in teacher.items()}
    return jax.device_get(_compiled[key](x, where, teacher))


def close(a, b, tolerance):
    """Relative to the largest of all numbers, since small gradients are differences of large."""
    for x, y in zip(a, b, strict=True):
        scale = max(1.0, float(np.abs(y).max(initial=0)))
        np.testing.assert_allclose(x, y, atol=tolerance * scale)


def smooth(x):
    """No vector so short that its direction, and so its gradient, hangs on rounding."""
    return bool((np.linalg.norm(x, axis=-1) > 0.1).all())


def has_kink(options):
    """|x| and max(0, x) have another gradient on either side of 0."""
    return options.get("error") == "l1" or options == {"margin": 0.5}


@in_every_case
@FAST
@given(x=BATCHES, where=MASKS)
def test_value_and_gradient_are_finite(name, options, x, where):
    value, gradient = run(name, options, x, where)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    # The error soft and the divergence are above 0 by their own right; no loss is below.
    assert value >= -1e-5


@in_every_case
@FAST
@given(x=BATCHES, where=MASKS)
def test_a_masked_row_is_a_row_removed(name, options, x, where):
    value, gradient = run(name, options, x, where)
    assert not gradient[:, ~where].any()
    if not where.any():
        assert value == 0
        return
    # Removed, as far as one shape allows: the same real rows beside other masked ones.
    other = x.copy()
    other[:, ~where] = np.nan
    again, same = run(name, options, other, where)
    np.testing.assert_array_equal(again, value)
    np.testing.assert_array_equal(same, gradient)


@in_every_case
def test_a_masked_batch_is_the_shorter_batch(name, options):
    x = np.random.default_rng(0).standard_normal((3, ROWS, DIM)).astype(np.float32)
    where = np.arange(ROWS) < 4  # the teacher's rows in front stay the same
    value, gradient = run(name, options, x, where)
    short, of_short = run(name, options, x[:, where])
    np.testing.assert_allclose(value, short, rtol=1e-6)
    close([gradient[:, where]], [of_short], 1e-6)


@in_every_case
@FAST
@given(x=BATCHES.filter(smooth), order=st.permutations(range(ROWS)))
def test_the_order_of_rows_does_not_matter(name, options, x, order):
    value, gradient = run(name, options, x)
    moved, of_moved = run(name, options, x[:, list(order)], order=order)
    np.testing.assert_allclose(moved, value, rtol=1e-5, atol=1e-5)
    if not has_kink(options):
        close([of_moved], [gradient[:, list(order)]], 1e-4)


@in_every_case
@FAST
@given(x=BATCHES.filter(smooth))
def test_every_row_twice(name, options, x):
    """Means do not change. Softmax has each document twice among the candidates: log 2 more."""
    value, _ = run(name, options, x)
    twice, _ = run(name, options, np.concatenate([x, x], axis=1))
    more = np.log(2) if name == "softmax" else 0
    np.testing.assert_allclose(twice, value + more, rtol=1e-5, atol=1e-5)


@in_every_case
@FAST
@given(
    x=BATCHES.filter(smooth),
    scales=arrays(np.float32, (3, ROWS, 1), elements=st.floats(0.25, 64, width=32)),
)
def test_the_length_of_a_vector_does_not_matter(name, options, x, scales):
    value, gradient = run(name, options, x)
    scaled, of_scaled = run(name, options, x * scales)
    np.testing.assert_allclose(scaled, value, rtol=1e-4, atol=1e-5)
    if not has_kink(options):
        close([of_scaled * scales], [gradient], 1e-3)
    # And so the gradient never changes it.
    along = np.abs(np.sum(gradient * x, axis=-1)).max()
    assert along <= 1e-4 * max(1, np.abs(gradient).max())


@in_every_case
@FAST
@given(x=BATCHES.filter(smooth))
def test_identical_documents(name, options, x):
    """No margin anywhere; a target of 1 from a document's own copy."""
    x = np.stack([x[0], *np.broadcast_to(x[1, :1], (2, ROWS, DIM))])
    value, gradient = run(name, options, x)
    assert np.isfinite(gradient).all()
    error = {"l2": 1, "l1": 1, "soft": np.log1p(np.e)}[options.get("error", "l2")]
    if name in ("distributed", "adaptive") and options.get("broadcast") != "released":
        np.testing.assert_allclose(value, error, rtol=1e-5)
    if name == "triplet":
        np.testing.assert_allclose(value, options["margin"], rtol=1e-5)
    if name == "pairwise_logistic":
        np.testing.assert_allclose(value, np.log(2), rtol=1e-5)
    if name == "softmax" and not options:
        np.testing.assert_allclose(value, np.log(2 * ROWS), rtol=1e-5)


@in_every_case
def test_zero_vectors_have_no_similarity(name, options):
    """Documented: a zero vector's cosines are 0. The others' gradients are finite."""
    x = np.zeros((3, 2, DIM), np.float32)
    value, gradient = run(name, options, x)
    want = {
        "distributed": {"l2": 0.25, "l1": 0.5, "soft": np.log1p(np.exp(0.5))},
        "adaptive": {"l2": 0.25, "l1": 0.5, "soft": np.log1p(np.exp(0.5))},
        "static": {"l2": 0.04, "l1": 0.2, "soft": np.log1p(np.exp(0.2))},
    }
    if name in want:
        np.testing.assert_allclose(value, want[name][options.get("error", "l2")], rtol=1e-5)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@in_every_case
def test_one_triplet(name, options):
    """B = 1: its own documents are the whole batch, so distributed is adaptive."""
    x = np.random.default_rng(0).standard_normal((3, 1, DIM)).astype(np.float32)
    value, gradient = run(name, options, x)
    assert np.isfinite(gradient).all()
    if name == "distributed":
        adaptive, same = run("adaptive", {"error": options["error"]}, x)
        np.testing.assert_allclose(value, adaptive, rtol=1e-6)
        close([gradient], [same], 1e-6)
    if options.get("in_batch"):
        alone = {k: v for k, v in options.items() if k == "error"}
        np.testing.assert_allclose(value, run(name, alone, x)[0], rtol=1e-6)
    where = np.zeros(1, bool)
    value, gradient = run(name, options, x, where)
    assert value == 0
    assert not jnp.any(gradient)
