"""The matrix product of the encoder: low-precision operands, float32 accumulation, both ways.

Written out because autodiff does not keep it: the product must be *asked for* in float32 to run on
matrix units at full rate (on an AMX CPU 2,300 GFLOP/s instead of 334), and then its transpose
multiplies a float32 cotangent with bfloat16 operands, which falls back to the slow path. So the
cotangent is cast to the operand's type first.
"""

import jax
import jax.numpy as jnp
from jax import lax


def _contract(a: jax.Array, b: jax.Array, dims: tuple[int, int]) -> jax.Array:
    return lax.dot_general(
        a, b, (((dims[0],), (dims[1],)), ((), ())), preferred_element_type=jnp.float32
    )


@jax.custom_vjp
def matmul(x_NxD: jax.Array, kernel_DxF: jax.Array) -> jax.Array:
    """``x @ kernel`` of two arrays of one dtype: accumulated in float32, returned in that dtype."""
    return _contract(x_NxD, kernel_DxF, (1, 0)).astype(x_NxD.dtype)


def _forward(x, kernel):
    return matmul(x, kernel), (x, kernel)


def _backward(residuals, g):
    x, kernel = residuals
    g = g.astype(x.dtype)
    return _contract(g, kernel, (1, 1)).astype(x.dtype), _contract(x, g, (0, 0)).astype(
        kernel.dtype
    )


matmul.defvjp(_forward, _backward)


def dense(x: jax.Array, kernel: jax.Array, bias: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Affine map of the last axis.

    Args:
      x: ``[..., d]``.
      kernel: ``[d, f]`` float32 master weights.
      bias: ``[f]`` float32.
      dtype: of the product's operands and of the result.

    Returns:
      ``[..., f]`` array of ``dtype``.
    """
    flat = x.reshape(-1, x.shape[-1]).astype(dtype)
    y = matmul(flat, kernel.astype(dtype)) + bias.astype(dtype)[None, :]
    return y.reshape(*x.shape[:-1], kernel.shape[-1])
