"""Losses against loops over i and j in float64, and the law of the mesh."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import P

from selfdistill_jax import losses

ERRORS = {
    "l2": lambda x: x * x,
    "l1": abs,
    "soft": lambda x: math.log1p(math.exp(-x)),
}


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def reference(
    name,
    q,
    p,
    n,
    *,
    error="l2",
    over="negatives",
    in_batch=False,
    broadcast="triplet",
    margin=0.2,
    temperature=0.05,
    **_,
):
    """The definitions, one entry at a time."""
    size, rho = len(q), ERRORS[error]
    m = [cosine(q[i], p[i]) - cosine(q[i], n[i]) for i in range(size)]
    terms = []
    for i in range(size):
        if name == "softmax":
            s = [cosine(q[i], d) / temperature for d in (*p, *n)]
            terms.append(math.log(sum(math.exp(x) for x in s)) - s[i])
            continue
        for j in range(size):
            target = (1 + cosine(p[i], n[j])) / 2
            if name == "distributed":
                terms.append(rho((m[i] if over == "negatives" else m[j]) - target))
                continue
            target = margin if name == "static" else target
            if not in_batch:
                if i == j:
                    terms.append(rho(m[i] - target))
            else:
                k = i if broadcast == "triplet" else j
                terms.append(rho(cosine(q[k], p[k]) - cosine(q[i], n[j]) - target))
    return sum(terms) / len(terms)


CASES = [
    ("softmax", {}),
    *(("distributed", {"error": e, "over": o}) for e in ERRORS for o in ("negatives", "positives")),
    *(("distributed", {"method": "moments", "over": o}) for o in ("negatives", "positives")),
    *(
        (name, {"error": e, **options})
        for name in ("static", "adaptive")
        for e in ERRORS
        for options in (
            {},
            {"in_batch": True},
            {"in_batch": True, "broadcast": "released"},
        )
    ),
]
IDS = [f"{name}-{'-'.join(map(str, o.values()))}" for name, o in CASES]


def bound(name, options):
    options = {"margin": 0.2, **options} if name == "static" else options
    return partial(losses.LOSSES[name], **options)


def triplets(size, seed=0, dim=12):
    return np.random.default_rng(seed).standard_normal((3, size, dim)).astype(np.float32)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
@pytest.mark.parametrize("size", [1, 2, 7])
def test_value_is_the_definition(name, options, size):
    q, p, n = triplets(size)
    got = jax.jit(bound(name, options))(q, p, n)
    expected = reference(name, *(x.astype(np.float64) for x in (q, p, n)), **options)
    # float32: a softmax term is the difference of two numbers near 20.
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=3e-6)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_gradient_is_that_of_the_definition(name, options):
    x = triplets(3, dim=4).astype(np.float64)
    got = jax.grad(lambda x: bound(name, options)(*x))(jnp.float32(x))
    h = 1e-6
    expected = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[at] += h
        down[at] -= h
        expected[at] = (reference(name, *up, **options) - reference(name, *down, **options)) / (
            2 * h
        )
    np.testing.assert_allclose(got, expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_masked_rows_are_rows_removed(name, options):
    q, p, n = triplets(6)
    where = np.array([True, False, True, True, False, True])
    loss = bound(name, options)
    got, gradient = jax.value_and_grad(lambda x: loss(*x, where=where))(jnp.stack([q, p, n]))
    expected, kept = jax.value_and_grad(lambda x: loss(*x))(jnp.stack([q, p, n])[:, where])
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient[:, where], kept, atol=1e-6)
    assert not gradient[:, ~where].any()


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_all_masked_is_zero_with_zero_gradient(name, options):
    x = jnp.asarray(triplets(3))
    value, gradient = jax.value_and_grad(
        lambda x: bound(name, options)(*x, where=jnp.zeros(3, bool))
    )(x)
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_zero_vectors_give_no_nan(name, options):
    value, gradient = jax.value_and_grad(lambda x: bound(name, options)(*x))(jnp.zeros((3, 2, 4)))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("devices", [2, 8])
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_devices_do_not_change_value_or_gradient(name, options, devices):
    x = jnp.asarray(triplets(16))
    where = jnp.arange(16) % 5 != 0
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    loss = bound(name, options)
    spread = jax.shard_map(
        lambda x, where: loss(*x, where=where, axis_name="data"),
        mesh=mesh,
        in_specs=(P(None, "data"), P("data")),
        out_specs=P(),
    )
    got, gradient = jax.jit(jax.value_and_grad(spread))(x, where)
    expected, alone = jax.value_and_grad(lambda x: loss(*x, where=where))(x)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, alone, atol=1e-5 * np.abs(alone).max())


def test_detached_target_has_the_gradient_of_a_constant():
    q, p, n = jnp.asarray(triplets(4))
    target = (1 + jnp.array([cosine(a, b) for a, b in zip(p, n, strict=True)])) / 2

    def constant(p):
        return jnp.mean((losses.sigma(0) * 0 + margin(p) - target) ** 2)

    def margin(p):
        unit = lambda x: x / jnp.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
        return jnp.sum(unit(q) * unit(p), 1) - jnp.sum(unit(q) * unit(n), 1)

    got = jax.grad(lambda p: losses.adaptive_margin(q, p, n, stop_gradient=True))(p)
    np.testing.assert_allclose(got, jax.grad(constant)(p), atol=1e-6)
    assert np.abs(jax.grad(lambda p: losses.adaptive_margin(q, p, n))(p) - got).max() > 1e-3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: losses.adaptive_margin(x, x, x[:1]), "one shape"),
        (lambda x: losses.adaptive_margin(x, x, x, error="l3"), "error is 'l3'"),
        (lambda x: losses.distributed_margin(x, x, x, over="all"), "over is 'all'"),
        (lambda x: losses.distributed_margin(x, x, x, error="l1", method="moments"), "closed form"),
        (lambda x: losses.softmax(x, x, x, where=jnp.ones(1, bool)), "where must have shape"),
    ],
)
def test_wrong_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(jnp.ones((2, 4)))
