"""Tests that a global batch gives the same loss and gradient on any devices."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import P

from selfdistill_jax import losses
from tests.losses.reference import CASES, IDS, bound, from_teacher, triplets
from tests.losses.together import every_teacher, values_and_gradients

ROWS = 16


def mesh(devices):
    kinds = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((devices,), ("data",), axis_types=kinds, devices=jax.devices()[:devices])


def mask(devices):
    """Returns a mask that leaves devices unequal numbers of rows, and the second device none."""
    own = np.arange(ROWS) // (ROWS // devices)
    return (np.arange(ROWS) % 5 != 0) & (own != 1)


def spread(function, devices):
    """Maps ``function(arrays, where, teacher)`` over a batch spread over ``devices`` devices."""
    return jax.shard_map(
        function, mesh=mesh(devices), in_specs=(P("data"), P("data"), P("data")), out_specs=P()
    )


@functools.cache
def every_case(devices):
    """Returns each case's value and gradient, for the batch spread over devices and as a whole."""
    x, teachers = jax.tree.map(jnp.float32, (triplets(ROWS), every_teacher(ROWS)))
    where = jnp.asarray(mask(devices))
    on_devices = jax.jit(
        values_and_gradients(CASES, spread=lambda f: spread(f, devices), axis_name="data")
    )
    return jax.device_get((on_devices(x, where, teachers), alone(x, where, teachers)))


alone = jax.jit(values_and_gradients(CASES))


@pytest.mark.parametrize("case", range(len(CASES)), ids=IDS)
def test_devices_do_not_change_value_or_gradient(case):
    for devices in (1, 2, 4, 8):
        (got, gradient), (want, whole) = (found[case] for found in every_case(devices))
        np.testing.assert_allclose(got, want, rtol=1e-5)
        largest = max(np.abs(g).max() for g in whole)
        for a, b in zip(gradient, whole, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5 * largest, err_msg=f"{devices} devices")


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_many_negatives_and_ids_on_devices(name, options):
    x = jax.tree.map(jnp.float32, triplets(ROWS, negatives=3))
    given = jax.tree.map(jnp.float32, from_teacher(name, ROWS, negatives=3))
    if name in ("softmax", "static", "adaptive", "distributed"):
        ids = np.random.default_rng(0).integers(0, 60, (ROWS, 5)).astype(np.int32)
        given |= {"positive_ids": ids[:, :2], "negative_ids": ids[:, 2:]}
    loss = bound(name, options)

    def on_device(x, where, given):
        return loss(*x, where=where, axis_name="data", **given)

    where = jnp.asarray(mask(4))
    got = jax.jit(spread(on_device, 4))(x, where, given)
    np.testing.assert_allclose(got, loss(*x, where=where, **given), rtol=1e-5)


COLLECTIVE = re.compile(
    r"= (\(.*?\)|\S+) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)\("
)


def collectives(text):
    """Returns ``{kind: numbers moved}`` for a compiled program."""
    found = {}
    for shapes, kind in COLLECTIVE.findall(text):
        for shape in re.findall(r"\[(.*?)\]", shapes):
            numbers = math.prod(int(side) for side in shape.split(",") if side)
            found[kind] = found.get(kind, 0) + numbers
    return found


@pytest.mark.parametrize("rows", [64, 512])
def test_moments_move_nothing_that_grows_with_the_batch(rows):
    dim = 16
    x = jax.ShapeDtypeStruct((rows, dim), jnp.float32)
    found = {}
    for method in ("gather", "moments"):

        def on_device(x, where, teacher, method=method):
            return losses.distributed_margin(*x, where=where, method=method, axis_name="data")

        step = jax.jit(jax.value_and_grad(spread(on_device, 8)))
        where = jax.ShapeDtypeStruct((rows,), bool)
        found[method] = collectives(step.lower((x, x, x), where, {}).compile().as_text())
    assert found["gather"]["all-gather"] == rows * (dim + 1)  # vectors and mask
    assert found["moments"].keys() == {"all-reduce"}
    # Covariance, mean and counts, and the gradients of the first two.
    assert found["moments"]["all-reduce"] <= 2 * dim * dim + 4 * dim + 8
