"""Positions as angles: queries and keys are turned, so that scores depend on distances alone.

Source: RoFormer, arXiv 2104.09864, section 3.2.2; pairs are a head's first and second half.
"""

import jax
import jax.numpy as jnp
import numpy as np


def frequencies(head_size: int, bases: tuple[float, ...]) -> np.ndarray:
    """``[layers, K / 2]`` float32: the angle from one position to the next, of each pair.

    >>> frequencies(4, (100.0,))
    array([[1. , 0.1]], dtype=float32)
    """
    shares = np.arange(0, head_size, 2, dtype=np.float32) / np.float32(head_size)
    return 1 / np.asarray(bases, np.float32)[:, None] ** shares


def turn(
    qkv_Tx3D: jax.Array, positions_T: jax.Array, frequencies: jax.Array, *, heads: int
) -> jax.Array:
    """Turns queries and keys by their positions; values stay.

    Args:
      qkv_Tx3D: side by side; angles and products are float32 whatever it is.
      positions_T: int32, places within texts.
      frequencies: ``[K / 2]`` of one layer.
      heads: that each of the three has.
    """
    angles_Tx1xK = (positions_T.astype(jnp.float32)[:, None] * frequencies[None])[:, None]
    cos, sin = jnp.cos(angles_Tx1xK), jnp.sin(angles_Tx1xK)
    size = qkv_Tx3D.shape[-1] // 3
    pairs = qkv_Tx3D[:, : 2 * size].astype(jnp.float32)
    first, second = jnp.split(pairs.reshape(len(pairs), 2 * heads, -1), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    turned = turned.reshape(len(pairs), -1).astype(qkv_Tx3D.dtype)
    return jnp.concatenate([turned, qkv_Tx3D[:, 2 * size :]], axis=-1)
