"""Tests activations against their definitions in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from selfdistill_jax.encoder.activations import gelu

X = np.linspace(-12, 12, 20_001).astype(jnp.bfloat16).astype(np.float32)


@pytest.mark.parametrize(
    ("dtype", "value", "slope"), [(jnp.float32, 1e-6, 2e-6), (jnp.bfloat16, 3e-5, 1.2e-4)]
)
def test_gelu_and_its_slope_are_as_exact_as_the_type(dtype, value, slope):
    """The values are compared before they are rounded to bfloat16: 2 ** -8 of the larger ones."""
    wide = X.astype(np.float64)
    exact, exact_slope = wide * norm.cdf(wide), norm.cdf(wide) + wide * norm.pdf(wide)
    found, pull = jax.vjp(gelu, jnp.asarray(X, dtype))
    (found_slope,) = pull(jnp.ones_like(found))
    rounding = 0.0 if dtype == jnp.float32 else 2.0**-8
    for ours, theirs, limit in ((found, exact, value), (found_slope, exact_slope, slope)):
        error = np.abs(np.asarray(ours, np.float64) - theirs)
        assert (error <= limit + 1.01 * rounding * np.abs(theirs)).all()


def test_gelu_of_extreme_values():
    given = jnp.array([-100.0, 0.0, 100.0, jnp.inf, jnp.nan], jnp.bfloat16)
    np.testing.assert_array_equal(np.asarray(gelu(given), np.float32), [0, 0, 100, np.inf, np.nan])
    (slope,) = jax.vjp(gelu, given[:3])[1](jnp.ones(3, jnp.bfloat16))
    np.testing.assert_array_equal(np.asarray(slope, np.float32), [0, 0.5, 1])
