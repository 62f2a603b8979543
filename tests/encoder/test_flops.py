"""Tests the count of an encoder's operations against plain loops and against XLA's count."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.encoder.flops import forward_flops, training_flops

TINY = EncoderConfig(99, 6, 3, 2, 10, 64)


def product(m, k, n):
    """Counts a multiplication and an addition for each of k terms of each of m x n sums."""
    return sum(2 for _ in range(m) for _ in range(k) for _ in range(n))


def by_hand(c, length):
    """Counts every product of every head of every layer."""
    d, head, total = c.hidden_size, c.head_size, 0
    for window in c.windows or (0,) * c.num_layers:
        total += 3 * product(length, d, d)
        for _ in range(c.num_heads):
            for query in range(length):
                seen = [k for k in range(length) if not window or abs(k - query) <= window]
                total += product(1, head, len(seen)) + product(1, len(seen), head)
        total += product(length, d, d)
        inner = c.intermediate_size * (2 if c.gated else 1)
        total += product(length, d, inner) + product(length, c.intermediate_size, d)
    return total


def of_kernels(c, length):
    """Counts a layer's products with its kernels."""
    d, f = c.hidden_size, c.intermediate_size
    inner = product(length, d, f * (2 if c.gated else 1))
    return product(length, d, 4 * d) + inner + product(length, f, d)


@pytest.mark.parametrize("config", [TINY, dataclasses.replace(TINY, gated=True, windows=(0, 3, 8))])
def test_every_product_counts(config):
    lengths = [1, 5, 0, 12]
    expected = sum(by_hand(config, length) for length in lengths)
    assert forward_flops(config, np.array(lengths)) == expected
    assert training_flops(config, np.array(lengths)) == 3 * expected
    # Frozen kernels save the products for their own gradients; attention costs the same.
    kernels = sum(of_kernels(config, length) for length in lengths)
    frozen = training_flops(config, np.array(lengths), frozen=True)
    assert frozen == 3 * expected - config.num_layers * kernels
    forward = training_flops(config, np.array(lengths), frozen=True, backward=False)
    assert forward == expected


def test_of_no_text_there_is_nothing():
    assert forward_flops(TINY, np.array([], np.int32)) == 0
    assert forward_flops(TINY, np.zeros(3, np.int32)) == 0


def test_lengths_of_any_integer_type():
    """Sums and squares of lengths do not overflow a small integer type."""
    lengths = np.full(70_000, 200)
    expected = forward_flops(TINY, lengths.astype(np.int64))
    assert expected == 70_000 * forward_flops(TINY, np.array([200]))
    for dtype in (np.uint8, np.int16, np.int32):
        assert forward_flops(TINY, lengths.astype(dtype)) == expected


def attention_and_feed_forward(w, x, heads):
    n, length, d = x.shape
    q, k, v = jnp.moveaxis((x @ w["qkv"]).reshape(n, length, 3, heads, d // heads), 2, 0)
    weights = jax.nn.softmax(jnp.einsum("nlhk,nmhk->nhlm", q, k))
    mixed = jnp.einsum("nhlm,nmhk->nlhk", weights, v).reshape(n, length, d)
    x = x + mixed @ w["output"]
    return x + jax.nn.relu(x @ w["inner"]) @ w["outer"]


@pytest.mark.parametrize("backward", [False, True])
def test_xla_counts_the_same(backward):
    """XLA also counts softmax, sums and squares, so its count is up to 3 % higher."""
    texts, length = 2, 64
    c = EncoderConfig(99, 128, 1, 4, 512, 64)
    d, f = c.hidden_size, c.intermediate_size
    shapes = {"qkv": (d, 3 * d), "output": (d, d), "inner": (d, f), "outer": (f, d)}
    w = {name: jnp.ones(shape) for name, shape in shapes.items()}
    x = jnp.ones((texts, length, d))

    def forward(w, x):
        return attention_and_feed_forward(w, x, c.num_heads)

    def loss(w, x):
        return jnp.square(forward(w, x)).sum()

    function = jax.value_and_grad(loss, argnums=(0, 1)) if backward else forward
    counted = jax.jit(function).lower(w, x).compile().cost_analysis()["flops"]
    ours = (training_flops if backward else forward_flops)(c, np.full(texts, length))
    assert ours <= counted <= 1.03 * ours
