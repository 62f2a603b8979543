"""Margin losses: static, and self-distilled with adaptive or distributed relevance margins.

Similarities are cosines, ``σ(a, b) = (1 + s(a, b)) / 2``, a triplet's margin is
``m_i = s(q_i, p_i) − s(q_i, n_i)``, ρ the error: l2 ``x²``, l1 ``|x|``, soft ``log(1 + e^−x)``.
Source: arXiv 2407.21515. Its released code does not detach the target; ``stop_gradient=True`` does.
"""

import jax
import jax.numpy as jnp
from jax import lax

from selfdistill_jax.losses.common import (
    ERRORS,
    Batch,
    check_choice,
    dot,
    dots,
    gather,
    global_mean,
    prepare,
    sigma,
    total,
)

BROADCASTS = ("triplet", "released")


def static_margin(
    q: jax.Array,
    p: jax.Array,
    n: jax.Array,
    *,
    margin: float,
    error: str = "l2",
    in_batch: bool = False,
    broadcast: str = "triplet",
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Every triplet's margin is drawn to one constant.

    Definition:
      ``mean_i ρ(m_i − margin)``, with ``in_batch`` ``mean_ij ρ(s(q_i,p_i) − s(q_i,n_j) − margin)``.

    Args:
      q: ``[B, D]`` query vectors of any float dtype.
      p: ``[B, D]`` vectors of their positives.
      n: ``[B, D]`` vectors of their negatives.
      margin: the target τ.
      error: ρ, one of ``"l2"``, ``"l1"``, ``"soft"``.
      in_batch: compare each query with the negatives of the whole batch.
      broadcast: ``"triplet"`` is the definition above; ``"released"`` takes ``s(q_j,p_j)`` in entry
        (i, j) of the in-batch form, as the paper's released code does.
      normalize: scale the inputs to unit length first.
      where: ``[B]`` bool, the real rows; None means all.
      axis_name: mapped axis over which the batch is spread (`jax.shard_map`, `jax.vmap`).

    Returns:
      Scalar, float32 (float64 for float64 inputs).

    Raises:
      ValueError: shapes that do not match or an unknown option.

    Example:
      >>> import jax.numpy as jnp
      >>> q = p = jnp.array([[1.0, 0.0]])
      >>> round(float(static_margin(q, p, jnp.array([[0.0, 1.0]]), margin=0.2)), 4)  # (1 − 0.2)²
      0.64
    """
    check_choice("error", error, ERRORS)
    check_choice("broadcast", broadcast, BROADCASTS)
    batch = prepare(q, p, n, where=where, normalize=normalize)
    if not in_batch:
        return global_mean(ERRORS[error](_margin(batch) - margin), batch.where, axis_name)
    margins_BxC, where_BxC = _in_batch_margins(batch, broadcast, axis_name)
    return global_mean(ERRORS[error](margins_BxC - margin), where_BxC, axis_name)


def adaptive_margin(
    q: jax.Array,
    p: jax.Array,
    n: jax.Array,
    *,
    error: str = "l2",
    in_batch: bool = False,
    broadcast: str = "triplet",
    stop_gradient: bool = False,
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """A triplet's margin is drawn to the similarity of its own two documents.

    Definition:
      ``mean_i ρ(m_i − σ(p_i,n_i))``, with ``in_batch``
      ``mean_ij ρ(s(q_i,p_i) − s(q_i,n_j) − σ(p_i,n_j))``.

    Args:
      q: ``[B, D]`` query vectors of any float dtype.
      p: ``[B, D]`` vectors of their positives.
      n: ``[B, D]`` vectors of their negatives.
      error: ρ, one of ``"l2"``, ``"l1"``, ``"soft"``.
      in_batch: compare each query with the negatives of the whole batch.
      broadcast: see `static_margin`.
      stop_gradient: treat the target as a constant.
      normalize: scale the inputs to unit length first.
      where: ``[B]`` bool, the real rows; None means all.
      axis_name: mapped axis over which the batch is spread.

    Returns:
      Scalar, float32 (float64 for float64 inputs).

    Raises:
      ValueError: shapes that do not match or an unknown option.

    Example:
      >>> import jax.numpy as jnp
      >>> q = p = jnp.array([[1.0, 0.0]])
      >>> float(adaptive_margin(q, p, jnp.array([[0.0, 1.0]])))  # m = 1, target (1 + 0) / 2
      0.25
    """
    check_choice("error", error, ERRORS)
    check_choice("broadcast", broadcast, BROADCASTS)
    batch = prepare(q, p, n, where=where, normalize=normalize)
    if in_batch:
        margins, real = _in_batch_margins(batch, broadcast, axis_name)
        target = sigma(dots(batch.p, gather(batch.n, axis_name)))
    else:
        margins, real = _margin(batch), batch.where
        target = sigma(dot(batch.p, batch.n))
    if stop_gradient:
        target = lax.stop_gradient(target)
    return global_mean(ERRORS[error](margins - target), real, axis_name)


def distributed_margin(
    q: jax.Array,
    p: jax.Array,
    n: jax.Array,
    *,
    error: str = "l2",
    over: str = "negatives",
    stop_gradient: bool = False,
    method: str = "auto",
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """A triplet's margin is drawn to its similarity with the documents of the whole batch.

    Definition:
      ``over="negatives"``: ``mean_ij ρ(m_i − σ(p_i,n_j))``; ``over="positives"``:
      ``mean_ij ρ(m_j − σ(p_i,n_j))``, what the paper's released code computes by broadcasting.
      i and j run over the global batch.

    Args:
      q: ``[B, D]`` query vectors of any float dtype.
      p: ``[B, D]`` vectors of their positives.
      n: ``[B, D]`` vectors of their negatives.
      error: ρ, one of ``"l2"``, ``"l1"``, ``"soft"``.
      over: whose distribution is the target: that of the batch's negatives, or of its positives.
      stop_gradient: treat the target as a constant.
      method: ``"gather"`` compares all pairs, ``"moments"`` uses the closed form of l2 (no B x B
        matrix; D + D² numbers cross the devices), ``"auto"`` is gather.
      normalize: scale the inputs to unit length first.
      where: ``[B]`` bool, the real rows; None means all.
      axis_name: mapped axis over which the batch is spread.

    Returns:
      Scalar, float32 (float64 for float64 inputs).

    Raises:
      ValueError: shapes that do not match, an unknown option, moments with another error than l2.

    Example:
      >>> import jax.numpy as jnp
      >>> q = p = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> n = p[::-1]
      >>> float(distributed_margin(q, p, n))  # m = 1; targets 1/2 and 1: mean of 1/4 and 0
      0.125
    """
    check_choice("error", error, ERRORS)
    check_choice("over", over, ("negatives", "positives"))
    check_choice("method", method, ("auto", "gather", "moments"))
    if method == "moments" and error != "l2":
        raise ValueError(f"method 'moments' is the closed form of error 'l2'; error is {error!r}")
    batch = prepare(q, p, n, where=where, normalize=normalize)
    # Exchanging p and n turns one form into the other, since σ is symmetric.
    own, other = (batch.p, batch.n) if over == "negatives" else (batch.n, batch.p)
    if stop_gradient:
        own, other = lax.stop_gradient((own, other))
    compare = _by_moments if method == "moments" else _by_pairs
    return compare(_margin(batch), own, other, batch.where, error, axis_name)


def _margin(batch: Batch) -> jax.Array:
    return dot(batch.q, batch.p) - dot(batch.q, batch.n)


def _in_batch_margins(batch: Batch, broadcast: str, axis_name) -> tuple[jax.Array, jax.Array]:
    """Margins of every query against every negative ``[B, C]``, and which of them are real."""
    negative_BxC = dots(batch.q, gather(batch.n, axis_name))
    where_BxC = batch.where[:, None] & gather(batch.where, axis_name)[None, :]
    positive_B = dot(batch.q, batch.p)
    if broadcast == "released":
        return gather(positive_B, axis_name)[None, :] - negative_BxC, where_BxC
    return positive_B[:, None] - negative_BxC, where_BxC


def _by_pairs(margin_B, own_BxD, other_BxD, where_B, error, axis_name) -> jax.Array:
    target_BxC = sigma(dots(own_BxD, gather(other_BxD, axis_name)))
    where_BxC = where_B[:, None] & gather(where_B, axis_name)[None, :]
    return global_mean(ERRORS[error](margin_B[:, None] - target_BxC), where_BxC, axis_name)


def _by_moments(margin_B, own_BxD, other_BxD, where_B, error, axis_name) -> jax.Array:
    """mean_j (m − (1 + a·b_j)/2)² = m² − m (1 + a·μ) + ¼ (1 + 2 a·μ + aᵀSa)."""
    del error  # l2, checked by the caller
    weight_Bx1 = where_B.astype(margin_B.dtype)[:, None]
    count = jnp.maximum(total(jnp.sum(weight_Bx1), axis_name), 1)
    mean_D = total(jnp.sum(other_BxD * weight_Bx1, axis=0), axis_name) / count
    square_DxD = total(dots((other_BxD * weight_Bx1).T, other_BxD.T), axis_name) / count
    first_B = dots(own_BxD, mean_D[None, :])[:, 0]
    second_B = dot(jnp.matmul(own_BxD, square_DxD, precision=lax.Precision.HIGHEST), own_BxD)
    terms_B = margin_B**2 - margin_B * (1 + first_B) + (1 + 2 * first_B + second_B) / 4
    return global_mean(terms_B, where_B, axis_name)
