"""Tests GELU against scipy's definition in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from selfdistill_jax.encoder.cpu.norm_gelu import _CDF, _SLOPE, _half_and_odd, gelu

X = np.concatenate([np.linspace(-12, 12, 40_001), [-1e4, -1e-30, 0, 1e-30, 1e4]])


def slope(x):
    return norm.cdf(x) + x * norm.pdf(x)


def computed(dtype):
    """Returns the rounded x, and its values and slopes as computed in the given type."""
    x = jnp.asarray(X, dtype)
    values, pull = jax.vjp(gelu, x)
    (slopes,) = pull(jnp.ones_like(x))
    assert values.dtype == slopes.dtype == dtype
    return tuple(np.asarray(a.astype(jnp.float32), np.float64) for a in (x, values, slopes))


def test_float32_is_exact_to_rounding():
    x, values, slopes = computed(jnp.float32)
    np.testing.assert_allclose(values, x * norm.cdf(x), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(slopes, slope(x), atol=1e-6)


def test_the_polynomial_of_bfloat16_is_within_its_rounding():
    x, values, slopes = computed(jnp.bfloat16)
    half_a_unit = 2.0**-8
    error = np.abs(values - x * norm.cdf(x))
    assert (error <= half_a_unit * np.abs(x * norm.cdf(x)) + 4e-5 * np.abs(x)).all()
    error = np.abs(slopes - slope(x))
    assert (error <= half_a_unit * np.abs(slope(x)) + 5.5e-4).all()


def test_the_polynomials_are_as_near_as_they_say():
    x = jnp.asarray(X, jnp.float32)
    assert np.abs(_half_and_odd(x, _CDF) - norm.cdf(X)).max() < 4e-5
    assert np.abs(_half_and_odd(x, _SLOPE) - slope(X)).max() < 5.5e-4


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_far_from_zero(dtype):
    values = gelu(jnp.array([jnp.nan, jnp.inf, 0, -100], dtype)).astype(jnp.float32)
    assert np.isnan(values[0])
    assert values[1] == np.inf
    assert values[2] == 0
    assert abs(values[3]) < 1e-3, "nothing is left of what is far below zero"
