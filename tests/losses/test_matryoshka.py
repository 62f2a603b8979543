"""Tests that a loss at several sizes is the sum of its values at each, on any devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfdistill_jax import losses
from tests.losses.reference import bound, expected, from_teacher, triplets
from tests.losses.test_mesh import ROWS, mask, spread
from tests.losses.together import every_teacher, float32, values_and_gradients

SIZES = (12, 7, 3)
CASES = [
    *((name, {"dimensions": SIZES}) for name in losses.LOSSES),
    ("distributed", {"method": "moments", "over": "positives", "dimensions": SIZES}),
]
in_every_case = pytest.mark.parametrize(
    ("case", "name", "options"),
    [(i, *case) for i, case in enumerate(CASES)],
    ids=["-".join(map(str, [name, *list(own.values())[:-1]])) for name, own in CASES],
)


@functools.cache
def in_float64():
    with jax.enable_x64(True):
        every = jax.jit(values_and_gradients(CASES))
        return jax.device_get(every(triplets(7), None, every_teacher(7)))


@in_every_case
def test_value_and_gradient(case, name, options):
    """The value matches loops over each cut; the gradient matches their central differences."""
    teacher = from_teacher(name, 7)
    own = {key: value for key, value in options.items() if key != "dimensions"}

    def whole(arrays):
        return sum(expected(name, [x[:, :d] for x in arrays], own, **teacher) for d in SIZES)

    arrays, (value, gradient) = triplets(7), in_float64()[case]
    np.testing.assert_allclose(value, whole(arrays), rtol=1e-12)
    direction, h = triplets(7, seed=1), 1e-5
    up, down = (
        whole([x + s * h * v for x, v in zip(arrays, direction, strict=True)]) for s in (1, -1)
    )
    along = sum(float(np.sum(g * v)) for g, v in zip(gradient, direction, strict=True))
    np.testing.assert_allclose(along, (up - down) / (2 * h), rtol=1e-6)


@functools.cache
def on_devices(devices):
    """Returns each case's value and gradient; 0 devices stand for plain array code."""
    x, teachers = float32((triplets(ROWS), every_teacher(ROWS)))
    # Masked rows may hold anything.
    x = [jnp.where(mask(8)[:, None], array, jnp.nan) for array in x]
    own = {"spread": lambda f: spread(f, devices), "axis_name": "data"} if devices else {}
    return jax.device_get(jax.jit(values_and_gradients(CASES, **own))(x, mask(8), teachers))


@in_every_case
def test_devices_and_masked_rows_do_not_matter(case, name, options):
    (got, gradient), (want, whole) = on_devices(8)[case], on_devices(0)[case]
    np.testing.assert_allclose(got, want, rtol=1e-5)
    for ours, theirs in zip(gradient, whole, strict=True):
        assert not theirs[~mask(8)].any()
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("name", ["adaptive", "distributed"])
def test_a_target_of_another_encoder_is_cut_too(name):
    arrays, other = triplets(6), triplets(6, seed=3)[1:]
    got = bound(name, {"dimensions": SIZES})(*float32(arrays), target_from=float32(other))
    want = sum(
        expected(name, [x[:, :d] for x in arrays], {}, target_from=[x[:, :d] for x in other])
        for d in SIZES
    )
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_many_negatives_and_weights():
    arrays = triplets(5, negatives=3)
    got = losses.matryoshka(
        losses.softmax, *float32(arrays), dimensions=[4, 12], weights=[0.5, 2.0]
    )
    at = [expected("softmax", [x[..., :d] for x in arrays], {}) for d in (4, 12)]
    np.testing.assert_allclose(got, 0.5 * at[0] + 2.0 * at[1], rtol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "options", "words"),
    [
        ([], {}, "one or more dimensions and as many weights; got 0 dimensions and 0 weights"),
        ([2], {"weights": [1, 1]}, "got 1 dimensions and 2 weights"),
        ([4, 5], {}, "dimensions has 5; the vectors allow 1 to 4"),
        ([0], {}, "dimensions has 0"),
    ],
)
def test_wrong_sizes_are_named(sizes, options, words):
    x = jnp.ones((2, 4))
    with pytest.raises(ValueError, match=words):
        losses.matryoshka(losses.softmax, x, x, x, dimensions=sizes, **options)
