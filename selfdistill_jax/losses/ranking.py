"""Baseline losses that look at one query at a time: triplet hinge and pairwise logistic."""

import jax

from selfdistill_jax.losses.common import check_above_zero, global_mean, margins, prepare


def triplet(
    q: jax.Array,
    p: jax.Array,
    n: jax.Array,
    *,
    margin: float = 0.2,
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> jax.Array:
    """Returns the triplet hinge loss: a margin that is wide enough costs nothing.

    Definition:
      ``mean_ik max(0, margin − m_ik)`` with ``m_ik = s(q_i,p_i) − s(q_i,n_ik)``. Source: arXiv
      1503.03832, with cosine distance ``1 − s``.

    Args:
      q: ``[B, D]`` query vectors of any float dtype.
      p: ``[B, D]`` vectors of their positives.
      n: ``[B, D]`` vectors of their negatives, or ``[B, K, D]``, K per query.
      margin: the least margin without a loss, a difference of cosines.
      normalize: scale the inputs to unit length first; a zero vector stays zero, with cosines of 0.
      where: ``[B]`` bool, the real rows; None means all. Without real rows the loss is 0.
      axis_name: mapped axis, or axes, over which the batch is spread.

    Returns:
      Scalar, float32 (float64 for float64 inputs).

    Raises:
      ValueError: the shapes do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([[1.0, 0.0]])
      >>> round(float(triplet(x, x, x)), 4)  # no margin at all
      0.2
    """
    batch = prepare(q, p, n, where=where, normalize=normalize)
    return global_mean(jax.nn.relu(margin - margins(batch)), batch.where, axis_name)


def pairwise_logistic(
    q: jax.Array,
    p: jax.Array,
    n: jax.Array,
    *,
    temperature: float = 0.05,
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> jax.Array:
    """Returns the RankNet loss: the logistic loss of preferring a positive to a negative.

    Definition:
      ``mean_ik log(1 + exp(−m_ik / t))`` with ``m_ik = s(q_i,p_i) − s(q_i,n_ik)``. Source: Burges
      et al., Learning to Rank using Gradient Descent, ICML 2005.

    Args:
      q: ``[B, D]`` query vectors of any float dtype.
      p: ``[B, D]`` vectors of their positives.
      n: ``[B, D]`` vectors of their negatives, or ``[B, K, D]``, K per query.
      temperature: t, above 0.
      normalize: scale the inputs to unit length first; a zero vector stays zero, with cosines of 0.
      where: ``[B]`` bool, the real rows; None means all. Without real rows the loss is 0.
      axis_name: mapped axis, or axes, over which the batch is spread.

    Returns:
      Scalar, float32 (float64 for float64 inputs).

    Raises:
      ValueError: the shapes do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([[1.0, 0.0]])
      >>> round(float(pairwise_logistic(x, x, x)), 4)  # no preference: log 2
      0.6931
    """
    check_above_zero("temperature", temperature)
    batch = prepare(q, p, n, where=where, normalize=normalize)
    terms_BxK = jax.nn.softplus(-margins(batch) / temperature)
    return global_mean(terms_BxK, batch.where, axis_name)
