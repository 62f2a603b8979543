"""Stores bfloat16 arrays as 16-bit integers, for loops that write into them.

XLA cannot update bfloat16 in place on a CPU: it converts the whole array to float32 and back.
"""

import jax
import jax.numpy as jnp
from jax import lax


def to_bits(x: jax.Array) -> jax.Array:
    """Returns the bits of a bfloat16 array as uint16; any other array unchanged."""
    return lax.bitcast_convert_type(x, jnp.uint16) if x.dtype == jnp.bfloat16 else x


def from_bits(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns the inverse of `to_bits` for an array that had type ``dtype``."""
    return lax.bitcast_convert_type(x, dtype) if dtype == jnp.bfloat16 else x
