"""The encoder as a pure function of its parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from selfdistill_jax.encoder.bert import Bert, TokenRows
from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.encoder.pooling import normalize, pool

Params = dict[str, Any]
Encode = Callable[[Params, TokenRows], jax.Array]


def make_encode(config: EncoderConfig, *, pooling: str, dtype: jnp.dtype = jnp.float32) -> Encode:
    """Returns ``encode(params, rows) -> [N, D]``: float32 unit vectors, one a text.

    Args:
      config: the encoder's sizes.
      pooling: see `pool`.
      dtype: of products and activations; norms, softmax and pooling are float32 whatever it is.

    Example:
      >>> from selfdistill_jax.encoder.config import EncoderConfig
      >>> config = EncoderConfig(99, 16, 2, 2, 32, 64)
      >>> encode = make_encode(config, pooling="mean")
      >>> rows = TokenRows(jnp.ones((3, 8), jnp.int32), jnp.array([8, 5, 2]))
      >>> encode(init_params(config, jax.random.key(0)), rows).shape
      (3, 16)
    """
    model = Bert(config, dtype)

    def encode(params: Params, rows: TokenRows) -> jax.Array:
        hidden = model.apply({"params": params}, rows)
        return normalize(pool(hidden, rows.lengths, pooling))

    return encode


def init_params(config: EncoderConfig, key: jax.Array) -> Params:
    """Random parameters as a plain nested dict of float32 arrays (layers stacked on axis 0)."""
    rows = TokenRows(jnp.zeros((1, 2), jnp.int32), jnp.ones((1,), jnp.int32))
    return jax.jit(Bert(config).init)(key, rows)["params"]
