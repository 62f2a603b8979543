"""The encoder as a pure function of its parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.encoder.cpu.bert import CPU_ARCHITECTURES, Bert
from selfdistill_jax.encoder.dense_head import DenseLayer, apply_head
from selfdistill_jax.encoder.dropout import NO_DROPOUT, Dropout
from selfdistill_jax.encoder.model import Encoder
from selfdistill_jax.encoder.pooling import normalize, pool
from selfdistill_jax.packed import PackedTexts, one_text_a_row

BACKENDS = ("auto", "plain", "cpu")
Params = dict[str, Any]
Encode = Callable[[Params, PackedTexts], jax.Array]


def make_encode(
    config: EncoderConfig,
    *,
    pooling: str,
    dense: tuple[DenseLayer, ...] = (),
    dtype: jnp.dtype = jnp.float32,
    dropout: Dropout = NO_DROPOUT,
    remat: str = "products",
    attention: str = "own",
    backend: str = "auto",
) -> Encode:
    """Returns ``encode(params, texts) -> [M, D]``: float32 unit vectors, one a text.

    Args:
      config: the encoder's sizes.
      pooling: see `pool`.
      dense: layers behind it, of ``params["dense"]``; the last one's size is then D.
      dtype: of products and activations; norms, softmax, pooling and what is behind it are float32
        whatever it is.
      dropout: of texts that have seeds (``texts.seeds``); others lose nothing.
      remat: a key of `model.REMATS`: the values kept for the backward pass.
      attention: one of `model.ATTENTIONS`. All but "own" drop no weights, and need
        the plain encoder.
      backend: "plain" (`encoder.model`), "cpu" (`encoder.cpu`), or "auto": "cpu" on CPUs
        for the architectures it knows; "plain" elsewhere.

    Raises:
      ValueError: an unknown backend, or an architecture or attention that "cpu" lacks.

    Example:
      >>> from selfdistill_jax.encoder.config import EncoderConfig
      >>> config = EncoderConfig(99, 16, 2, 2, 32, 64)
      >>> encode = make_encode(config, pooling="mean")
      >>> texts = one_text_a_row(jnp.ones((3, 8), jnp.int32), jnp.array([8, 5, 2]))
      >>> encode(init_params(config, jax.random.key(0)), texts).shape
      (3, 16)
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; known: {', '.join(BACKENDS)}")
    known = config.architecture in CPU_ARCHITECTURES
    if backend == "cpu" and not known:
        raise ValueError(f"the backend 'cpu' does not compute {config.architecture!r}")
    if backend == "cpu" and attention != "own":
        raise ValueError(f"the backend 'cpu' has its own attention, not {attention!r}")
    fits = known and attention == "own" and jax.default_backend() == "cpu"
    on_cpu = backend == "cpu" or (backend == "auto" and fits)

    def encode(params: Params, texts: PackedTexts) -> jax.Array:
        if on_cpu:
            model = Bert(config, dtype, dropout, remat)
        else:
            model = Encoder(config, dtype, dropout, remat, attention)
        own = {name: value for name, value in params.items() if name != "dense"}
        hidden: Any = model.apply({"params": own}, texts)
        pooled = pool(hidden, texts, pooling)
        vectors = normalize(apply_head(params.get("dense", {}), dense, pooled))
        # A text that is not there has no vector, whatever a layer's bias makes of zeros.
        return jnp.where(texts.lengths[:, None] > 0, vectors, 0) if dense else vectors

    return encode


def init_params(config: EncoderConfig, key: jax.Array) -> Params:
    """Random parameters as a plain nested dict of float32 arrays (layers stacked on axis 0)."""
    texts = one_text_a_row(jnp.zeros((1, 2), jnp.int32), jnp.ones((1,), jnp.int32))
    return jax.jit(Bert(config).init)(key, texts)["params"]
