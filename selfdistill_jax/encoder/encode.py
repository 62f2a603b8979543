"""The encoder as a pure function of its parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from selfdistill_jax.encoder.bert import Bert
from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.encoder.pooling import normalize, pool
from selfdistill_jax.packed import PackedTexts, one_text_a_row

Params = dict[str, Any]
Encode = Callable[[Params, PackedTexts], jax.Array]


def make_encode(config: EncoderConfig, *, pooling: str, dtype: jnp.dtype = jnp.float32) -> Encode:
    """Returns ``encode(params, texts) -> [M, D]``: float32 unit vectors, one a text.

    Args:
      config: the encoder's sizes.
      pooling: see `pool`.
      dtype: of products and activations; norms, softmax and pooling are float32 whatever it is.

    Example:
      >>> from selfdistill_jax.encoder.config import EncoderConfig
      >>> config = EncoderConfig(99, 16, 2, 2, 32, 64)
      >>> encode = make_encode(config, pooling="mean")
      >>> texts = one_text_a_row(jnp.ones((3, 8), jnp.int32), jnp.array([8, 5, 2]))
      >>> encode(init_params(config, jax.random.key(0)), texts).shape
      (3, 16)
    """
    model = Bert(config, dtype)

    def encode(params: Params, texts: PackedTexts) -> jax.Array:
        hidden_NxTxD = model.apply({"params": params}, texts)
        return normalize(pool(hidden_NxTxD, texts, pooling))

    return encode


def init_params(config: EncoderConfig, key: jax.Array) -> Params:
    """Random parameters as a plain nested dict of float32 arrays (layers stacked on axis 0)."""
    texts = one_text_a_row(jnp.zeros((1, 2), jnp.int32), jnp.ones((1,), jnp.int32))
    return jax.jit(Bert(config).init)(key, texts)["params"]
