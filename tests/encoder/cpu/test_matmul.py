"""Tests products with a kernel and with its transpose."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfdistill_jax.encoder.cpu.layers import transpose_kernels
from selfdistill_jax.encoder.cpu.matmul import affine, product, transposed

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_transpose_of_a_kernel_gives_what_the_kernel_gives(dtype, with_bias):
    x = jnp.asarray(RNG.standard_normal((64, 96)), dtype)
    kernel = jnp.asarray(RNG.standard_normal((96, 32)), jnp.float32)
    bias = jnp.asarray(RNG.standard_normal(32), jnp.float32) if with_bias else None
    g = jnp.asarray(RNG.standard_normal((64, 32)), dtype)
    plain, pull = jax.vjp(affine, x, kernel, bias)
    turned, pull_turned = jax.vjp(partial(affine, turned=True), x, kernel.T, bias)
    of_x, of_kernel, of_bias = pull(g)
    also_x, of_turned, also_bias = pull_turned(g)
    # The order of the sums differs, and bfloat16 rounds the results to 8 bits.
    close = {"rtol": 2**-7 if dtype == jnp.bfloat16 else 1e-5, "atol": 1e-4}
    for one, other in ((plain, turned), (of_x, also_x), (of_kernel.T, of_turned)):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one.astype(np.float32), other.astype(np.float32), **close)
    if with_bias:
        np.testing.assert_allclose(of_bias, also_bias, **close)


def test_kernels_of_more_inputs_than_outputs_are_turned():
    params = {
        "outer": {"kernel": jnp.ones((6, 8, 2)), "bias": jnp.ones((6, 2))},
        "inner": {"kernel": jnp.ones((6, 2, 8))},
        "attention": {"output": {"kernel": jnp.ones((6, 2, 2))}},
        "norm": {"scale": jnp.ones((6, 2))},
    }
    shapes = jax.tree.map(
        jnp.shape, transpose_kernels(params), is_leaf=lambda x: hasattr(x, "shape")
    )
    assert shapes == {
        "outer": {"turned_kernel": (6, 2, 8), "bias": (6, 2)},
        "inner": {"kernel": (6, 2, 8)},
        "attention": {"output": {"kernel": (6, 2, 2)}},
        "norm": {"scale": (6, 2)},
    }


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_float32_is_float32_on_accelerators_too(platform):
    """By default GPUs multiply only 11 bits of a float32 number, and TPUs 8."""

    def text(dtype):
        x = jnp.ones((8, 8), dtype)
        return jax.jit(product).trace(x, x).lower(lowering_platforms=(platform,)).as_text()

    assert "precision = [HIGHEST, HIGHEST]" in text(jnp.float32)
    assert "HIGHEST" not in text(jnp.bfloat16)
    with jax.default_matmul_precision("tensorfloat32"):
        assert "HIGHEST" not in text(jnp.float32)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_an_accelerators_product_takes_a_transpose_as_such(platform):
    def of_transpose(x):
        return product(transposed(x), x)

    lowered = jax.jit(of_transpose).trace(jnp.ones((64, 96), jnp.bfloat16))
    text = lowered.lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.transpose" in text
    assert "stablehlo.reshape" not in text
