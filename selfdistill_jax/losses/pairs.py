"""The mean error over all pairs of a global batch, without ever holding all pairs.

Every margin loss that compares each row with each other is one form, with different c, a and b:

    mean_ij ρ(c_i − a_i·b_j)        i, j over the real rows of the global batch

and has two ways to be computed, which agree to rounding:

*gather* brings all b to every device and works through blocks of rows, each block's products made
anew in the backward pass: any ρ, time O(C² E), memory of one block.

*moments* is the closed form of ρ = l2. With μ the mean of b and Σ its covariance,

    mean_j (c_i − a_i·b_j)² = (c_i − a_i·μ)² + a_iᵀ Σ a_i

time O(C E²), no pairs at all; E + E² numbers cross the devices, whatever the batch. Written with
the covariance, not with the second moment: far less cancels in float32 (docs/losses.md).

Shape legend: B rows on this device, C of the global batch, E dimensions of a and b.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from selfdistill_jax.losses.common import (
    ERRORS,
    check_choice,
    dot,
    dots,
    gather,
    global_mean,
    matmul_exact,
    psum,
)

METHODS = ("auto", "gather", "moments")
# Products that a block of pairs holds at once: 16 MiB of float32, which caches still help with.
BLOCK = 2**22
# auto takes the moments from a global batch of so many times the dimensions on. Measured for d of
# 128 to 1024: both take as long at a batch of 1.5 d to 2.7 d (docs/losses.md).
CROSSOVER = 2


def check_method(method: str, error: str) -> None:
    """Raises ValueError for an unknown error or method, and for moments of another than l2."""
    check_choice("error", error, ERRORS)
    check_choice("method", method, METHODS)
    if method == "moments" and error != "l2":
        raise ValueError(f"method 'moments' is the closed form of error 'l2'; error is {error!r}")


def mean_over_pairs(
    c_B: jax.Array,
    a_BxE: jax.Array,
    b_BxE: jax.Array,
    where_B: jax.Array,
    *,
    error: str,
    method: str,
    axis_name: str | None,
) -> jax.Array:
    """``mean_ij ρ(c_i − a_i·b_j)`` over the real rows of the global batch; 0 without any.

    Args:
      c_B: ``[B]``.
      a_BxE: ``[B, E]``.
      b_BxE: ``[B, E]``, rows of the same triplets.
      where_B: ``[B]`` bool, the real rows.
      error: ρ, a key of `ERRORS`.
      method: one of `METHODS`; auto is moments where that is possible and cheaper.
      axis_name: mapped axis over which the batch is spread.

    Returns:
      Scalar.
    """
    rows = len(c_B) * (1 if axis_name is None else lax.axis_size(axis_name))
    cheaper = error == "l2" and rows >= CROSSOVER * a_BxE.shape[1]
    if method == "moments" or (method == "auto" and cheaper):
        means_B = _by_moments(c_B, a_BxE, b_BxE, where_B, axis_name)
    else:
        means_B = _by_blocks(c_B, a_BxE, b_BxE, where_B, ERRORS[error], axis_name)
    return global_mean(means_B, where_B, axis_name)


def by_blocks(function: Callable[..., jax.Array], rows, width: int) -> jax.Array:
    """Applies ``function(*blocks) -> [R]`` to blocks of rows, and joins what it gives.

    Args:
      function: of a block of each array of ``rows``; keeps nothing for the backward pass, which
        calls it again.
      rows: arrays ``[B, ...]``; the last block is filled up with zeros.
      width: numbers that the function holds a row, which sets the rows of a block.

    Returns:
      ``[B]``.
    """
    count = len(rows[0])
    blocks = -(-count * width // BLOCK)
    if blocks <= 1:
        return function(*rows)
    size = -(-count // blocks)
    blocks = -(-count // size)

    def split(x: jax.Array) -> jax.Array:
        filled = jnp.pad(x, [(0, blocks * size - count)] + [(0, 0)] * (x.ndim - 1))
        return filled.reshape(blocks, size, *x.shape[1:])

    # checkpoint: kept for the backward pass, the blocks' products would be all pairs again.
    one = jax.checkpoint(lambda block: function(*block), prevent_cse=False)
    return lax.map(one, tuple(map(split, rows))).reshape(-1)[:count]


def _by_blocks(c_B, a_BxE, b_BxE, where_B, rho, axis_name) -> jax.Array:
    b_CxE, where_C = gather(b_BxE, axis_name), gather(where_B, axis_name)
    count = jnp.maximum(jnp.sum(where_C, dtype=c_B.dtype), 1)

    def means(c_R: jax.Array, a_RxE: jax.Array) -> jax.Array:
        errors_RxC = rho(c_R[:, None] - dots(a_RxE, b_CxE))
        return jnp.sum(errors_RxC, axis=1, where=where_C[None, :]) / count

    return by_blocks(means, (c_B, a_BxE), len(where_C))


def _by_moments(c_B, a_BxE, b_BxE, where_B, axis_name) -> jax.Array:
    weight_Bx1 = where_B.astype(c_B.dtype)[:, None]
    count = jnp.maximum(psum(jnp.sum(weight_Bx1), axis_name), 1)
    mean_E = psum(jnp.sum(b_BxE * weight_Bx1, axis=0), axis_name) / count
    centred_BxE = (b_BxE - mean_E[None, :]) * weight_Bx1
    covariance_ExE = psum(matmul_exact(centred_BxE.T, centred_BxE), axis_name) / count
    distance_B = c_B - matmul_exact(a_BxE, mean_E)
    return jnp.square(distance_B) + dot(matmul_exact(a_BxE, covariance_ExE), a_BxE)
