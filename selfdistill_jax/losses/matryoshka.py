"""Applies a loss at several vector lengths, so that a vector's first numbers are usable alone."""

from collections.abc import Callable, Sequence
from typing import Any

import jax


def matryoshka(
    loss: Callable[..., jax.Array],
    q: jax.Array,
    p: jax.Array,
    n: jax.Array,
    *,
    dimensions: Sequence[int],
    weights: Sequence[float] | None = None,
    **options: Any,
) -> jax.Array:
    """Returns a loss summed over several vector lengths (Matryoshka representation learning).

    Definition:
      ``Σ_k weights_k · loss(q[:, :d_k], p[:, :d_k], n[:, :d_k])``. Source: arXiv 2205.13147. The
      loss has to scale the truncated vectors to unit length again: all losses here do so by
      default, and a custom loss can use `unit`.

    Args:
      loss: a loss of this package, or any function of three arrays and ``options``.
      q: ``[B, D]`` query vectors of any float dtype.
      p: ``[B, D]`` vectors of their positives.
      n: ``[B, D]`` vectors of their negatives, or any array that the loss takes, D last.
      dimensions: d, each 1 to D. Only these are trained: include D for the whole vectors.
      weights: one per dimension; None: 1 each.
      **options: options of the loss, including ``where`` and ``axis_name``. The vectors of
        ``target_from`` are truncated as well.

    Returns:
      Scalar of the loss's dtype.

    Raises:
      ValueError: there is no dimension, one is out of range, or the number of weights differs.

    Example:
      >>> import jax.numpy as jnp
      >>> from selfdistill_jax import losses
      >>> q = p = jnp.array([[3.0, 4.0]])
      >>> n = jnp.array([[-3.0, 4.0]])
      >>> of = lambda *d: matryoshka(losses.triplet, q, p, n, dimensions=d, margin=2.5)
      >>> [round(float(x), 2) for x in (of(2), of(1), of(2, 1))]
      [1.78, 0.5, 2.28]
    """
    weights = [1] * len(dimensions) if weights is None else weights
    if not len(dimensions) or len(weights) != len(dimensions):
        raise ValueError(
            "expected one or more dimensions and as many weights; "
            f"got {len(dimensions)} dimensions and {len(weights)} weights"
        )
    for size in dimensions:
        if not 1 <= size <= q.shape[-1]:
            raise ValueError(f"dimensions has {size}; the vectors allow 1 to {q.shape[-1]}")
    target_from = options.pop("target_from", None)
    total: Any = 0.0
    for size, weight in zip(dimensions, weights, strict=True):
        if target_from is not None:
            options["target_from"] = tuple(x[..., :size] for x in target_from)
        total += weight * loss(*(x[..., :size] for x in (q, p, n)), **options)
    return total
