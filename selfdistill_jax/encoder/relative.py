"""Attention biases by relative position: one number a head for each distance, nothing gathered.

Within a text ``k - q`` is the distance of two tokens wherever the text lies in its row, so that one
square serves all rows. Squares are made of distances, and summed up to them, by padding and
reshaping: row q of a ``[L, 2 L - 1]`` array comes to begin one place further left.

Shape legend: B buckets, H heads, L tokens of a row, O = 2 L - 1 distances from 1 - L to L - 1.
"""

import jax
import jax.numpy as jnp
import numpy as np

_FARTHEST = 128  # distances from there on share a bucket


def buckets(longest: int, count: int) -> np.ndarray:
    """``[2 longest - 1]`` int32: the bucket of each distance, keys before the query first.

    Half of the buckets are for either side; half of these are for single distances, the rest grow
    with the logarithm. Source: T5, arXiv 1910.10683, section 2.1, as MPNet takes it over.

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
    """``[H, L, L]``, at (h, q, k) the bias of ``k - q``; of more distances the middle is taken.

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
    """The transpose of `square`: sums over equal distances, ``[2 longest - 1, H]``."""
    heads, length, _ = square_HxLxL.shape
    wide = jnp.pad(square_HxLxL[:, ::-1], ((0, 0), (0, 0), (0, length)))
    shifted = wide.reshape(heads, -1)[:, : length * (2 * length - 1)]
    sums_OxH = shifted.reshape(heads, length, 2 * length - 1).sum(1).T
    return jnp.pad(sums_OxH, ((longest - length, longest - length), (0, 0)))
