"""bfloat16 arrays as 16-bit integers, for loops that write into them.

XLA has no bfloat16 update in place on a CPU: it converts the whole array to float32 and back.
"""

import jax
import jax.numpy as jnp
from jax import lax


def to_bits(x: jax.Array) -> jax.Array:
    """The bits of a bfloat16 array as uint16; any other array as it is."""
    return lax.bitcast_convert_type(x, jnp.uint16) if x.dtype == jnp.bfloat16 else x


def from_bits(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The inverse, for an array that was of ``dtype``."""
    return lax.bitcast_convert_type(x, dtype) if dtype == jnp.bfloat16 else x
