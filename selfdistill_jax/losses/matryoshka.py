"""A loss at several lengths of the vectors at once, so that their first numbers are vectors too."""

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
    """Matryoshka representation learning: a loss of the leading dimensions, for each of some sizes.

    Definition:
      ``Σ_k weights_k · loss(q[:, :d_k], p[:, :d_k], n[:, :d_k])``. Source: arXiv 2205.13147. What
      is cut off is scaled to unit length again by the loss, as all losses here do by default; one
      of your own has to, for instance by `unit`.

    Args:
      loss: one of this package, or any function of three arrays and these options.
      q: ``[B, D]`` query vectors of any float dtype.
      p: ``[B, D]`` vectors of their positives.
      n: ``[B, D]`` vectors of their negatives, or what else the loss takes, D last.
      dimensions: d, each 1 to D. Only what is named is trained: give D for the whole vectors.
      weights: one a dimension; None: 1 each.
      **options: of the loss, among them ``where`` and ``axis_name``. The vectors of ``target_from``
        are cut as well.

    Returns:
      Scalar of the loss's dtype.

    Raises:
      ValueError: no dimension, one that the vectors do not have, or another number of weights.

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
            "dimensions must name one or more, and weights one each; "
            f"got {len(dimensions)} and {len(weights)}"
        )
    for size in dimensions:
        if not 1 <= size <= q.shape[-1]:
            raise ValueError(f"dimensions has {size}; the vectors have 1 to {q.shape[-1]}")
    target_from = options.pop("target_from", None)
    total: Any = 0.0
    for size, weight in zip(dimensions, weights, strict=True):
        if target_from is not None:
            options["target_from"] = tuple(x[..., :size] for x in target_from)
        total += weight * loss(*(x[..., :size] for x in (q, p, n)), **options)
    return total
