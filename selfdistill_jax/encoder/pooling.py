"""From a text's hidden states to its one unit vector."""

import jax
import jax.numpy as jnp

POOLINGS = ("cls", "mean")


def pool(hidden_NxLxD: jax.Array, lengths_N: jax.Array, pooling: str) -> jax.Array:
    """Pools hidden states over each text's own tokens.

    Args:
      hidden_NxLxD: ``[N, L, D]`` hidden states of any float dtype.
      lengths_N: ``[N]`` int32, tokens of each text; with mean, length 0 gives a zero vector.
      pooling: ``"cls"`` (the first token) or ``"mean"`` (mean of all tokens, special ones too).

    Returns:
      ``[N, D]`` float32.
    """
    if pooling == "cls":
        return hidden_NxLxD[:, 0].astype(jnp.float32)
    if pooling == "mean":
        inside = jnp.arange(hidden_NxLxD.shape[1])[None, :] < lengths_N[:, None]
        total = jnp.sum(hidden_NxLxD, axis=1, where=inside[:, :, None], dtype=jnp.float32)
        return total / jnp.maximum(lengths_N, 1).astype(jnp.float32)[:, None]
    raise ValueError(f"pooling is {pooling!r}; known: {', '.join(POOLINGS)}")


def normalize(x_NxD: jax.Array) -> jax.Array:
    """Scales each row to length 1; a zero row stays zero, and its gradient is finite."""
    square = jnp.sum(jnp.square(x_NxD), axis=-1, keepdims=True)
    return x_NxD * jax.lax.rsqrt(jnp.where(square > 0, square, 1))
