"""Computes dropout that depends on the text, not on the device that holds it.

Whether a value is dropped is a hash of the text's own number at this step, the token's position in
the text, the layer, the place in the layer, and the feature (in attention: the key's position). So
the same values of a global batch are dropped on 1 device and on 8, packed or alone in a row, in one
part or in several. A random key split over devices would not give this. Nothing is stored for the
backward pass, which computes the hash again.

Shape legend: M texts, T tokens of a block.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

_GOLDEN = 0x9E3779B9  # 2**32 over the golden ratio: its multiples are spread evenly


class Dropout(NamedTuple):
    """Holds the share of values to drop in each place.

    Attributes:
      embeddings: share of the embeddings.
      attention: share of the attention weights.
      attended: share of the attention's output.
      inner: share of the feed-forward's inner values.
      outer: share of the feed-forward's output.
    """

    embeddings: float = 0.0
    attention: float = 0.0
    attended: float = 0.0
    inner: float = 0.0
    outer: float = 0.0


NO_DROPOUT = Dropout()


def mix(x: jax.Array) -> jax.Array:
    """Returns a 32-bit hash of uint32 values: each bit of x flips half of the result's bits.

    Source: "lowbias32" of Christopher Wellons' search for integer hashes (public domain).
    """
    x = x ^ (x >> 16)
    x = x * jnp.uint32(0x7FEB352D)
    x = x ^ (x >> 15)
    x = x * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def of_tokens(seeds_M: jax.Array, texts_T: jax.Array, positions_T: jax.Array) -> jax.Array:
    """Returns ``[T]`` uint32 seeds of tokens from those of texts; padding gets arbitrary ones."""
    own = jnp.asarray(seeds_M)[jnp.minimum(texts_T, len(seeds_M) - 1)]
    return mix(own + _spread(positions_T))


def at(seeds_T: jax.Array, place: str, layer: jax.Array | int = 0) -> jax.Array:
    """Returns the seeds for one place (a field of `Dropout`) in one layer."""
    number = 1 + Dropout._fields.index(place)
    return mix(seeds_T ^ mix(_spread(jnp.asarray(layer)) + jnp.uint32(number)))


def drop(x_TxD: jax.Array, seeds_T: jax.Array | None, rate: float) -> jax.Array:
    """Sets a share of the values to 0 and scales the others to keep the mean.

    Args:
      x_TxD: values of any float dtype.
      seeds_T: seeds from `at`; None drops nothing.
      rate: share of values to drop, in [0, 1).
    """
    if seeds_T is None or not rate:
        return x_TxD
    kept = keeps(seeds_T[:, None] + _spread(jnp.arange(x_TxD.shape[-1]))[None], rate)
    return jnp.where(kept, x_TxD * (1 / (1 - rate)), 0).astype(x_TxD.dtype)


def drop_weights(
    weights_SxLxL: jax.Array,
    seeds_T: jax.Array | None,
    positions_T: jax.Array,
    rate: float,
    *,
    keys_first: bool = False,
) -> jax.Array:
    """Applies `drop` to attention weights (queries by keys, or keys by queries)."""
    if seeds_T is None or not rate:
        return weights_SxLxL
    length = weights_SxLxL.shape[-1]
    of_query, of_key = seeds_T.reshape(-1, length), _spread(positions_T).reshape(-1, length)
    if keys_first:
        bits_RxLxL = of_query[:, None, :] + of_key[:, :, None]
    else:
        bits_RxLxL = of_query[:, :, None] + of_key[:, None, :]
    rows = len(of_query)
    per_row = weights_SxLxL.reshape(rows, -1, length, length)
    of_head = mix(_spread(jnp.arange(per_row.shape[1])))[None, :, None, None]
    kept = keeps(bits_RxLxL[:, None] ^ of_head, rate)
    return jnp.where(kept, per_row * (1 / (1 - rate)), 0).reshape(weights_SxLxL.shape)


def keeps(bits: jax.Array, rate: float) -> jax.Array:
    """Returns a mask that is true for a share of ``1 - rate`` of distinct uint32 inputs."""
    return mix(bits) >= jnp.uint32(round(rate * 2**32))


def _spread(numbers: jax.Array) -> jax.Array:
    return numbers.astype(jnp.uint32) * jnp.uint32(_GOLDEN)
