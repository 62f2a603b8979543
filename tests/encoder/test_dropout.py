"""Tests that dropout is independent of the layout, and that gradients account for it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfdistill_jax.encoder.apply import init_params, make_encode
from selfdistill_jax.encoder.architectures import ARCHITECTURES
from selfdistill_jax.encoder.config import read_dropout
from selfdistill_jax.encoder.dropout import Dropout, at, drop, drop_weights, mix, of_tokens
from selfdistill_jax.errors import InputError
from tests.encoder.cpu.test_layer_loop import CONFIG, LENGTHS, packed, params, weighted

RATES = Dropout(embeddings=0.1, attention=0.2, attended=0.3, inner=0.15, outer=0.25)
SEEDS = np.random.default_rng(5).integers(2**32, size=len(LENGTHS), dtype=np.uint32)


def seeded(texts):
    return dataclasses.replace(texts, seeds=SEEDS)


@functools.cache
def both(config=CONFIG, rates=RATES, remat="products"):
    """Returns a compiled function to vectors and gradient."""
    encode = make_encode(config, pooling="mean", dropout=rates, remat=remat)
    return jax.jit(
        lambda p, texts: (encode(p, texts), jax.grad(lambda p: weighted(encode(p, texts)))(p))
    )


def assert_close(got, want, share=3e-5):
    for x, y in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        np.testing.assert_allclose(x, y, atol=share * np.abs(y).max())


def test_a_share_is_dropped_and_the_mean_stays():
    tokens = of_tokens(SEEDS, np.repeat(np.arange(12), 100), np.tile(np.arange(100), 12))
    x = np.ones((1200, 384), np.float32)
    for rate in (0.1, 0.5):
        left = np.asarray(drop(x, at(tokens, "outer", 3), rate))
        np.testing.assert_allclose(np.unique(left), [0, 1 / (1 - rate)], rtol=1e-6)
        dropped = left == 0
        # Five standard deviations, over all values, over tokens, and over features.
        for shares in (dropped.mean(), dropped.mean(0), dropped.mean(1)):
            count = dropped.size // np.size(shares)
            assert np.abs(shares - rate).max() < 5 * np.sqrt(rate * (1 - rate) / count)
    assert drop(x, None, 0.5) is x


def test_places_layers_tokens_and_heads_drop_independently():
    tokens = of_tokens(SEEDS, np.repeat(np.arange(12), 24), np.tile(np.arange(24), 12))
    x = np.ones((288, 64), np.float32)
    kinds = [drop(x, at(tokens, place, layer), 0.5) for place in ("attended", "outer")
             for layer in (0, 1)]  # fmt: skip
    positions = np.tile(np.arange(24), 12)
    weights = drop_weights(np.ones((12 * 4, 24, 24), np.float32), tokens, positions, 0.5)
    kinds += list(weights.reshape(12, 4, -1).transpose(1, 0, 2))
    flat = np.stack([np.ravel(np.asarray(kind) > 0)[: 12 * 24 * 24] for kind in kinds]) * 2.0 - 1
    cosines = flat @ flat.T / flat.shape[1] - np.eye(len(flat))
    assert np.abs(cosines).max() < 5 / np.sqrt(flat.shape[1])
    turned = drop_weights(
        np.ones((12 * 4, 24, 24), np.float32), tokens, positions, 0.5, keys_first=True
    )
    np.testing.assert_array_equal(turned, np.asarray(weights).transpose(0, 2, 1))


def test_the_hash_scatters():
    x = np.arange(1 << 14, dtype=np.uint32)
    assert len(np.unique(mix(x))) == len(x)
    for bit in range(32):  # each input bit flips each output bit half of the time
        flipped = np.asarray(mix(x) ^ mix(x ^ np.uint32(1 << bit)))
        shares = (flipped[:, None] >> np.arange(32, dtype=np.uint32) & 1).mean(0)
        assert np.abs(shares - 0.5).max() < 0.05


def test_the_layout_does_not_matter():
    want, got = (both()(params(), seeded(texts)) for texts in (packed(), packed(blocks=50)))
    np.testing.assert_allclose(got[0], want[0], atol=1e-5)
    assert_close(got[1], want[1])
    without = make_encode(CONFIG, pooling="mean")(params(), packed())
    assert np.abs(want[0] - without).max() > 0.1  # something is dropped
    np.testing.assert_array_equal(both()(params(), packed())[0][:1], without[:1])


@pytest.mark.parametrize("gated", [False, True])
def test_the_gradient_is_that_of_differences(gated):
    """The gradient matches differences in float64, with dropout in all its places."""
    config = dataclasses.replace(CONFIG, num_layers=2, gated=gated, pre_norm=gated)
    values = jax.tree.map(
        lambda x: 4 * x if x.ndim > 1 else x, init_params(config, jax.random.key(0))
    )
    texts = seeded(packed())
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        wide = jax.tree.map(lambda x: np.asarray(x, np.float64), values)
        encode = make_encode(config, pooling="mean", dtype=jnp.float64, dropout=RATES)
        value = jax.jit(lambda p: weighted(encode(p, texts)))
        gradient = jax.jit(jax.grad(lambda p: weighted(encode(p, texts))))(wide)
        rng = np.random.default_rng(0)
        for _ in range(3):
            way = jax.tree.map(lambda x: rng.standard_normal(x.shape) * np.abs(x).mean(), wide)
            ahead, back = (
                value(jax.tree.map(lambda x, w, s=s: x + s * 1e-3 * w, wide, way)) for s in (1, -1)
            )
            slope = sum(
                np.vdot(g, w) for g, w in zip(*map(jax.tree.leaves, (gradient, way)), strict=True)
            )
            np.testing.assert_allclose((ahead - back) / 2e-3, slope, rtol=2e-2)


def test_remat_says_what_is_kept():
    def kept(remat):
        encode = make_encode(CONFIG, pooling="mean", remat=remat)
        leaves = jax.eval_shape(lambda p: jax.vjp(lambda p: encode(p, packed()), p)[1], params())
        return sum(leaf.size for leaf in jax.tree.leaves(leaves))

    assert kept("inputs") < kept("products") / 3


def test_what_is_not_kept_is_computed_again_alike():
    for rates in (Dropout(), RATES):
        want, got = (
            both(rates=rates, remat=r)(params(), seeded(packed())) for r in ("products", "inputs")
        )
        np.testing.assert_array_equal(got[0], want[0])
        assert_close(got[1], want[1], 1e-6)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_source_says_how_much(name):
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(name)
    raw = config.to_dict()
    given = {key: 0.01 * (i + 1) for i, key in enumerate(sorted(raw)) if "dropout" in key and
             isinstance(raw[key], (int, float))}  # fmt: skip
    rates = read_dropout(raw | given, where="config.json")
    assert set(rates) - {0} <= set(given.values())
    assert any(rates)
    absent = read_dropout({"model_type": name}, where="config.json")
    assert absent == read_dropout(raw, where="config.json")
    key = next(k for k, _ in ARCHITECTURES[name].dropout.values())
    with pytest.raises(InputError, match=rf"config.json: {key} is 1.5; expected a share"):
        read_dropout(raw | {key: 1.5}, where="config.json")
