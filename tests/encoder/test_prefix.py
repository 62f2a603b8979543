"""Keys and values before a text's own, against attention over one sequence written plainly."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfdistill_jax.checkpoints.model_folder import Pretrained, write_folder
from selfdistill_jax.checkpoints.parameter_names import to_tensors
from selfdistill_jax.encoder.apply import init_params, make_encode
from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.encoder.cpu.attention import (
    LayerMask,
    Prefix,
    TokenInfo,
    attend,
    attend_backward,
)
from selfdistill_jax.encoder.dropout import at, of_tokens
from selfdistill_jax.encoder.model import REMATS
from selfdistill_jax.encoder.prefix import apply_prefix, init_prefix
from selfdistill_jax.errors import InputError
from selfdistill_jax.packed import one_text_a_row

HEADS, SIZE, EXTRA = 2, 4, 3
TEXTS = np.array([0] * 5 + [1] * 3 + [2] * 7 + [9])  # two rows of 8; the last token is padding
POSITIONS = np.array([*range(5), *range(3), *range(7), 0])


def numbers(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


QKV = numbers(0, 16, 3 * HEADS * SIZE)
PREFIX = Prefix(*numbers(1, 2, EXTRA, HEADS * SIZE))
BLOCK = TokenInfo(TEXTS, POSITIONS, jnp.int32(1))
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
    options = {"sight": LayerMask(seeds=seeds), "drop": drop, "prefix": PREFIX}
    g = numbers(2, 16, HEADS * SIZE)
    out, log_sum = attend(QKV, BLOCK, **OPTIONS, **options)
    back = attend_backward(QKV, BLOCK, out, log_sum, g, row_lengths=(4, 8), **options)

    def value(qkv, prefix):
        return jnp.vdot(attend(qkv, BLOCK, **OPTIONS, **(options | {"prefix": prefix}))[0], g)

    want = jax.grad(value, (0, 1))(QKV, PREFIX)
    np.testing.assert_allclose(back[0], want[0], atol=5e-6)
    for ours, theirs in zip(back[2], want[1], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-6)


CONFIG = EncoderConfig(50, 16, 3, 2, 24, 12)
LENGTHS = np.array([9, 3, 5], np.int32)
IDS = np.random.default_rng(3).integers(1, 50, (3, 9)).astype(np.int32)


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(np.asarray, init_params(CONFIG, jax.random.key(0)))


def test_a_new_prefix_is_small_of_every_layer_and_of_its_key(params):
    made = init_prefix(params, count=40, key=jax.random.key(1))
    both = np.stack([made["key"], made["value"]])
    assert both.shape == (2, 3, 40, 16)
    np.testing.assert_allclose(np.square(both).mean((2, 3)), 0.02**2, rtol=0.25)
    assert not np.any(both[0] == both[1])
    assert not np.any(both[:, 0] == both[:, 1])
    again, other = (init_prefix(params, count=40, key=jax.random.key(key)) for key in (1, 2))
    assert jax.tree.all(jax.tree.map(np.array_equal, made, again))
    assert not np.any(made["key"] == other["key"])


def test_effective_parameters_are_the_frozen_ones_with_a_prefix_and_moved_positions(params):
    prefix = jax.device_get(init_prefix(params, count=4, key=jax.random.key(1)))
    effective = apply_prefix(params, prefix)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(effective))
    on_devices = jax.jit(apply_prefix)(params, prefix)
    same = partial(np.array_equal, equal_nan=True)
    assert jax.tree.all(jax.tree.map(same, effective, on_devices))
    assert effective["layers"]["attention"].pop("prefix") == prefix
    position = effective["embeddings"].pop("position")
    np.testing.assert_array_equal(position[:8], params["embeddings"]["position"][4:])
    rest = {**params["embeddings"]}
    del rest["position"]
    expected = {**params, "embeddings": rest}
    assert jax.tree.all(jax.tree.map(np.array_equal, effective, expected))


@pytest.mark.parametrize("remat", REMATS)
def test_vectors_and_gradient_do_not_depend_on_how_texts_share_rows(params, remat):
    params = jax.tree.map(lambda x: jnp.asarray(x) * 5, params)  # of a size at which all counts
    prefix = init_prefix(params, count=3, key=jax.random.key(1))
    prefix = jax.tree.map(lambda x: 40 * x, prefix)  # as large as after training
    encode = make_encode(CONFIG, pooling="mean", remat=remat)
    towards = numbers(4, 3, 16)

    @jax.jit
    def together(prefix):
        vectors = encode(apply_prefix(params, prefix), one_text_a_row(IDS, LENGTHS))
        return jnp.vdot(vectors, towards), vectors

    def alone(prefix):
        """Each in a row of just its length."""
        vectors = [
            encode(apply_prefix(params, prefix), one_text_a_row(ids[None, :n], n[None]))[0]
            for ids, n in zip(IDS, LENGTHS, strict=True)
        ]
        return jnp.vdot(jnp.stack(vectors), towards), jnp.stack(vectors)

    (got, want) = (jax.grad(f, has_aux=True)(prefix) for f in (together, alone))
    for x, y in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        np.testing.assert_allclose(x, y, atol=3e-6)
    assert all(np.abs(leaf).max((1, 2)).min() > 1e-3 for leaf in jax.tree.leaves(got[0]))
    without = encode(params, one_text_a_row(IDS, LENGTHS))
    assert np.abs(got[1] - without).max(1).min() > 0.01


def test_a_text_that_leaves_no_room_to_the_prefix_has_no_vector(params):
    prefix = init_prefix(params, count=4, key=jax.random.key(1))
    encode = make_encode(CONFIG, pooling="mean")
    vectors = encode(apply_prefix(params, prefix), one_text_a_row(IDS, LENGTHS))
    assert np.isnan(vectors).any(1).tolist() == [True, False, False]


def test_no_weights_are_written_of_it(params, tmp_path):
    prefix = init_prefix(params, count=4, key=jax.random.key(1))
    effective = apply_prefix(params, prefix)
    with pytest.raises(InputError, match=r"cannot be written as a model.* BiEncoder\.load"):
        to_tensors(effective, CONFIG)
    encoder = Pretrained(tmp_path, CONFIG, {}, effective, {}, "mean", 8)
    with pytest.raises(InputError, match="cannot be written as a model"):
        write_folder(tmp_path / "model", encoder, card="")
    assert not any(tmp_path.iterdir())
