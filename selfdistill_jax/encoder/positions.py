"""Computes rotary angles of queries and keys, and attention biases by relative position.

Rotary: RoFormer, arXiv 2104.09864, section 3.2.2; a pair has one value of a head's first half and
one of its second half. Scores then depend on distances alone.

Relative: there is one bias for each head and distance. Within a text, ``k - q`` is the distance of
two tokens wherever the text lies in its row, so one square serves all rows. Squares are built from
distances, and summed back to them, by padding and reshaping instead of a gather: row q of a
``[L, 2 L - 1]`` array begins one place further left than row q - 1.

Shape legend: B buckets, H heads, L tokens of a row, O = 2 L - 1 distances from 1 - L to L - 1.
"""

import jax
import jax.numpy as jnp
import numpy as np

_FARTHEST = 128  # all distances from this one on share a bucket


def frequencies(head_size: int, bases: tuple[float, ...]) -> np.ndarray:
    """Returns ``[layers, K / 2]`` float32: each pair's angle from one position to the next.

    >>> frequencies(4, (100.0,))
    array([[1. , 0.1]], dtype=float32)
    """
    shares = np.arange(0, head_size, 2, dtype=np.float32) / np.float32(head_size)
    return 1 / np.asarray(bases, np.float32)[:, None] ** shares


def turn(
    qkv_Tx3D: jax.Array, positions_T: jax.Array, frequencies: jax.Array, *, heads: int
) -> jax.Array:
    """Rotates queries and keys by their positions; values are unchanged.

    Args:
      qkv_Tx3D: queries, keys and values side by side; angles and products are always float32.
      positions_T: int32, positions within texts.
      frequencies: ``[K / 2]`` rotary frequencies of one layer.
      heads: number of heads.
    """
    angles_Tx1xK = (positions_T.astype(jnp.float32)[:, None] * frequencies[None])[:, None]
    cos, sin = jnp.cos(angles_Tx1xK), jnp.sin(angles_Tx1xK)
    size = qkv_Tx3D.shape[-1] // 3
    pairs = qkv_Tx3D[:, : 2 * size].astype(jnp.float32)
    first, second = jnp.split(pairs.reshape(len(pairs), 2 * heads, -1), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    turned = turned.reshape(len(pairs), -1).astype(qkv_Tx3D.dtype)
    return jnp.concatenate([turned, qkv_Tx3D[:, 2 * size :]], axis=-1)


def buckets(longest: int, count: int) -> np.ndarray:
    """Returns ``[2 longest - 1]`` int32: each distance's bucket, keys before the query first.

    Each side has half of the buckets; half of these are for single distances, the rest grow with
    the logarithm of the distance. Source: T5, arXiv 1910.10683, section 2.1, as used in MPNet.

    >>> buckets(4, 32)
    array([ 3,  2,  1,  0, 17, 18, 19], dtype=int32)
    """
    distance = np.arange(1 - longest, longest)
    side = count // 2
    single = side // 2
    far = np.abs(distance)
    scale = np.float32(np.log(_FARTHEST / single))
    grown = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(single)) / scale
    grown = np.minimum(single + (grown * (side - single)).astype(np.int32), side - 1)
    return (np.where(far < single, far, grown) + side * (distance > 0)).astype(np.int32)


def square(bias_OxH: jax.Array, length: int) -> jax.Array:
    """Returns ``[H, L, L]`` with the bias of ``k - q`` at (h, q, k).

    If there are more distances than L needs, those in the middle are used.

    >>> square(jnp.arange(3.0)[:, None], 2)[0]
    Array([[1., 2.],
           [0., 1.]], dtype=float32)
    """
    longest = (len(bias_OxH) + 1) // 2
    middle_HxO = bias_OxH[longest - length : longest + length - 1].T
    heads, distances = middle_HxO.shape
    rows = jnp.broadcast_to(middle_HxO[:, None], (heads, length, distances))
    flat = jnp.pad(rows.reshape(heads, -1), ((0, 0), (0, length)))
    return flat.reshape(heads, length, 2 * length)[:, ::-1, :length]


def by_distance(square_HxLxL: jax.Array, longest: int) -> jax.Array:
    """Returns the transpose of `square`: sums over equal distances, ``[2 longest - 1, H]``."""
    heads, length, _ = square_HxLxL.shape
    wide = jnp.pad(square_HxLxL[:, ::-1], ((0, 0), (0, 0), (0, length)))
    shifted = wide.reshape(heads, -1)[:, : length * (2 * length - 1)]
    sums_OxH = shifted.reshape(heads, length, 2 * length - 1).sum(1).T
    return jnp.pad(sums_OxH, ((longest - length, longest - length), (0, 0)))
