"""Keys and values before a text's own, against attention over one sequence written plainly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfdistill_jax.encoder.attention import Block, Prefix, Sight, attend, attend_backward
from selfdistill_jax.encoder.dropout import at, of_tokens

HEADS, SIZE, EXTRA = 2, 4, 3
TEXTS = np.array([0] * 5 + [1] * 3 + [2] * 7 + [9])  # two rows of 8; the last token is padding
POSITIONS = np.array([*range(5), *range(3), *range(7), 0])


def numbers(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


QKV = numbers(0, 16, 3 * HEADS * SIZE)
PREFIX = Prefix(*numbers(1, 2, EXTRA, HEADS * SIZE))
BLOCK = Block(TEXTS, POSITIONS, jnp.int32(1))
OPTIONS = {"heads": HEADS, "row_lengths": (4, 8)}


def plain(qkv, prefix):
    """Each text alone: keys are those of the prefix, then its own."""
    out = []
    for text in (0, 1, 2):
        own = qkv[text == TEXTS]
        q, k, v = (x.reshape(-1, HEADS, SIZE) for x in jnp.split(own, 3, axis=1))
        k, v = (
            jnp.concatenate([x.reshape(-1, HEADS, SIZE), y])
            for x, y in zip(prefix, (k, v), strict=True)
        )
        weights = jax.nn.softmax(jnp.einsum("qhk,shk->hqs", q, k) * SIZE**-0.5)
        out.append(jnp.einsum("hqs,shk->qhk", weights, v).reshape(len(own), -1))
    return jnp.concatenate(out)


def test_attention_with_a_prefix_is_attention_to_more_keys():
    out, _ = attend(QKV, BLOCK, prefix=PREFIX, **OPTIONS)
    np.testing.assert_allclose(out[:15], plain(QKV, PREFIX), atol=2e-6)
    without, _ = attend(QKV, BLOCK, **OPTIONS)
    assert np.abs(out - without)[:15].max() > 0.1


def test_its_gradients_are_those_of_autodiff():
    g = numbers(2, 16, HEADS * SIZE)
    g[15] = 0  # nothing is read of padding
    out, log_sum = attend(QKV, BLOCK, prefix=PREFIX, **OPTIONS)
    got = attend_backward(QKV, BLOCK, out, log_sum, g, prefix=PREFIX, row_lengths=(4, 8))
    want = jax.grad(lambda *x: jnp.vdot(plain(*x), g[:15]), (0, 1))(QKV, PREFIX)
    np.testing.assert_allclose(got[0][:15], want[0][:15], atol=5e-6)
    for ours, theirs in zip(got[2], want[1], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-6)


@pytest.mark.parametrize("drop", [0.0, 0.4])
def test_the_gradient_with_dropout_is_that_of_the_function(drop):
    seeds = at(of_tokens(np.arange(10, dtype=np.uint32), TEXTS, POSITIONS), "attention")
    options = {"sight": Sight(seeds=seeds), "drop": drop, "prefix": PREFIX}
    g = numbers(2, 16, HEADS * SIZE)
    out, log_sum = attend(QKV, BLOCK, **OPTIONS, **options)
    back = attend_backward(QKV, BLOCK, out, log_sum, g, row_lengths=(4, 8), **options)

    def value(qkv, prefix):
        return jnp.vdot(attend(qkv, BLOCK, **OPTIONS, **(options | {"prefix": prefix}))[0], g)

    want = jax.grad(value, (0, 1))(QKV, PREFIX)
    np.testing.assert_allclose(back[0], want[0], atol=5e-6)
    for ours, theirs in zip(back[2], want[1], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-6)
