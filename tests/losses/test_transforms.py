"""Tests losses inside a user's own pmap, shard_map, vmap, jit and grad of grad."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.losses.reference import CASES, IDS, bound, triplets
from tests.losses.together import every_teacher, values_and_gradients

in_every_case = pytest.mark.parametrize("case", range(len(CASES)), ids=IDS)


def inputs(rows, seed=0):
    return jax.tree.map(jnp.float32, (triplets(rows, seed=seed), every_teacher(rows, seed=seed)))


def close(a, b, tolerance=1e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=tolerance * (1e-3 + np.abs(y).max()))


@functools.cache
def of_seeds():
    """Returns each case's value and gradient, for all seeds under vmap and for each seed alone."""
    runs = [inputs(6, seed) for seed in range(3)]
    every = values_and_gradients(CASES)

    def one(x, teachers):
        return every(x, None, teachers)

    alone = jax.jit(one)
    together = jax.jit(jax.vmap(one))(*jax.tree.map(lambda *x: jnp.stack(x), *runs))
    return jax.device_get((together, [alone(*run) for run in runs]))


@in_every_case
def test_vmap_over_seeds(case):
    together, each = of_seeds()
    got, gradient = together[case]
    for k, run in enumerate(each):
        value, alone = run[case]
        np.testing.assert_allclose(got[k], value, rtol=1e-5)
        close([g[k] for g in gradient], alone)


@functools.cache
def of_pmap():
    """Returns each case's value and mean gradient on every device, and those of the whole batch."""
    x, teachers = inputs(8)
    matrix = jnp.float32(np.random.default_rng(3).standard_normal((12, 5)))

    def of_matrix(x, teachers, matrix, **options):
        for name, own in CASES:
            loss = functools.partial(bound(name, own), **teachers[name], **options)
            yield jax.value_and_grad(lambda m, loss=loss: loss(*(v @ m for v in x)))(matrix)

    def step(*arrays):
        found = of_matrix(*arrays, axis_name="devices")
        return [(value, jax.lax.pmean(gradient, "devices")) for value, gradient in found]

    split = jax.tree.map(lambda v: v.reshape(4, 2, *v.shape[1:]), (x, teachers))
    mapped = jax.pmap(step, axis_name="devices", in_axes=(0, 0, None))(*split, matrix)
    return jax.device_get((mapped, jax.jit(lambda *a: list(of_matrix(*a)))(x, teachers, matrix)))


@in_every_case
def test_pmap(case):
    """The value and the averaged gradient of replicated parameters are those of the whole batch."""
    (values, gradients), (want, alone) = (found[case] for found in of_pmap())
    np.testing.assert_allclose(values, np.full(4, want), rtol=1e-5)
    for gradient in gradients:
        close(gradient, alone)


SECOND = [
    case
    for case in CASES
    if case[1].get("error", "l2") == "l2" and case[0] in ("static", "adaptive", "distributed")
]


@pytest.mark.parametrize(("name", "options"), SECOND, ids=[IDS[CASES.index(c)] for c in SECOND])
def test_gradient_of_gradient(name, options):
    """Hessian-vector products match central differences of the gradient."""
    x, v = np.stack(triplets(5, dim=4)), np.stack(triplets(5, dim=4, seed=1))
    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(lambda x: bound(name, options)(*x)))
        product = jax.grad(lambda x: jnp.vdot(gradient(x), v))(x)
        h = 1e-5
        want = (gradient(x + h * v) - gradient(x - h * v)) / (2 * h)
        np.testing.assert_allclose(product, want, atol=1e-8)
        forward = jax.jvp(gradient, (x,), (v,))[1]
        np.testing.assert_allclose(product, forward, atol=1e-12)
