"""Tests biases by relative position against the formula in loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfdistill_jax.encoder.positions import buckets, by_distance, square


@pytest.mark.parametrize(("longest", "length"), [(1, 1), (5, 5), (9, 4), (9, 1)])
def test_a_square_has_the_bias_of_each_distance(longest, length):
    bias = np.random.default_rng(0).standard_normal((2 * longest - 1, 3)).astype(np.float32)
    got = square(jnp.asarray(bias), length)
    for q in range(length):
        for k in range(length):
            np.testing.assert_array_equal(got[:, q, k], bias[k - q + longest - 1])


@pytest.mark.parametrize(("longest", "length"), [(1, 1), (5, 5), (9, 4)])
def test_sums_by_distance_are_the_transpose(longest, length):
    bias = jnp.zeros((2 * longest - 1, 3))
    g = jnp.asarray(np.random.default_rng(0).standard_normal((3, length, length)), jnp.float32)
    _, pull = jax.vjp(lambda bias: square(bias, length), bias)
    np.testing.assert_allclose(by_distance(g, longest), pull(g)[0], atol=1e-6)


def test_buckets_are_those_of_transformers():
    torch = pytest.importorskip("torch", reason="torch is a peer: make peers")
    mpnet = pytest.importorskip("transformers.models.mpnet.modeling_mpnet")
    for count in (8, 32):
        distances = torch.arange(-600, 601)
        theirs = mpnet.MPNetEncoder.relative_position_bucket(distances, num_buckets=count)
        np.testing.assert_array_equal(buckets(601, count), theirs)
