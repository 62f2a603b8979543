"""What must hold for any batch: every loss, on batches that hypothesis makes up."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.losses.reference import CASES, IDS
from tests.losses.together import every_teacher, values_and_gradients

ROWS, DIM = 6, 4
# Coordinates that hypothesis likes to make zero, equal and tiny; no subnormal squares, whose
# vectors have no direction in float32.
NUMBERS = st.floats(-8, 8, width=32).map(lambda x: x if abs(x) > 1e-3 else 0.0)
BATCHES = arrays(np.float32, (3, ROWS, DIM), elements=NUMBERS)
MASKS = arrays(bool, ROWS)
FAST = settings(max_examples=50, deadline=None, derandomize=True)
# |x| and max(0, x) have another gradient on either side of 0.
KINK = np.array([o.get("error") in ("l1", "hinge") or name == "triplet" for name, o in CASES])
OPTIONS = [{"error": "l2"} | options for _, options in CASES]

compiled = jax.jit(values_and_gradients(CASES))


def of(*names):
    """``[case]`` bool: the cases of these losses."""
    return np.array([name in names for name, _ in CASES])


def run(x, where=None, order=None):
    """Values ``[case]``, gradients ``[case, 3, rows, DIM]``; ``order`` is of the teacher's rows."""
    rows = x.shape[1]
    where = np.ones(rows, bool) if where is None else where
    order = np.arange(rows) % ROWS if order is None else list(order)
    teachers = jax.tree.map(lambda all_: np.float32(all_[order]), every_teacher(ROWS))
    values, gradients = zip(*jax.device_get(compiled(x, where, teachers)), strict=True)
    return np.stack(values), np.stack(gradients)


def named(wrong):
    """The cases that a ``[case]`` bool holds for."""
    return [name for name, bad in zip(IDS, wrong, strict=True) if bad]


def differing(a, b, *, rtol=0.0, atol=0.0):
    """The cases with another value."""
    return named(~np.isclose(a, b, rtol=rtol, atol=atol))


def far(a, b, tolerance):
    """The cases with another gradient, relative to the largest of all numbers, since small
    gradients are differences of large."""
    a, b = (np.reshape(x, (len(CASES), -1)) for x in (a, b))
    scale = np.abs(b).max(axis=1, initial=1.0)
    # Not "is greater", which no NaN is.
    return ~(np.abs(a - b).max(axis=1, initial=0) <= tolerance * scale)


def smooth(x):
    """No vector so short that its direction, and so its gradient, hangs on rounding."""
    return bool((np.linalg.norm(x, axis=-1) > 0.1).all())


@FAST
@given(x=BATCHES, where=MASKS)
def test_value_and_gradient_are_finite(x, where):
    values, gradients = run(x, where)
    assert named(~np.isfinite(values)) == []
    assert named(~np.isfinite(gradients).all(axis=(1, 2, 3))) == []
    # The error soft and the divergence are above 0 by their own right; no loss is below.
    assert named(values < -1e-5) == []


@FAST
@given(x=BATCHES, where=MASKS)
def test_a_masked_row_is_a_row_removed(x, where):
    values, gradients = run(x, where)
    assert named(gradients[:, :, ~where].any(axis=(1, 2, 3))) == []
    if not where.any():
        assert named(values != 0) == []
        return
    # Removed, as far as one shape allows: the same real rows beside other masked ones.
    other = x.copy()
    other[:, ~where] = np.nan
    again, same = run(other, where)
    assert named(again != values) == []
    assert named((same != gradients).any(axis=(1, 2, 3))) == []


def test_a_masked_batch_is_the_shorter_batch():
    x = np.random.default_rng(0).standard_normal((3, ROWS, DIM)).astype(np.float32)
    where = np.arange(ROWS) < 4  # the teacher's rows in front stay the same
    values, gradients = run(x, where)
    short, of_short = run(x[:, where])
    assert differing(values, short, rtol=1e-6) == []
    assert named(far(gradients[:, :, where], of_short, 1e-6)) == []


@FAST
@given(x=BATCHES.filter(smooth), order=st.permutations(range(ROWS)))
def test_the_order_of_rows_does_not_matter(x, order):
    values, gradients = run(x)
    moved, of_moved = run(x[:, list(order)], order=order)
    assert differing(moved, values, rtol=1e-5, atol=1e-5) == []
    assert named(far(of_moved, gradients[:, :, list(order)], 1e-4) & ~KINK) == []


@FAST
@given(x=BATCHES.filter(smooth))
def test_every_row_twice(x):
    """Means do not change. Softmax has each document twice among the candidates: log 2 more.

    A variant of it treats the second copy of a query's positive as another document.
    """
    values, _ = run(x)
    twice, _ = run(np.concatenate([x, x], axis=1))
    variant = np.array([name == "softmax" and len(own) > 0 for name, own in CASES])
    variant &= np.array(["symmetric" not in own for _, own in CASES])
    more = np.where(of("softmax"), np.log(2), 0)
    more = np.where(variant, twice - values, more)
    assert differing(twice, values + more, rtol=1e-5, atol=1e-5) == []


@FAST
@given(
    x=BATCHES.filter(smooth),
    scales=arrays(np.float32, (3, ROWS, 1), elements=st.floats(0.25, 64, width=32)),
)
def test_the_length_of_a_vector_does_not_matter(x, scales):
    values, gradients = run(x)
    scaled, of_scaled = run(x * scales)
    assert differing(scaled, values, rtol=1e-4, atol=1e-5) == []
    assert named(far(of_scaled * scales, gradients, 1e-3) & ~KINK) == []
    # And so the gradient never changes it.
    along = np.abs(np.sum(gradients * x, axis=-1)).max(axis=(1, 2))
    assert named(~(along <= 1e-4 * np.abs(gradients).max(axis=(1, 2, 3), initial=1))) == []


@FAST
@given(x=BATCHES.filter(smooth))
def test_identical_documents(x):
    """No margin anywhere; a target of 1 from a document's own copy."""
    x = np.stack([x[0], *np.broadcast_to(x[1, :1], (2, ROWS, DIM))])
    values, gradients = run(x)
    assert named(~np.isfinite(gradients).all(axis=(1, 2, 3))) == []
    for name, value, (loss, own), options in zip(IDS, values, CASES, OPTIONS, strict=True):
        want = {
            "triplet": own.get("margin"),
            "pairwise_logistic": np.log(2),
            "softmax": None if own else np.log(2 * ROWS),
        }
        if own.get("broadcast") != "released":
            error = {"soft": np.log1p(np.e)}.get(options["error"], 1)
            want |= {"distributed": error, "adaptive": error}
        if want.get(loss) is not None:
            np.testing.assert_allclose(value, want[loss], rtol=1e-5, err_msg=name)


def by_error(x):
    """Each error of a margin that is x below its target."""
    return {"l2": x * x, "l1": x, "soft": np.log1p(np.exp(x)), "hinge": x, "hinge2": x * x}


def test_zero_vectors_have_no_similarity():
    """Documented: a zero vector's cosines are 0. The others' gradients are finite."""
    values, gradients = run(np.zeros((3, 2, DIM), np.float32))
    want = {
        "distributed": by_error(0.5),
        "adaptive": by_error(0.5),
        "static": by_error(0.2),
    }
    for name, value, (loss, _), options in zip(IDS, values, CASES, OPTIONS, strict=True):
        if loss in want:
            right = want[loss][options["error"]]
            np.testing.assert_allclose(value, right, rtol=1e-5, err_msg=name)
    assert named(~np.isfinite(values)) == []
    assert named(~np.isfinite(gradients).all(axis=(1, 2, 3))) == []


def test_one_triplet():
    """B = 1: its own documents are the whole batch, so distributed is adaptive."""
    x = np.random.default_rng(0).standard_normal((3, 1, DIM)).astype(np.float32)
    values, gradients = run(x)
    assert named(~np.isfinite(gradients).all(axis=(1, 2, 3))) == []
    # The case of each that has no other document than its own.
    alone = {"distributed": "adaptive", "adaptive": "adaptive", "static": "static"}
    same = [
        CASES.index((alone[name], {"error": options["error"]})) if name in alone else case
        for case, ((name, _), options) in enumerate(zip(CASES, OPTIONS, strict=True))
    ]
    assert differing(values, values[same], rtol=1e-6) == []
    assert named(far(gradients, gradients[same], 1e-6) & of("distributed")) == []
    values, gradients = run(x, np.zeros(1, bool))
    assert named(values != 0) == []
    assert named(gradients.any(axis=(1, 2, 3))) == []
