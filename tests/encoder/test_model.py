"""Tests the plain encoder against torch and against the engine for CPUs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfdistill_jax.data.packing import lay_out, write_tokens
from selfdistill_jax.data.tokens import TokenTable
from selfdistill_jax.encoder import apply
from selfdistill_jax.encoder.apply import init_params, make_encode
from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.encoder.cpu.norm_gelu import ACTIVATIONS as CPU_ACTIVATIONS
from selfdistill_jax.encoder.dropout import Dropout
from selfdistill_jax.encoder.model import ACTIVATIONS, REMATS, Encoder
from selfdistill_jax.packed import one_text_a_row
from tests.encoder.settings import SETTINGS

LENGTHS = np.array([30, 3, 17, 1, 24, 0, 8, 21, 5, 32])
SHAPE = {"block": 96, "row_lengths": (16, 32)}
RATES = Dropout(0.1, 0.2, 0.1, 0.3, 0.1)


@functools.cache
def packed(seeds=False):
    """Returns ten texts in rows of two lengths, with a block to spare."""
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 90, LENGTHS.sum()).astype(np.int32)
    table = TokenTable(ids, np.concatenate([[0], np.cumsum(LENGTHS)]))
    layout = lay_out(LENGTHS, **SHAPE)
    texts = write_tokens(
        layout, [(table, np.arange(len(LENGTHS)), 32)], blocks=len(layout.rows) + 1, **SHAPE
    )
    own = np.arange(len(LENGTHS), dtype=np.uint32) if seeds else None
    return dataclasses.replace(texts, seeds=own)


def weighted(vectors):
    return jnp.sum(vectors * jnp.sin(jnp.arange(vectors.size)).reshape(vectors.shape))


def both_ways(params, texts, config, backend, **options):
    encode = make_encode(config, pooling="mean", backend=backend, **options)
    loss = lambda p: (weighted(encode(p, texts)), encode(p, texts))  # noqa: E731
    gradient, vectors = jax.jit(jax.grad(loss, has_aux=True))(params)
    return vectors, gradient


def assert_same(ours, theirs, *, atol):
    np.testing.assert_allclose(ours[0], theirs[0], atol=atol)
    for path, (a, b) in zip(
        jax.tree.leaves_with_path(ours[1]),
        zip(*map(jax.tree.leaves, (ours[1], theirs[1])), strict=True),
        strict=True,
    ):
        scale = max(np.abs(b).max(), 1e-6)
        np.testing.assert_allclose(a, b, atol=atol * 3 * scale, err_msg=str(path[0]))


@pytest.mark.parametrize("case", SETTINGS)
def test_vectors_are_those_of_torch(models, bases, case):
    torch = pytest.importorskip("torch")
    (reference, _), (encoder, *_) = models(case), bases(case)
    ids = np.random.default_rng(0).integers(5, 90, (4, 24))
    mask = np.arange(24) < np.array([24, 9, 1, 17])[:, None]
    with torch.no_grad():
        hidden = reference(
            input_ids=torch.tensor(ids * mask + ~mask * (reference.config.pad_token_id or 0)),
            attention_mask=torch.tensor(mask.astype(int)),
        ).last_hidden_state.numpy()
    mean = (hidden * mask[..., None]).sum(1) / mask.sum(1)[:, None]
    encode = make_encode(encoder.config, pooling="mean", backend="plain")
    found = jax.jit(encode)(encoder.params, one_text_a_row(ids, mask.sum(1)))
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("case", SETTINGS)
def test_both_backends_are_one_function(bases, case):
    """Vectors and gradients agree even with dropout, since both backends drop the same values."""
    encoder, *_ = bases(case)
    plain, cpu = (
        both_ways(encoder.params, packed(True), encoder.config, backend, dropout=RATES)
        for backend in ("plain", "cpu")
    )
    assert_same(plain, cpu, atol=1e-5)


@pytest.mark.parametrize("case", SETTINGS)
def test_both_backends_have_the_same_parameters(bases, case):
    encoder, *_ = bases(case)
    texts = one_text_a_row(jnp.zeros((1, 2), jnp.int32), jnp.ones((1,), jnp.int32))
    made = jax.eval_shape(Encoder(encoder.config).init, jax.random.key(0), texts)["params"]
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
    assert shapes(made) == shapes(encoder.params)


CONFIG = EncoderConfig(99, 32, 3, 4, 64, 64)


@pytest.mark.parametrize("remat", REMATS)
def test_bfloat16_and_remat(remat):
    params = init_params(CONFIG, jax.random.key(0))
    exact = both_ways(params, packed(), CONFIG, "plain")
    assert_same(both_ways(params, packed(), CONFIG, "plain", remat=remat), exact, atol=1e-6)
    vectors, gradient = both_ways(
        params, packed(), CONFIG, "plain", remat=remat, dtype=jnp.bfloat16
    )
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(gradient))
    np.testing.assert_allclose(vectors, exact[0], atol=0.02)
    ours, theirs = (
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (gradient, exact[1])
    )
    assert ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs) > 0.998


def test_choices_that_no_backend_offers_are_refused():
    assert ACTIVATIONS.keys() == CPU_ACTIVATIONS.keys()
    with pytest.raises(ValueError, match="backend is 'gpu'; known: auto, plain, cpu"):
        make_encode(CONFIG, pooling="mean", backend="gpu")
    with pytest.raises(ValueError, match="the backend 'cpu' does not support attention 'xla'"):
        make_encode(CONFIG, pooling="mean", backend="cpu", attention="xla")


def test_an_architecture_that_the_engine_does_not_know_is_computed_plainly(monkeypatch):
    config = dataclasses.replace(CONFIG, architecture="new")
    params = init_params(CONFIG, jax.random.key(0))
    with pytest.raises(ValueError, match="'cpu' does not support the architecture 'new'"):
        make_encode(config, pooling="mean", backend="cpu")
    monkeypatch.setattr(apply, "Bert", None)
    found = make_encode(config, pooling="mean")(params, packed())
    np.testing.assert_array_equal(
        found, make_encode(config, pooling="mean", backend="plain")(params, packed())
    )
