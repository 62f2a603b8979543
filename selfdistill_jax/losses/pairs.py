"""Computes the mean error over all pairs of a global batch without holding all pairs in memory.

Every margin loss that compares each row with every other has one form, with different c, a and b:

    mean_ij ρ(c_i − a_i·b_j)        i over one, j over another set of rows of the global batch

It can be computed in two ways, which agree to rounding:

*gather* copies all b to every device and works through blocks of rows; the backward pass computes
each block's products again. It supports any ρ, in time O(C² E) and the memory of one block.

*moments* is the closed form of ρ = l2. With μ the mean of b and Σ its covariance,

    mean_j (c_i − a_i·b_j)² = (c_i − a_i·μ)² + a_iᵀ Σ a_i

This takes time O(C E²) and forms no pairs. Devices exchange E + E² numbers at any batch size. The
covariance is used because the second moment would lose digits in float32 (docs/losses.md).

Shape legend: R rows of a and S rows of b on this device, C of b in the global batch, E dimensions.
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
# Products in one block of pairs: 16 MiB of float32, which caches still help with.
BLOCK = 2**22
# auto uses moments from a global batch of this many times the dimensions on. Measured for d of 128
# to 1024: both methods take equally long at a batch of 1.5 d to 2.7 d (docs/losses.md).
CROSSOVER = 2


def check_method(method: str, error: str) -> None:
    """Raises ValueError for an unknown error or method, and for moments of any error but l2."""
    check_choice("error", error, ERRORS)
    check_choice("method", method, METHODS)
    if method == "moments" and error != "l2":
        raise ValueError(
            "method is 'moments', the closed form of error 'l2', but error is "
            f"{error!r}; take method 'auto' or 'gather'"
        )


def mean_over_pairs(
    c_R: jax.Array,
    a_RxE: jax.Array,
    b_SxE: jax.Array,
    where_R: jax.Array,
    where_S: jax.Array,
    *,
    error: str,
    method: str,
    axis_name: str | tuple[str, ...] | None,
) -> jax.Array:
    """Returns ``mean_ij ρ(c_i − a_i·b_j)`` over the real rows of the global batch; 0 without any.

    Args:
      c_R: ``[R]``.
      a_RxE: ``[R, E]``.
      b_SxE: ``[S, E]``.
      where_R, where_S: bool, the real rows of a and of b.
      error: ρ, a key of `ERRORS`.
      method: one of `METHODS`; auto chooses moments where they are possible and cheaper.
      axis_name: mapped axis, or axes, over which the batch is spread.

    Returns:
      Scalar.
    """
    devices = 1 if axis_name is None else lax.axis_size(axis_name)
    # The cost of gather is C² products of pairs; that of moments is 2 C products with a matrix.
    rows = 2 * devices * len(a_RxE) * len(b_SxE) / (len(a_RxE) + len(b_SxE))
    cheaper = error == "l2" and rows >= CROSSOVER * a_RxE.shape[1]
    if method == "moments" or (method == "auto" and cheaper):
        means_R = _by_moments(c_R, a_RxE, b_SxE, where_S, axis_name)
        where_R &= psum(jnp.sum(where_S), axis_name) > 0  # without real b the mean is c², not 0
    else:
        means_R = _by_blocks(c_R, a_RxE, b_SxE, where_S, ERRORS[error], axis_name)
    return global_mean(means_R, where_R, axis_name)


def by_blocks(function: Callable[..., jax.Array], rows, width: int) -> jax.Array:
    """Applies ``function(*blocks) -> [R]`` to blocks of rows and concatenates the results.

    Args:
      function: takes one block of each array in ``rows``; the backward pass calls it again, instead
        of saving its intermediate values.
      rows: arrays ``[B, ...]``; the last block is padded with zeros.
      width: numbers that the function holds per row, which determines the rows of a block.

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

    # checkpoint: the blocks' products, if saved for the backward pass, would be all pairs again.
    one = jax.checkpoint(lambda block: function(*block), prevent_cse=False)
    return lax.map(one, tuple(map(split, rows))).reshape(-1)[:count]


def _by_blocks(c_R, a_RxE, b_SxE, where_S, rho, axis_name) -> jax.Array:
    b_CxE, where_C = gather(b_SxE, axis_name), gather(where_S, axis_name)
    count = jnp.maximum(jnp.sum(where_C, dtype=c_R.dtype), 1)

    def means(c_R: jax.Array, a_RxE: jax.Array) -> jax.Array:
        errors_RxC = rho(c_R[:, None] - dots(a_RxE, b_CxE))
        return jnp.sum(errors_RxC, axis=1, where=where_C[None, :]) / count

    return by_blocks(means, (c_R, a_RxE), len(where_C))


def _by_moments(c_R, a_RxE, b_SxE, where_S, axis_name) -> jax.Array:
    weight_Sx1 = where_S.astype(c_R.dtype)[:, None]
    count = jnp.maximum(psum(jnp.sum(weight_Sx1), axis_name), 1)
    mean_E = psum(jnp.sum(b_SxE * weight_Sx1, axis=0), axis_name) / count
    centred_SxE = (b_SxE - mean_E[None, :]) * weight_Sx1
    covariance_ExE = psum(matmul_exact(centred_SxE.T, centred_SxE), axis_name) / count
    distance_R = c_R - matmul_exact(a_RxE, mean_E)
    return jnp.square(distance_R) + dot(matmul_exact(a_RxE, covariance_ExE), a_RxE)
