"""Losses inside a user's own pmap, shard_map, vmap, jit and grad of grad."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfdistill_jax import losses
from tests.losses.reference import CASES, IDS, bound, from_teacher, triplets

in_every_case = pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)


def inputs(name, rows, seed=0):
    return jax.tree.map(
        jnp.float32, (triplets(rows, seed=seed), from_teacher(name, rows, seed=seed))
    )


def close(a, b, tolerance=1e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=tolerance * (1e-3 + np.abs(y).max()))


@in_every_case
def test_vmap_over_seeds(name, options):
    runs = [inputs(name, 6, seed) for seed in range(3)]
    x, teacher = jax.tree.map(lambda *values: jnp.stack(values), *runs)
    one = jax.value_and_grad(lambda x, teacher: bound(name, options)(*x, **teacher))
    got, gradient = jax.jit(jax.vmap(one))(x, teacher)
    for k, (arrays, own) in enumerate(runs):
        value, alone = one(arrays, own)
        np.testing.assert_allclose(got[k], value, rtol=1e-5)
        close([g[k] for g in gradient], alone)


@in_every_case
def test_pmap(name, options):
    """The value; and the gradient of replicated parameters, averaged as users of pmap do."""
    x, teacher = inputs(name, 8)
    loss = bound(name, options)
    matrix = jnp.float32(np.random.default_rng(3).standard_normal((12, 5)))

    def local(matrix, x, teacher):
        return loss(*(v @ matrix for v in x), axis_name="devices", **teacher)

    def step(matrix, x, teacher):
        value, gradient = jax.value_and_grad(local)(matrix, x, teacher)
        return value, jax.lax.pmean(gradient, "devices")

    split = jax.tree.map(lambda v: v.reshape(4, 2, *v.shape[1:]), (x, teacher))
    values, gradients = jax.pmap(step, axis_name="devices", in_axes=(None, 0, 0))(matrix, *split)
    want, alone = jax.value_and_grad(lambda m: loss(*(v @ m for v in x), **teacher))(matrix)
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
    """A Hessian's products with vectors, against central differences of the gradient."""
    x, v = np.stack(triplets(5, dim=4)), np.stack(triplets(5, dim=4, seed=1))
    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(lambda x: bound(name, options)(*x)))
        product = jax.grad(lambda x: jnp.vdot(gradient(x), v))(x)
        h = 1e-5
        want = (gradient(x + h * v) - gradient(x - h * v)) / (2 * h)
        np.testing.assert_allclose(product, want, atol=1e-8)
        forward = jax.jvp(gradient, (x,), (v,))[1]
        np.testing.assert_allclose(product, forward, atol=1e-12)


def test_a_registry_takes_a_loss_of_ones_own():
    def mine(q, p, n, *, where=None, axis_name=None):
        gaps = jnp.sum(jnp.square(losses.unit(q) - losses.unit(p)), axis=-1)
        return losses.global_mean(gaps, where, axis_name)

    q, p, n = inputs("static", 4)[0]
    near = np.mean(np.sum(np.square(losses.unit(q) - losses.unit(p)), axis=1))
    np.testing.assert_allclose(mine(q, p, n), near, rtol=1e-5)
    np.testing.assert_allclose(
        jax.vmap(lambda *x: mine(*x, axis_name="rows"), axis_name="rows")(
            *(v[:, None] for v in (q, p, n))
        ),
        np.full(4, near),
        rtol=1e-5,
    )
