"""Activation functions of the feed-forward part, by their names in ``config.json``."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

# Coefficients of x, x³ and x⁵: least maximum of |x Φ(x) − gelu(x)|.
_TANH = 7.97505412e-01, 3.70079549e-02, -3.51895306e-04


def gelu(x: jax.Array) -> jax.Array:
    """Returns ``x Φ(x)`` with Φ of the normal distribution, computed in float32.

    torch computes it by ``erf`` too. `jax.nn.gelu` uses ``erfc``, which is more exact for values
    near zero that hardly matter here, and takes a TPU about twice as many instructions.

    For bfloat16, Φ is ``(1 + tanh(p(x))) / 2`` with a polynomial p. The result is less than 3e-5
    off, while bfloat16 rounds values near one by up to 4e-3. A TPU has an instruction for ``tanh``;
    with ``erf``, a step of BERT-base on v5e takes 95 ms by the compiler's schedule instead of 88.

    >>> gelu(jnp.array([-1.0, 0.0, 1.0]))
    Array([-0.15865526,  0.        ,  0.8413447 ], dtype=float32)
    """
    wide = x.astype(jnp.float32)
    if x.dtype == jnp.bfloat16:
        square = jnp.minimum(wide * wide, 36.0)  # beyond |x| = 6, Φ is 0 or 1
        odd = wide * (_TANH[0] + square * (_TANH[1] + square * _TANH[2]))
        doubled = 1 + jnp.tanh(odd)
    else:
        doubled = 1 + lax.erf(wide * 2**-0.5)
    return (0.5 * wide * doubled).astype(x.dtype)


ACTIVATIONS = {
    "gelu": gelu,
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}
