"""Tests the Pallas kernels of attention in interpret mode against plain attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfdistill_jax.data.packing import lay_out, write_tokens
from selfdistill_jax.data.tokens import TokenTable
from selfdistill_jax.encoder.apply import init_params, make_encode
from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.encoder.tpu.row_attention import row_attention, supports


def plain(qkv, segments, bias, window, heads):
    rows, length = segments.shape
    q, k, v = jnp.moveaxis(qkv.reshape(rows, length, 3, heads, -1), 2, 0)
    scores = jnp.einsum("rqhk,rshk->rhqs", q, k, precision="highest") * q.shape[-1] ** -0.5
    sees = segments[:, :, None] == segments[:, None]
    if window is not None:
        places = jnp.arange(length)
        sees &= (jnp.abs(places[:, None] - places[None]) <= window)[None]
    if bias is not None:
        scores += bias[None]
    weights = jax.nn.softmax(scores, where=sees[:, None], axis=-1)
    return jnp.einsum("rhqs,rshk->rqhk", weights, v, precision="highest").reshape(len(qkv), -1)


def inputs(heads, size, *, rows=3, length=128, bias=False, window=None, seed=0):
    draw = np.random.default_rng(seed)
    qkv = jnp.asarray(draw.normal(size=(rows * length, 3 * heads * size)), jnp.float32)
    segments = np.sort(draw.integers(0, 5, (rows, length)), axis=1)
    segments[-1] = 7  # a row of padding
    bias = jnp.asarray(draw.normal(size=(heads, length, length)), jnp.float32) if bias else None
    window = None if window is None else jnp.int32(window)
    return qkv, jnp.asarray(segments, jnp.int32), bias, window


CASES = {
    "two heads a tile": ((4, 64), {}),
    "four heads a tile": ((4, 32), {"length": 256}),
    "a head a tile": ((1, 128), {}),
    "a head of two tiles": ((1, 256), {}),
    "bias": ((2, 64), {"bias": True}),
    "window": ((2, 64), {"window": 9}),
    "bias and window": ((4, 32), {"bias": True, "window": 3}),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_plain_attention(case):
    (heads, size), options = CASES[case]
    qkv, segments, bias, window = inputs(heads, size, **options)
    length = segments.shape[1]
    assert supports(length=length, heads=heads, head_size=size)
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(len(qkv), heads * size)))

    def value(attention):
        return lambda qkv, bias: (attention(qkv, segments, bias, window, heads) * weight).sum()

    found = row_attention(qkv, segments, bias, window, heads)
    np.testing.assert_allclose(found, plain(qkv, segments, bias, window, heads), atol=2e-6)
    argnums = (0,) if bias is None else (0, 1)
    ours = jax.grad(value(row_attention), argnums)(qkv, bias)
    theirs = jax.grad(value(plain), argnums)(qkv, bias)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.abs(b).max()))


CONFIGS = {
    "bert": EncoderConfig(99, 128, 2, 4, 64, 128),
    "mpnet": EncoderConfig(
        99, 128, 2, 2, 64, 128, type_vocab_size=0, architecture="mpnet", relative_buckets=32
    ),
    "modernbert": EncoderConfig(
        99, 128, 3, 4, 64, 128, type_vocab_size=0, architecture="modernbert", pre_norm=True,
        gated=True, biases=False, rotary=(160000.0, 10000.0, 10000.0), windows=(0, 4, 4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGS)
def test_an_encoder_is_the_same_function_with_the_kernel(case):
    config = CONFIGS[case]
    params = init_params(config, jax.random.key(0))
    lengths = np.array([40, 3, 77, 0, 128, 9, 20])
    table = TokenTable(
        np.random.default_rng(0).integers(5, 90, lengths.sum()).astype(np.int32),
        np.concatenate([[0], np.cumsum(lengths)]),
    )
    shape = {"block": 384, "row_lengths": (128,)}
    texts = [(table, np.arange(len(lengths)), 128)]
    packed = write_tokens(lay_out(lengths, **shape), texts, blocks=1, **shape)

    def vectors_and_gradient(attention):
        encode = make_encode(config, pooling="mean", backend="plain", attention=attention)
        weight = jnp.sin(jnp.arange(len(lengths) * 128)).reshape(len(lengths), 128)

        def value(params):
            vectors = encode(params, packed)
            return (vectors * weight).sum(), vectors

        return jax.jit(jax.value_and_grad(value, has_aux=True))(params)

    (_, vectors), gradient = vectors_and_gradient("pallas")
    for other in ("own", "auto"):
        (_, expected), expected_gradient = vectors_and_gradient(other)
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
        for a, b in zip(*map(jax.tree.leaves, (gradient, expected_gradient)), strict=True):
            np.testing.assert_allclose(a, b, atol=3e-5 * max(float(jnp.abs(b).max()), 1e-6))


def test_bfloat16_differs_by_its_rounding():
    qkv, segments, _, _ = inputs(4, 64)
    exact = plain(qkv.astype(jnp.bfloat16).astype(jnp.float32), segments, None, None, 4)
    found = row_attention(qkv.astype(jnp.bfloat16), segments, None, None, 4)
    assert found.dtype == jnp.bfloat16
    error = jnp.linalg.norm(found.astype(jnp.float32) - exact) / jnp.linalg.norm(exact)
    assert 0 < error < 5e-3


@pytest.mark.parametrize(
    ("length", "heads", "head_size"),
    [(216, 12, 64), (1024, 12, 64), (128, 12, 80), (128, 1, 64), (128, 2, 512)],
)
def test_other_sizes_are_not_supported(length, heads, head_size):
    assert not supports(length=length, heads=heads, head_size=head_size)
