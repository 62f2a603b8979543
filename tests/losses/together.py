"""Computes all cases in one program; 34 programs take three times as long to compile."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from selfdistill_jax import losses
from tests.losses.reference import bound, from_teacher


def float32(tree):
    return jax.tree.map(jnp.float32, tree)


def every_teacher(size: int, *, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Returns the teacher arguments that each loss takes, by the loss's name."""
    return {name: from_teacher(name, size, seed=seed) for name in losses.LOSSES}


def values(cases, **options) -> Callable:
    """Returns ``f(x, where, teachers) -> [value of each case]``, to be compiled.

    Args:
      cases: pairs of a loss's name and its options.
      options: options that all losses take.
    """

    def every(x, where, teachers):
        return [
            bound(name, own)(*x, where=where, **teachers[name], **options) for name, own in cases
        ]

    return every


def values_and_gradients(cases, *, spread=lambda loss: loss, **options) -> Callable:
    """Returns ``f(x, where, teachers) -> [(value, gradient in x) of each case]``, to be compiled.

    Args:
      cases, options: as in `values`.
      spread: maps ``loss(x, where, teacher)`` over a batch on several devices.
    """

    def every(x, where, teachers):
        found = []
        for name, own in cases:

            def loss(x, where, teacher, name=name, own=own):
                return bound(name, own)(*x, where=where, **teacher, **options)

            found.append(jax.value_and_grad(spread(loss))(x, where, teachers[name]))
        return found

    return every
