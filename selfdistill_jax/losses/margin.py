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
    at_least_float32,
    check_choice,
    dot,
    global_mean,
    margins,
    prepare,
    sigma,
    unit,
    zero_masked,
)
from selfdistill_jax.losses.pairs import check_method, mean_over_pairs

BROADCASTS = ("triplet", "released")
Documents = tuple[jax.Array, jax.Array]


def static_margin(
    q: jax.Array,
    p: jax.Array,
    n: jax.Array,
    *,
    margin: float,
    error: str = "l2",
    in_batch: bool = False,
    broadcast: str = "triplet",
    method: str = "auto",
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> jax.Array:
    """Every triplet's margin is drawn to one constant.

    Definition:
      ``mean_i ρ(m_i − margin)``, with ``in_batch`` ``mean_ij ρ(s(q_i,p_i) − s(q_i,n_j) − margin)``.
      Source: arXiv 2407.21515, its baseline.

    Args:
      q: ``[B, D]`` query vectors of any float dtype.
      p: ``[B, D]`` vectors of their positives.
      n: ``[B, D]`` vectors of their negatives.
      margin: the target τ, a difference of cosines in [-2, 2].
      error: ρ, one of ``"l2"``, ``"l1"``, ``"soft"``.
      in_batch: compare each query with the negatives of the whole batch.
      broadcast: ``"triplet"`` is the definition above; ``"released"`` takes ``s(q_j,p_j)`` in entry
        (i, j) of the in-batch form, as the paper's released code does.
      method: how the in-batch form is computed, see `distributed_margin`.
      normalize: scale the inputs to unit length first; a zero vector stays zero, its cosines 0.
      where: ``[B]`` bool, the real rows; None means all. Without any the loss is 0.
      axis_name: mapped axis, or axes, over which the batch is spread (`jax.shard_map`, `jax.pmap`).

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
    check_method(method, error)
    check_choice("broadcast", broadcast, BROADCASTS)
    batch = prepare(q, p, n, where=where, normalize=normalize)
    if not in_batch:
        return global_mean(ERRORS[error](margins(batch) - margin), batch.where, axis_name)
    positive_B = dot(batch.q, batch.p) - margin
    return _in_batch(positive_B, batch.q, batch.n, batch.where, broadcast, error, method, axis_name)


def adaptive_margin(
    q: jax.Array,
    p: jax.Array,
    n: jax.Array,
    *,
    error: str = "l2",
    in_batch: bool = False,
    broadcast: str = "triplet",
    stop_gradient: bool = False,
    target_from: Documents | None = None,
    method: str = "auto",
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> jax.Array:
    """A triplet's margin is drawn to the similarity of its own two documents.

    Definition:
      ``mean_i ρ(m_i − σ(p_i,n_i))``, with ``in_batch``
      ``mean_ij ρ(s(q_i,p_i) − s(q_i,n_j) − σ(p_i,n_j))``. Source: arXiv 2407.21515.

    Args:
      q: ``[B, D]`` query vectors of any float dtype.
      p: ``[B, D]`` vectors of their positives.
      n: ``[B, D]`` vectors of their negatives.
      error: ρ, one of ``"l2"``, ``"l1"``, ``"soft"``.
      in_batch: compare each query with the negatives of the whole batch.
      broadcast: see `static_margin`.
      stop_gradient: treat the target as a constant.
      target_from: ``([B, F], [B, F])`` vectors of the same positives and negatives by another
        encoder, which the target is computed from instead, as a constant; None: p and n.
      method: how the in-batch form is computed, see `distributed_margin`.
      normalize: scale the inputs to unit length first; a zero vector stays zero, its cosines 0.
      where: ``[B]`` bool, the real rows; None means all. Without any the loss is 0.
      axis_name: mapped axis, or axes, over which the batch is spread.

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
    check_method(method, error)
    check_choice("broadcast", broadcast, BROADCASTS)
    batch = prepare(q, p, n, where=where, normalize=normalize)
    p_BxF, n_BxF = _target_documents(batch, target_from, stop_gradient, normalize)
    if not in_batch:
        errors_B = ERRORS[error](margins(batch) - sigma(dot(p_BxF, n_BxF)))
        return global_mean(errors_B, batch.where, axis_name)
    # s(q_i,p_i) − s(q_i,n_j) − ½ − ½ p_i·n_j, linear in n_j.
    positive_B = dot(batch.q, batch.p) - 0.5
    if target_from is None and not stop_gradient:
        a, b = batch.q + p_BxF / 2, batch.n
    else:  # only one of the two products moves n_j
        a = jnp.concatenate([batch.q, p_BxF / 2], axis=1)
        b = jnp.concatenate([batch.n, n_BxF], axis=1)
    return _in_batch(positive_B, a, b, batch.where, broadcast, error, method, axis_name)


def distributed_margin(
    q: jax.Array,
    p: jax.Array,
    n: jax.Array,
    *,
    error: str = "l2",
    over: str = "negatives",
    stop_gradient: bool = False,
    target_from: Documents | None = None,
    method: str = "auto",
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> jax.Array:
    """A triplet's margin is drawn to its similarity with the documents of the whole batch.

    Definition:
      ``over="negatives"``: ``mean_ij ρ(m_i − σ(p_i,n_j))``; ``over="positives"``:
      ``mean_ij ρ(m_j − σ(p_i,n_j))``, what the paper's released code computes by broadcasting.
      i and j run over the global batch. Source: arXiv 2407.21515; the closed form: docs/losses.md.

    Args:
      q: ``[B, D]`` query vectors of any float dtype.
      p: ``[B, D]`` vectors of their positives.
      n: ``[B, D]`` vectors of their negatives.
      error: ρ, one of ``"l2"``, ``"l1"``, ``"soft"``.
      over: whose distribution is the target: that of the batch's negatives, or of its positives.
      stop_gradient: treat the target as a constant.
      target_from: see `adaptive_margin`.
      method: ``"gather"`` compares all pairs, block by block; ``"moments"`` is the closed form of
        l2 (no pairs; D + D² numbers cross the devices); ``"auto"`` takes the moments for l2 from a
        global batch of 2 D rows on (4 D for a constant target in-batch). They agree to rounding.
      normalize: scale the inputs to unit length first; a zero vector stays zero, its cosines 0.
      where: ``[B]`` bool, the real rows; None means all. Without any the loss is 0.
      axis_name: mapped axis, or axes, over which the batch is spread.

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
    check_choice("over", over, ("negatives", "positives"))
    check_method(method, error)
    batch = prepare(q, p, n, where=where, normalize=normalize)
    own, other = _target_documents(batch, target_from, stop_gradient, normalize)
    if over == "positives":  # σ is symmetric: exchanging them turns one form into the other
        own, other = other, own
    return mean_over_pairs(
        margins(batch) - 0.5,
        own / 2,
        other,
        batch.where,
        error=error,
        method=method,
        axis_name=axis_name,
    )


def _target_documents(
    batch: Batch, target_from: Documents | None, stop_gradient: bool, normalize: bool
) -> Documents:
    """The positives' and negatives' vectors that targets are made from."""
    if target_from is None:
        return lax.stop_gradient((batch.p, batch.n)) if stop_gradient else (batch.p, batch.n)
    p, n = (at_least_float32(x) for x in target_from)
    if p.shape != n.shape or p.shape[:-1] != batch.where.shape:
        raise ValueError(
            "target_from must be two arrays of one shape "
            f"[{len(batch.where)}, dimensions]; got {p.shape}, {n.shape}"
        )
    p, n = zero_masked(p, batch.where), zero_masked(n, batch.where)
    return lax.stop_gradient((unit(p), unit(n)) if normalize else (p, n))


def _in_batch(c_B, a_BxE, b_BxE, where_B, broadcast, error, method, axis_name) -> jax.Array:
    """``mean_ij ρ(c_i − a_i·b_j)``, in the released form with ``c_j``."""
    if broadcast == "released":  # then c belongs to the column: look at it from there
        a_BxE, b_BxE = b_BxE, a_BxE
    return mean_over_pairs(
        c_B, a_BxE, b_BxE, where_B, error=error, method=method, axis_name=axis_name
    )
