"""Tests the packed encoder against a plain one that takes single texts and uses autodiff."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.training_step import kept_bytes
from selfdistill_jax.data.packing import lay_out, write_tokens
from selfdistill_jax.data.tokens import TokenTable
from selfdistill_jax.encoder.apply import init_params, make_encode
from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.encoder.cpu.attention import TokenInfo
from selfdistill_jax.encoder.cpu.bert import Bert, _layer
from selfdistill_jax.encoder.cpu.layer_loop import run_layers
from selfdistill_jax.encoder.model import REMATS, per_layer
from selfdistill_jax.encoder.pooling import POOLINGS
from selfdistill_jax.packed import one_text_a_row

CONFIG = EncoderConfig(60, 32, 3, 4, 64, 64)
LENGTHS = np.array([40, 3, 64, 17, 1, 33, 0, 8, 64, 21, 5, 31])
IDS = np.random.default_rng(0).integers(0, 60, (len(LENGTHS), 64)).astype(np.int32)
SHAPE = {"block": 64, "row_lengths": (16, 32, 64)}


@functools.cache
def params():
    """Returns parameters larger than initial ones, whose attention is nearly uniform."""
    values = init_params(CONFIG, jax.random.key(0))
    return jax.tree.map(lambda x: 4 * x if x.ndim > 1 else x, values)


def packed(blocks=30):
    flat = np.concatenate([row[:n] for row, n in zip(IDS, LENGTHS, strict=True)])
    table = TokenTable(flat, np.concatenate([[0], np.cumsum(LENGTHS)]))
    layout = lay_out(LENGTHS, **SHAPE)
    return write_tokens(layout, [(table, np.arange(len(LENGTHS)), 64)], blocks=blocks, **SHAPE)


def plain(params, ids, length, pooling):
    """Encodes one text as in the BERT paper (arXiv 1810.04805), with erf from jax.scipy.

    Ids behind the text's end are ignored, so all lengths share one program. With one program for
    each length, this file took 82 s of processor time instead of 25.
    """

    def norm(x, p):
        x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * p["scale"] + p["bias"]

    def dense(x, p):
        return x @ p["kernel"] + p["bias"]

    e, real = params["embeddings"], jnp.arange(len(ids)) < length
    x = norm(e["word"][ids] + e["position"][: len(ids)] + e["token_type"][0], e["norm"])
    for number in range(CONFIG.num_layers):
        p = jax.tree.map(lambda a, number=number: a[number], params["layers"])
        heads = dense(x, p["attention"]["qkv"]).reshape(len(ids), 3, CONFIG.num_heads, -1)
        q, k, v = heads.transpose(1, 2, 0, 3)
        scores = jnp.where(real, q @ k.mT / jnp.sqrt(q.shape[-1]), -jnp.inf)
        mixed = (jax.nn.softmax(scores, axis=-1) @ v).transpose(1, 0, 2).reshape(x.shape)
        x = norm(x + dense(mixed, p["attention"]["output"]), p["attention_norm"])
        inner = dense(x, p["inner"])
        inner = 0.5 * inner * (1 + jax.scipy.special.erf(inner / jnp.sqrt(2.0)))
        x = norm(x + dense(inner, p["outer"]), p["output_norm"])
    pooled = {
        "cls": x[0],
        "mean": x.sum(0, where=real[:, None]) / length,
        "max": x.max(0, where=real[:, None], initial=-jnp.inf),
        "last": x[length - 1],
    }[pooling]
    return pooled / jnp.linalg.norm(pooled)


def plainly(params, pooling):
    some = np.flatnonzero(LENGTHS)
    rows = jax.lax.map(lambda text: plain(params, *text, pooling), (IDS[some], LENGTHS[some]))
    return jnp.zeros((len(LENGTHS), CONFIG.hidden_size)).at[some].set(rows)


def weighted(vectors):
    return jnp.sum(vectors * jnp.sin(jnp.arange(vectors.size)).reshape(vectors.shape))


@functools.cache
def expected(pooling):
    """Returns the plain encoder's gradient and vectors in float64."""

    def both(params):
        vectors = plainly(params, pooling)
        return weighted(vectors), vectors

    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        wide = jax.tree.map(lambda x: np.asarray(x, np.float64), params())
        return jax.device_get(jax.jit(jax.grad(both, has_aux=True))(wide))


LAYOUTS = {
    "packed": packed,
    "packed, blocks to spare": lambda: packed(blocks=50),
    "padded": lambda: one_text_a_row(IDS, LENGTHS),
}


@pytest.mark.parametrize(
    ("layout", "pooling"),
    [*((layout, "mean") for layout in LAYOUTS), *(("packed", p) for p in POOLINGS if p != "mean")],
)
def test_vectors_and_gradients_are_the_plain_encoders(layout, pooling):
    gradient, vectors = expected(pooling)
    encode, texts = make_encode(CONFIG, pooling=pooling), LAYOUTS[layout]()
    got = jax.jit(encode)(params(), texts)
    np.testing.assert_allclose(got, vectors, atol=1e-5)
    own = jax.jit(jax.grad(lambda p: weighted(encode(p, texts))))(params())
    for path, (ours, theirs) in zip(
        jax.tree.leaves_with_path(own),
        zip(*map(jax.tree.leaves, (own, gradient)), strict=True),
        strict=True,
    ):
        scale = np.abs(theirs).max()
        assert scale > 0, path[0]
        np.testing.assert_allclose(ours, theirs, atol=3e-5 * scale, err_msg=str(path[0]))


def test_bfloat16_gradient_points_the_same_way():
    gradient, vectors = expected("mean")
    encode, texts = make_encode(CONFIG, pooling="mean", dtype=jnp.bfloat16), packed()
    np.testing.assert_allclose(encode(params(), texts), vectors, atol=0.05)
    own = jax.jit(jax.grad(lambda p: weighted(encode(p, texts))))(params())
    ours, theirs = (
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (own, gradient)
    )
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(own))
    cosine = ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)
    assert cosine > 0.998


def test_blocks_not_in_use_are_not_computed():
    """Values in unused blocks, even NaN, do not affect the vectors."""
    texts, word = packed(blocks=50), len(params()["embeddings"]["word"]) - 1
    ids = np.where(texts.ids == word, 0, texts.ids)  # a token that is in no text
    ids[texts.num_blocks :] = word
    texts = dataclasses.replace(texts, ids=ids)
    broken = jax.tree.map(np.copy, params())
    broken["embeddings"]["word"][word] = np.nan
    encode = jax.jit(make_encode(CONFIG, pooling="mean"))
    np.testing.assert_array_equal(encode(broken, texts), encode(params(), texts))
    one_more = dataclasses.replace(texts, num_blocks=texts.num_blocks + 1)
    assert not np.isfinite(jax.jit(hidden)(broken, one_more)).all()


def hidden(params, texts):
    return Bert(CONFIG).apply({"params": params}, texts)


def test_compile_time_does_not_see_the_depth():
    """The program of 12 layers is as long as that of 2, except for a few digits."""

    def program(layers):
        config = EncoderConfig(60, 32, layers, 4, 64, 64)
        encode, shapes = (
            make_encode(config, pooling="mean"),
            jax.eval_shape(lambda: init_params(config, jax.random.key(0))),
        )
        return jax.jit(jax.grad(lambda p: weighted(encode(p, packed())))).lower(shapes).as_text()

    assert len(program(12)) < 1.02 * len(program(2))


@pytest.mark.parametrize("remat", REMATS)
@pytest.mark.parametrize(("dtype", "bytes_"), [(jnp.float32, 4), (jnp.bfloat16, 2)])
def test_kept_values_take_what_the_formula_says(dtype, bytes_, remat):
    """docs/performance.md gives b (7 D + F) + 4 H bytes for each token and layer, or b D."""

    def kept(blocks):
        texts = packed(blocks=blocks)
        x = jax.ShapeDtypeStruct((*texts.ids.shape, CONFIG.hidden_size), dtype)
        layer = _layer(CONFIG, texts.row_lengths)
        blocks_ = TokenInfo(texts.segment_ids, texts.positions, texts.row_kind)

        def residuals(layers, x):
            def run(layers, x):
                constants = per_layer(CONFIG)
                options = {"constants": constants, "remat": remat}
                return run_layers(layer, layers, x, blocks_, texts.num_blocks, **options)

            return jax.vjp(run, layers, x)[1]

        layers = {"own": params()["layers"], "bias": None}
        leaves = jax.tree.leaves(jax.eval_shape(residuals, layers, x))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    of_token = (kept(50) - kept(30)) / (20 * 64)
    # Also kept: the last layer's result, each token's text and position, each block's row kind.
    rest = bytes_ * CONFIG.hidden_size + 8 + 4 / 64
    every = {
        "products": kept_bytes(CONFIG, 1, bytes_a_number=bytes_),
        "inputs": CONFIG.num_layers * bytes_ * CONFIG.hidden_size,
    }
    assert of_token == every[remat] + rest
