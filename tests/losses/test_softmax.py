"""Tests what softmax's variants reduce to, and which similarities of documents they use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfdistill_jax import losses
from selfdistill_jax.errors import InputError
from selfdistill_jax.train.loss import make_loss
from tests.losses.reference import expected, triplets
from tests.losses.together import float32

USING_DOCUMENTS = [
    {"document_margin": 0.3},
    {"smoothing": 0.2, "document_temperature": 0.3},
    {"privileged": 0.5, "document_temperature": 0.3},
    {"mask_above": 0.2},
]


@pytest.mark.parametrize("options", USING_DOCUMENTS)
def test_documents_of_another_encoder_are_constants(options):
    arrays, (p, n, _) = triplets(6), triplets(6, seed=3, dim=7)
    other = p, n

    def loss(x, other):
        return losses.softmax(*x, target_from=other, **options)

    x = float32(arrays)
    got = loss(x, float32(other))
    np.testing.assert_allclose(
        got, expected("softmax", arrays, options, target_from=other), rtol=1e-5
    )
    gradient = jax.grad(loss, argnums=1)(x, float32(other))
    assert not any(np.any(g) for g in gradient)


@pytest.mark.parametrize("options", USING_DOCUMENTS)
def test_detached_documents_are_those_of_a_frozen_copy(options):
    x = float32(triplets(5))
    detached = jax.grad(lambda x: losses.softmax(*x, stop_gradient=True, **options))(x)
    frozen = jax.grad(lambda x: losses.softmax(*x, target_from=float32(triplets(5)[1:]), **options))
    for a, b in zip(detached, frozen(x), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    if "mask_above" not in options:  # a mask has no gradient anyway
        moved = jax.grad(lambda x: losses.softmax(*x, **options))(x)
        assert max(np.abs(a - b).max() for a, b in zip(detached, moved, strict=True)) > 1e-3


def test_options_at_their_limits_are_the_plain_loss():
    x = float32(triplets(6))
    plain = losses.softmax(*x)
    for options in (
        {"mask_above": 1 - 1e-6},
        {"guide": 2 - 1e-6},
        {"document_margin": 1e-9},
        {"smoothing": 1e-9},
        {"hardness": 1e-6},
    ):
        np.testing.assert_allclose(losses.softmax(*x, **options), plain, rtol=1e-5)


def test_a_margin_is_a_lower_logit_of_the_positive():
    x = float32(triplets(6))
    values = [float(losses.softmax(*x, margin=m)) for m in (-0.1, 0.0, 0.1, 0.2)]
    assert values == sorted(values)
    # For large margins the loss is linear: m more margin adds m / t.
    a, b = (float(losses.softmax(*x, margin=m)) for m in (5.0, 6.0))
    assert b - a == pytest.approx(1 / 0.05, rel=1e-5)


def test_a_row_whose_other_documents_are_all_masked_has_no_loss():
    q, p, n = float32(triplets(4))
    p, n = jnp.broadcast_to(p[:1], p.shape), jnp.broadcast_to(p[:1], p.shape)
    for options in ({"mask_above": 0.5}, {"mask_above": 0.5, "smoothing": 0.3, "privileged": 1.0}):
        value, gradient = jax.value_and_grad(
            lambda x, options=options: losses.softmax(*x, **options)
        )((q, p, n))
        assert value == 0
        assert all(np.isfinite(g).all() and not g.any() for g in gradient)


@pytest.mark.parametrize("target", ["start", "ema", "detached"])
def test_a_target_without_an_option_that_uses_it_is_refused(target):
    with pytest.raises(InputError, match="no option that compares documents is set"):
        make_loss("softmax", {"margin": 0.1}, target=target)
    make_loss("softmax", {"document_margin": 0.1}, target=target)
