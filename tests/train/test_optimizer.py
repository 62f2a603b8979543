"""Tests schedules (where they begin, peak and end) and the optimizer's updates."""

import math

import jax
import numpy as np
import optax
import pytest

from selfdistill_jax.errors import InputError
from selfdistill_jax.train.optimizer import DECAYS, make_optimizer, make_schedule


def rates(decay, *, steps=10, warmup=4, decay_rate=0.5):
    schedule = make_schedule(
        learning_rate=2.0, steps=steps, warmup_steps=warmup, decay=decay, decay_rate=decay_rate
    )
    return [float(schedule(step)) for step in range(steps)]


@pytest.mark.parametrize(
    ("decay", "value"),
    [
        ("constant", lambda i: 2.0),
        ("linear", lambda i: 2.0 * (1 - i / 6)),
        ("cosine", lambda i: 1.0 + math.cos(math.pi * i / 6)),
        ("exponential", lambda i: 2.0 * 0.5**i),
    ],
)
def test_decays(decay, value):
    expected = [0.5, 1.0, 1.5, 2.0, *(value(i) for i in range(6))]
    np.testing.assert_allclose(rates(decay), expected, rtol=1e-6)


@pytest.mark.parametrize("decay", DECAYS)
def test_no_warm_up_begins_at_the_top(decay):
    assert rates(decay, warmup=0)[0] == 2.0


@pytest.mark.parametrize("decay", DECAYS)
def test_warm_up_longer_than_the_run_never_comes_down(decay):
    np.testing.assert_allclose(rates(decay, steps=3, warmup=4), [0.5, 1.0, 1.5])


def test_unknown_decay():
    with pytest.raises(InputError, match=r"config\.train\.decay is 'fast'; expected constant, lin"):
        rates("fast")


def updates(optimizer, gradients):
    params = {"kernel": np.float32([[1.0, -2.0]]), "bias": np.float32([3.0])}
    state, found = optimizer.init(params), []
    for gradient in gradients:
        change, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, change)
        found.append(params)
    return found


def test_the_optimizer_is_adamw_after_clipping():
    draw = np.random.default_rng(0)
    gradients = [
        {"kernel": np.float32(draw.normal(size=(1, 2))), "bias": np.float32(draw.normal(size=1))}
        for _ in range(6)
    ]
    schedule = make_schedule(
        learning_rate=0.1, steps=6, warmup_steps=2, decay="cosine", decay_rate=1.0
    )
    ours = make_optimizer(schedule, steps=6, weight_decay=0.1, clip_norm=0.5)
    peer = optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.adamw(schedule, weight_decay=0.1, mask={"kernel": True, "bias": False}),
    )
    for one, other in zip(updates(ours, gradients), updates(peer, gradients), strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one, other)


def test_runs_of_other_learning_rates_share_a_compiled_step():
    """Their programs have the same text, which is the key of the compilation cache."""

    def program(rate, steps, decay):
        schedule = make_schedule(
            learning_rate=rate, steps=steps, warmup_steps=2, decay=decay, decay_rate=0.9
        )
        optimizer = make_optimizer(schedule, steps=steps, weight_decay=0.1, clip_norm=1.0)
        params = {"kernel": np.ones((2, 2), np.float32)}
        state = optimizer.init(params)
        return jax.jit(optimizer.update).lower(params, state, params).as_text()

    assert program(0.1, 30, "cosine") == program(2e-5, 900, "linear")
    assert program(0.1, 30, "cosine") != program(0.1, 3000, "cosine")  # a longer table
