"""Baseline losses with a teacher: Margin-MSE and KL divergence from its scores."""

import jax
import jax.numpy as jnp

from selfdistill_jax.losses.common import (
    check_above_zero,
    dot,
    global_mean,
    margins,
    prepare,
    teacher_rows,
)


def margin_mse(
    q: jax.Array,
    p: jax.Array,
    n: jax.Array,
    *,
    teacher_margin: jax.Array,
    scale: float = 1.0,
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> jax.Array:
    """Returns the Margin-MSE loss, which draws every margin to the teacher's.

    Definition:
      ``mean_ik (scale · m_ik − teacher_margin_ik)²``, ``m_ik = s(q_i,p_i) − s(q_i,n_ik)``. Source:
      arXiv 2010.02666, which uses dot products: ``normalize=False, scale=1``.

    Args:
      q: ``[B, D]`` query vectors of any float dtype.
      p: ``[B, D]`` vectors of their positives.
      n: ``[B, D]`` vectors of their negatives, or ``[B, K, D]``, K per query.
      teacher_margin: ``[B]`` or ``[B, K]``, the teacher's score of the positive minus that of the
        negative.
      scale: factor that brings margins of cosines, at most 2, to the range of the teacher's; the
        training configs set 20.
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
      >>> float(margin_mse(x, x, x, teacher_margin=jnp.array([0.5])))  # (0 − 0.5)²
      0.25
    """
    batch = prepare(q, p, n, where=where, normalize=normalize)
    shape = batch.n.shape[:2]
    teacher_margin = jnp.asarray(teacher_margin)
    if shape[1] == 1 and teacher_margin.ndim == 1:
        teacher_margin = teacher_margin[:, None]
    teacher_BxK = teacher_rows("teacher_margin", teacher_margin, shape, batch.where)
    return global_mean(jnp.square(scale * margins(batch) - teacher_BxK), batch.where, axis_name)


def kl(
    q: jax.Array,
    p: jax.Array,
    n: jax.Array,
    *,
    teacher_scores: jax.Array,
    temperature: float = 1.0,
    scale: float = 20.0,
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> jax.Array:
    """Returns the KL divergence of student from teacher over the documents of each query.

    Definition:
      ``t² mean_i Σ_k T_ik log(T_ik / S_ik)``, k over the query's own positive and negatives,
      ``T_i = softmax(teacher_scores_i / t)``, ``S_i = softmax(scale · s(q_i, documents_i) / t)``.
      Source: arXiv 1503.02531, which has the factor t²; for retrieval, arXiv 2010.11386.

    Args:
      q: ``[B, D]`` query vectors of any float dtype.
      p: ``[B, D]`` vectors of their positives.
      n: ``[B, D]`` vectors of their negatives, or ``[B, K, D]``, K per query.
      teacher_scores: ``[B, 1 + K]``, the teacher's scores of the positive, then of the negatives.
      temperature: t, above 0, of student and teacher.
      scale: factor that brings cosines to the range of the teacher's scores.
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
      >>> round(float(kl(x, x, x, teacher_scores=jnp.array([[1.0, 1.0]]))), 4)  # they agree
      0.0
    """
    check_above_zero("temperature", temperature)
    batch = prepare(q, p, n, where=where, normalize=normalize)
    documents = jnp.concatenate([batch.p[:, None, :], batch.n], axis=1)
    scores = teacher_rows("teacher_scores", teacher_scores, documents.shape[:2], batch.where)
    student = jax.nn.log_softmax(scale * dot(batch.q[:, None, :], documents) / temperature)
    teacher = jax.nn.log_softmax(scores / temperature)
    terms_B = jnp.sum(jnp.exp(teacher) * (teacher - student), axis=1) * temperature**2
    return global_mean(terms_B, batch.where, axis_name)
