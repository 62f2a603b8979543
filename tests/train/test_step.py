"""The law of the mesh: the same global batch gives the same loss, gradient and update."""

from functools import partial

import jax
import numpy as np
import optax
import pytest

from selfdistill_jax import losses
from selfdistill_jax.data.batches import TripletBatch
from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.encoder.encode import init_params, make_encode
from selfdistill_jax.train.optimizer import make_optimizer, make_schedule, matrices
from selfdistill_jax.train.step import TrainState, make_mesh, make_step, put_batch, put_state

CONFIG = EncoderConfig(50, 16, 2, 2, 32, 16)


def batch(size=16):
    rng = np.random.default_rng(0)
    parts = []
    for width in (6, 12, 12):
        parts += [
            rng.integers(0, 50, (size, width)).astype(np.int32),
            rng.integers(1, width + 1, size).astype(np.int32),
        ]
    return TripletBatch(*parts, rng.standard_normal((size, 2)).astype(np.float32))


def update(name, devices, optimizer):
    encode = make_encode(CONFIG, pooling="mean")
    params = init_params(CONFIG, jax.random.key(0))
    mesh = make_mesh(jax.devices()[:devices])
    loss = losses.LOSSES[name]
    loss = partial(loss, margin=0.2) if name == "static" else loss
    step = make_step(encode, loss, optimizer, mesh)
    state = put_state(TrainState(params, optimizer.init(params)), mesh)
    state, metrics = step(state, put_batch(batch(), mesh))
    return jax.device_get((state.params, metrics))


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_one_device_and_eight_agree(name):
    # Plain gradient descent at rate 1: the update is the gradient, which Adam would rescale.
    (alone, a), (spread, b) = (update(name, k, optax.sgd(1.0)) for k in (1, 8))
    np.testing.assert_allclose(b["loss"], a["loss"], rtol=1e-5)
    np.testing.assert_allclose(b["gradient_norm"], a["gradient_norm"], rtol=1e-5)
    np.testing.assert_allclose(b["margin_quantiles"], a["margin_quantiles"], atol=1e-6)
    start = jax.device_get(init_params(CONFIG, jax.random.key(0)))
    scale = max(
        np.abs(x - y).max() for x, y in zip(*map(jax.tree.leaves, (alone, start)), strict=True)
    )
    assert scale > 1e-4  # it did move
    for x, y in zip(*map(jax.tree.leaves, (alone, spread)), strict=True):
        np.testing.assert_allclose(y, x, atol=1e-5 * scale + 1e-7)


def test_adamw_update_agrees_and_decays_matrices_only():
    schedule = make_schedule(
        learning_rate=1e-3, steps=10, warmup_steps=0, decay="linear", decay_rate=1.0
    )
    results = [
        update("distributed", 8, make_optimizer(schedule, weight_decay=w, clip_norm=1.0))[0]
        for w in (0.0, 0.5)
    ]
    start = jax.device_get(init_params(CONFIG, jax.random.key(0)))
    for decayed, plain, with_decay, before in zip(
        *map(jax.tree.leaves, (matrices(start), *results, start)), strict=True
    ):
        expected = plain - 1e-3 * 0.5 * before if decayed else plain
        np.testing.assert_allclose(with_decay, expected, atol=1e-7)


def test_schedule_rises_then_falls():
    schedule = make_schedule(
        learning_rate=1.0, steps=10, warmup_steps=4, decay="linear", decay_rate=1.0
    )
    got = [float(schedule(i)) for i in range(11)]
    expected = [0.25, 0.5, 0.75, 1.0, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0.0]
    np.testing.assert_allclose(got, expected, atol=1e-6)
