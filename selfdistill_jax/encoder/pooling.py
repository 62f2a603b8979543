"""Pools a text's hidden states into one vector, and scales vectors to unit length."""

import jax
import jax.numpy as jnp

from selfdistill_jax.packed import PackedTexts

POOLINGS = ("cls", "mean", "max", "last")


def pool(hidden_NxTxD: jax.Array, texts: PackedTexts, pooling: str) -> jax.Array:
    """Pools hidden states over each text's own tokens.

    Args:
      hidden_NxTxD: ``[N, T, D]`` hidden states of any float dtype.
      texts: the M texts and their places in the blocks; a text without tokens gets a zero vector.
      pooling: ``"cls"`` (the first token), ``"last"`` (the last token), ``"mean"`` or ``"max"``
        (over all tokens, special ones included).

    Returns:
      ``[M, D]`` float32.
    """
    flat = hidden_NxTxD.reshape(-1, hidden_NxTxD.shape[-1]).astype(jnp.float32)
    there_Mx1 = texts.lengths[:, None] > 0
    count = len(texts.lengths)
    if pooling == "cls":
        return jnp.where(there_Mx1, flat[texts.starts], 0)
    if pooling == "last":
        last = texts.starts + jnp.maximum(texts.lengths, 1) - 1
        return jnp.where(there_Mx1, flat[last], 0)
    if pooling == "max":
        highest = jax.ops.segment_max(flat, texts.segment_ids.reshape(-1), count + 1)[:count]
        return jnp.where(there_Mx1, highest, 0)
    if pooling == "mean":
        total = jax.ops.segment_sum(flat, texts.segment_ids.reshape(-1), count + 1)[:count]
        return total / jnp.maximum(texts.lengths, 1).astype(jnp.float32)[:, None]
    raise ValueError(f"pooling is {pooling!r}; known: {', '.join(POOLINGS)}")


def normalize(x_NxD: jax.Array) -> jax.Array:
    """Scales each row to length 1; a zero row stays zero, and its gradient is finite."""
    square = jnp.sum(jnp.square(x_NxD), axis=-1, keepdims=True)
    return x_NxD * jax.lax.rsqrt(jnp.where(square > 0, square, 1))
