"""Schedules: where they begin, what they peak at, where they end."""

import math

import numpy as np
import pytest

from selfdistill_jax.errors import InputError
from selfdistill_jax.train.optimizer import DECAYS, make_schedule


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
