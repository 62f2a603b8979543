"""Margin losses: static, and self-distilled with adaptive or distributed relevance margins.

Similarities are cosines, ``σ(a, b) = (1 + s(a, b)) / 2``, the margin of a query and its k-th
negative is ``m_ik = s(q_i, p_i) − s(q_i, n_ik)``, and ρ is the error: l2 ``x²``, l1 ``|x|``, soft
``log(1 + e^−x)``, hinge ``max(0, −x)``, hinge2 ``max(0, −x)²``.
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
    check_ids,
    dot,
    flat,
    gather,
    global_mean,
    margins,
    prepare,
    repeat,
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
    positive_ids: jax.Array | None = None,
    negative_ids: jax.Array | None = None,
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> jax.Array:
    """Returns the static margin loss, which draws every margin to one constant.

    Definition:
      ``mean_ik ρ(m_ik − margin)``, with ``in_batch`` ``mean_ix ρ(s(q_i,p_i) − s(q_i,x) − margin)``,
      x over all negatives of the global batch. Source: arXiv 2407.21515, its baseline.

    Args:
      q: ``[B, D]`` query vectors of any float dtype.
      p: ``[B, D]`` vectors of their positives.
      n: ``[B, D]`` vectors of their negatives, or ``[B, K, D]``, K per query.
      margin: the target τ, a difference of cosines in [-2, 2].
      error: ρ, one of ``"l2"``, ``"l1"``, ``"soft"``, ``"hinge"``, ``"hinge2"``.
      in_batch: compare each query with the negatives of the whole batch.
      broadcast: ``"triplet"`` is the definition above; ``"released"`` uses ``s(q_j,p_j)`` in entry
        (i, j) of the in-batch form, as the paper's released code does.
      method: how the in-batch form is computed, see `distributed_margin`.
      positive_ids, negative_ids: see `softmax`. In a comparison over the batch, a negative that is
        a positive of any query of the batch is left out.
      normalize: scale the inputs to unit length first; a zero vector stays zero, with cosines of 0.
      where: ``[B]`` bool, the real rows; None means all. Without real rows the loss is 0.
      axis_name: mapped axis, or axes, over which the batch is spread (`jax.shard_map`, `jax.pmap`).

    Returns:
      Scalar, float32 (float64 for float64 inputs).

    Raises:
      ValueError: the shapes do not match, or an option is unknown.

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
    among = _negatives(batch, positive_ids, negative_ids, axis_name)
    options = {"error": error, "method": method, "axis_name": axis_name}
    return _in_batch(positive_B, batch.q, flat(batch.n), batch.where, among, broadcast, **options)


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
    positive_ids: jax.Array | None = None,
    negative_ids: jax.Array | None = None,
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> jax.Array:
    """Returns the adaptive margin loss: each margin is drawn to its own documents' similarity.

    Definition:
      ``mean_ik ρ(m_ik − σ(p_i,n_ik))``, with ``in_batch``
      ``mean_ix ρ(s(q_i,p_i) − s(q_i,x) − σ(p_i,x))``, x over all negatives of the
      global batch. Source: arXiv 2407.21515.

    Args:
      q: ``[B, D]`` query vectors of any float dtype.
      p: ``[B, D]`` vectors of their positives.
      n: ``[B, D]`` vectors of their negatives, or ``[B, K, D]``, K per query.
      error: ρ, one of ``"l2"``, ``"l1"``, ``"soft"``, ``"hinge"``, ``"hinge2"``.
      in_batch: compare each query with the negatives of the whole batch.
      broadcast: see `static_margin`.
      stop_gradient: treat the target as a constant.
      target_from: ``([B, F], [B, F])`` or ``([B, F], [B, K, F])``, vectors of the same positives
        and negatives from another encoder; the target is computed from them, as a constant. None:
        it is computed from p and n.
      method: how the in-batch form is computed, see `distributed_margin`.
      positive_ids, negative_ids: see `softmax`. In a comparison over the batch, a negative that is
        a positive of any query of the batch is left out.
      normalize: scale the inputs to unit length first; a zero vector stays zero, with cosines of 0.
      where: ``[B]`` bool, the real rows; None means all. Without real rows the loss is 0.
      axis_name: mapped axis, or axes, over which the batch is spread.

    Returns:
      Scalar, float32 (float64 for float64 inputs).

    Raises:
      ValueError: the shapes do not match, or an option is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> q = p = jnp.array([[1.0, 0.0]])
      >>> float(adaptive_margin(q, p, jnp.array([[0.0, 1.0]])))  # m = 1, target (1 + 0) / 2
      0.25
    """
    check_method(method, error)
    check_choice("broadcast", broadcast, BROADCASTS)
    batch = prepare(q, p, n, where=where, normalize=normalize)
    p_BxF, n_BxKxF = _target_documents(batch, target_from, stop_gradient, normalize)
    if not in_batch:
        errors_BxK = ERRORS[error](margins(batch) - sigma(dot(p_BxF[:, None, :], n_BxKxF)))
        return global_mean(errors_BxK, batch.where, axis_name)
    # The error of s(q_i,p_i) − s(q_i,x) − ½ − ½ p_i·x, which is linear in x.
    positive_B = dot(batch.q, batch.p) - 0.5
    if target_from is None and not stop_gradient:
        a, b = batch.q + p_BxF / 2, flat(batch.n)
    else:  # the gradient reaches x through the first product only
        a = jnp.concatenate([batch.q, p_BxF / 2], axis=1)
        b = jnp.concatenate([flat(batch.n), flat(n_BxKxF)], axis=1)
    among = _negatives(batch, positive_ids, negative_ids, axis_name)
    options = {"error": error, "method": method, "axis_name": axis_name}
    return _in_batch(positive_B, a, b, batch.where, among, broadcast, **options)


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
    positive_ids: jax.Array | None = None,
    negative_ids: jax.Array | None = None,
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> jax.Array:
    """Returns the distributed margin loss: a margin's targets are similarities across the batch.

    Definition:
      ``over="negatives"``: ``mean_ikx ρ(m_ik − σ(p_i,x))``, x over all negatives of the global
      batch; ``over="positives"``: ``mean_ijk ρ(m_jk − σ(p_i,n_jk))``, which the paper's released
      code computes by broadcasting. Source: arXiv 2407.21515; the closed form: docs/losses.md.

    Args:
      q: ``[B, D]`` query vectors of any float dtype.
      p: ``[B, D]`` vectors of their positives.
      n: ``[B, D]`` vectors of their negatives, or ``[B, K, D]``, K per query.
      error: ρ, one of ``"l2"``, ``"l1"``, ``"soft"``, ``"hinge"``, ``"hinge2"``.
      over: documents whose similarities are the targets, the batch's negatives or its positives.
      stop_gradient: treat the target as a constant.
      target_from: see `adaptive_margin`.
      method: ``"gather"`` compares all pairs, block by block; ``"moments"`` is the closed form of
        l2 (no pairs; devices exchange D + D² numbers); ``"auto"`` uses moments for l2 from a global
        batch of 2 D rows on (4 D for a constant in-batch target). The two agree to rounding.
      positive_ids, negative_ids: see `softmax`. In a comparison over the batch, a negative that is
        a positive of any query of the batch is left out.
      normalize: scale the inputs to unit length first; a zero vector stays zero, with cosines of 0.
      where: ``[B]`` bool, the real rows; None means all. Without real rows the loss is 0.
      axis_name: mapped axis, or axes, over which the batch is spread.

    Returns:
      Scalar, float32 (float64 for float64 inputs).

    Raises:
      ValueError: the shapes do not match, an option is unknown, or moments are not of l2.

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
    p_BxF, n_BxKxF = _target_documents(batch, target_from, stop_gradient, normalize)
    among = _negatives(batch, positive_ids, negative_ids, axis_name)
    margins_N = margins(batch).reshape(-1)
    n_NxF, count = flat(n_BxKxF), batch.n.shape[1]
    if over == "negatives":
        own, rows = repeat(p_BxF, count), repeat(batch.where, count)
        other, columns = n_NxF, among
    else:  # σ is symmetric: exchanging the two turns one form into the other
        own, rows, other, columns = n_NxF, among, p_BxF, batch.where
    return mean_over_pairs(
        margins_N - 0.5,
        own / 2,
        other,
        rows,
        columns,
        error=error,
        method=method,
        axis_name=axis_name,
    )


def _target_documents(
    batch: Batch, target_from: Documents | None, stop_gradient: bool, normalize: bool
) -> Documents:
    """Returns the vectors of positives and negatives that targets are computed from."""
    if target_from is None:
        return lax.stop_gradient((batch.p, batch.n)) if stop_gradient else (batch.p, batch.n)
    p, n = (at_least_float32(x) for x in target_from)
    shapes = p.shape, n.shape
    n = n[:, None, :] if n.ndim == 2 else n
    if p.ndim != 2 or len(p) != len(batch.where) or n.shape != (*batch.n.shape[:2], p.shape[1]):
        size, count, _ = batch.n.shape
        raise ValueError(
            f"target_from must be arrays of shapes [{size}, dimensions] and [{size}, {count}, "
            f"dimensions] (both [{size}, dimensions] if K is 1); got {shapes[0]} and {shapes[1]}"
        )
    p, n = zero_masked(p, batch.where), zero_masked(n, batch.where)
    return lax.stop_gradient((unit(p), unit(n)) if normalize else (p, n))


def _negatives(batch: Batch, positive_ids, negative_ids, axis_name) -> jax.Array:
    """Returns ``[B K]`` bool: the real negatives that answer no query of the global batch.

    A negative that is known to answer any query is left out for all queries, so that the batch's
    negatives are one set, whose moments the closed form needs.
    """
    where_N = repeat(batch.where, batch.n.shape[1])
    ids = check_ids(batch, positive_ids, negative_ids)
    if ids is None:
        return where_N
    p_BxP, n_BxK = ids
    known = gather(jnp.where(batch.where[:, None], p_BxP, -1), axis_name)
    return where_N & ~jnp.isin(n_BxK.reshape(-1), known)


def _in_batch(c_B, a_BxE, b_NxE, where_B, among_N, broadcast, **options) -> jax.Array:
    """Returns ``mean_ix ρ(c_i − a_i·x)``; the released form takes c from the query of x."""
    if broadcast == "released":
        c_N = repeat(c_B, len(b_NxE) // len(c_B))
        return mean_over_pairs(c_N, b_NxE, a_BxE, among_N, where_B, **options)
    return mean_over_pairs(c_B, a_BxE, b_NxE, where_B, among_N, **options)
