"""Builds an encoder as a pure function of its parameters."""

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
    attention: str = "auto",
    backend: str = "auto",
) -> Encode:
    """Returns ``encode(params, texts) -> [M, D]``: one float32 unit vector per text.

    Args:
      config: the encoder's sizes.
      pooling: one of `POOLINGS`, see `pool`.
      dense: dense layers after pooling, with parameters ``params["dense"]``; D is then the size of
        the last one.
      dtype: type of products and activations; norms, softmax, pooling and everything after pooling
        are always float32.
      dropout: dropout rates; only texts with seeds (``texts.seeds``) have dropout.
      remat: a key of `model.REMATS`: the values stored for the backward pass.
      attention: one of `attention.ATTENTIONS`. All but "auto" and "own" drop no attention weights,
        and need the plain encoder.
      backend: "plain" (`encoder.model`), "cpu" (`encoder.cpu`), or "auto": "cpu" on CPUs if it
        supports the architecture and ``attention``, otherwise "plain".

    Raises:
      ValueError: the backend is unknown, or "cpu" does not support the architecture or attention.

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
        raise ValueError(
            f"the backend 'cpu' does not support the architecture {config.architecture!r}; "
            "use the backend 'plain'"
        )
    own = attention in ("auto", "own")
    if backend == "cpu" and not own:
        raise ValueError(
            f"the backend 'cpu' does not support attention {attention!r}; use attention 'auto' or "
            "the backend 'plain'"
        )
    fits = known and own and jax.default_backend() == "cpu"
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
        # An absent text must keep the zero vector, which a dense layer's bias would change.
        return jnp.where(texts.lengths[:, None] > 0, vectors, 0) if dense else vectors

    return encode


def init_params(config: EncoderConfig, key: jax.Array) -> Params:
    """Returns random parameters as a plain nested dict of float32 arrays.

    Parameters of layers are stacked on axis 0.
    """
    texts = one_text_a_row(jnp.zeros((1, 2), jnp.int32), jnp.ones((1,), jnp.int32))
    return jax.jit(Encoder(config).init)(key, texts)["params"]
