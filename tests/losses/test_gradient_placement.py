"""Tests where a loss over devices may be differentiated; wrong places still give the right loss.

The encoder is one replicated matrix on 8 devices; `losses.softmax` gathers its negatives.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import P, lax

from selfdistill_jax import losses
from tests.losses.reference import triplets

DEVICES = 8
RIGHT, TIMES_8, WRONG = "right", "8 times", "wrong"


def batch():
    x = jnp.float32(np.stack(triplets(16)))
    return x, jnp.float32(np.random.default_rng(1).standard_normal((12, 6)))


def encode(w, x):
    return [v @ w for v in x]


def summed(w, x):
    """Returns the loss of the global batch, which is the same on every device."""
    return losses.softmax(*encode(w, x), axis_name="data")


def share(w, x):
    """Returns this device's part of that loss, as pmap users wrote it before summing gradients."""
    q, p, n = (losses.unit(v) for v in encode(w, x))
    documents = [lax.all_gather(v, "data", tiled=True) for v in (p, n)]
    logits = q @ jnp.concatenate(documents).T / 0.05
    own = jnp.sum(q * p, axis=1) / 0.05
    return jnp.sum(jax.nn.logsumexp(logits, axis=1) - own) / (DEVICES * len(q))


def varying(loss):
    def run(w, x):
        w = lax.pcast(w, "data", to="varying")
        value, gradient = jax.value_and_grad(loss)(w, x)
        return value, lax.psum(gradient, "data")

    return run


def inside(loss, after=lambda gradient: gradient):
    def run(w, x):
        value, gradient = jax.value_and_grad(loss)(w, x)
        return value, after(gradient)

    return run


psum, pmean = (partial(reduce, axis_name="data") for reduce in (lax.psum, lax.pmean))

# The mapped function, and verdicts on its gradient with check_vma on and off.
TABLE = {
    "grad(share)": (inside(share), RIGHT, WRONG),
    "psum(grad(share))": (inside(share, psum), TIMES_8, RIGHT),
    "grad(summed)": (inside(summed), RIGHT, WRONG),
    "psum(grad(summed))": (inside(summed, psum), TIMES_8, TIMES_8),
    "pmean(grad(summed))": (inside(summed, pmean), RIGHT, RIGHT),
    "psum(grad(share of varying))": (varying(share), RIGHT, None),
}


def found(gradient, want):
    if np.allclose(gradient, want, atol=1e-5 * np.abs(want).max()):
        return RIGHT
    if np.allclose(gradient, DEVICES * want, atol=1e-5 * DEVICES * np.abs(want).max()):
        return TIMES_8
    return WRONG


def mesh():
    return jax.make_mesh((DEVICES,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


VERDICTS = [
    (place, check, verdict)
    for place, (_, *both) in TABLE.items()
    for check, verdict in zip((True, False), both, strict=True)
    if verdict is not None  # pcast needs check_vma
]


@pytest.mark.parametrize(("place", "check", "verdict"), VERDICTS)
def test_inside_the_mapped_function(place, check, verdict):
    run = TABLE[place][0]
    x, w = batch()
    value, want = jax.value_and_grad(lambda w: losses.softmax(*encode(w, x)))(w)

    def device(w, x):
        loss, gradient = run(w, x)
        loss = lax.psum(loss, "data") if place.count("share") else loss
        # Returns each device's copy, even if its type says that all are equal.
        return loss, gradient[None]

    out = (P(), P("data"))
    mapped = jax.shard_map(
        device, mesh=mesh(), in_specs=(P(), P(None, "data")), out_specs=out, check_vma=check
    )
    loss, gradients = jax.jit(mapped)(w, x)
    np.testing.assert_allclose(loss, value, rtol=1e-5)  # the loss is always right
    assert found(gradients[0], want) == verdict


@pytest.mark.parametrize("check", [True, False])
def test_outside_the_mapped_function(check):
    x, w = batch()
    want = jax.grad(lambda w: losses.softmax(*encode(w, x)))(w)
    mapped = jax.shard_map(
        summed, mesh=mesh(), in_specs=(P(), P(None, "data")), out_specs=P(), check_vma=check
    )
    assert found(jax.jit(jax.grad(mapped))(w, x), want) == RIGHT


def test_without_a_mapped_function():
    """XLA inserts the collectives for global arrays under plain jit."""
    x, w = batch()
    want = jax.grad(lambda w: losses.softmax(*encode(w, x)))(w)
    x = jax.device_put(x, jax.NamedSharding(mesh(), P(None, "data")))
    got = jax.jit(jax.grad(lambda w, x: losses.softmax(*encode(w, x))))(w, x)
    assert found(got, want) == RIGHT


@pytest.mark.parametrize(
    ("after", "verdict"), [(lambda g: g, WRONG), (psum, TIMES_8), (pmean, RIGHT)]
)
def test_inside_pmap(after, verdict):
    x, w = batch()
    want = jax.grad(lambda w: losses.softmax(*encode(w, x)))(w)
    split = x.reshape(3, DEVICES, -1, x.shape[-1])
    run = jax.pmap(lambda w, x: inside(summed, after)(w, x)[1], axis_name="data", in_axes=(None, 1))
    assert found(run(w, split)[0], want) == verdict
