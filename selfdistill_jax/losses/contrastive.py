"""The contrastive baseline: softmax over the documents of the whole batch."""

import jax
import jax.numpy as jnp

from selfdistill_jax.losses.common import check_above_zero, dot, dots, gather, global_mean, prepare
from selfdistill_jax.losses.pairs import by_blocks

# A masked candidate's logit. Finite: a logsumexp over -inf alone has no gradient.
_MASKED = -1e30


def softmax(
    q: jax.Array,
    p: jax.Array,
    n: jax.Array,
    *,
    temperature: float = 0.05,
    symmetric: bool = False,
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> jax.Array:
    """In-batch softmax cross-entropy (InfoNCE, multiple negatives ranking).

    Definition:
      ``mean_i −log(exp(s(q_i,p_i)/t) / Σ_j [exp(s(q_i,p_j)/t) + Σ_k exp(s(q_i,n_jk)/t)])``, j over
      the global batch, k over the negatives of a query. ``symmetric``: the mean of that and of
      ``mean_i −log(exp(s(q_i,p_i)/t) / Σ_j exp(s(q_j,p_i)/t))``. Computed block by block: memory
      does not grow with the square of the batch. Source: arXiv 1807.03748; with hard negatives,
      arXiv 2004.04906; symmetric, arXiv 2103.00020.

    Args:
      q: ``[B, D]`` query vectors of any float dtype.
      p: ``[B, D]`` vectors of their positives.
      n: ``[B, D]`` vectors of their negatives, or ``[B, K, D]``, K of each; K may be 0.
      temperature: t, above 0.
      symmetric: let positives choose among queries as well.
      normalize: scale the inputs to unit length first; a zero vector stays zero, its cosines 0.
      where: ``[B]`` bool, the real rows; None means all. Without any the loss is 0.
      axis_name: mapped axis, or axes, over which the batch is spread.

    Returns:
      Scalar, float32 (float64 for float64 inputs).

    Raises:
      ValueError: shapes that do not match, or a temperature not above 0.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([[1.0, 0.0]])
      >>> round(float(softmax(x, x, x)), 4)  # positive and negative alike: log 2
      0.6931
    """
    check_above_zero("temperature", temperature)
    batch = prepare(q, p, n, where=where, normalize=normalize, many=True)
    count, negatives, _ = batch.n.shape
    own_B = dot(batch.q, batch.p) / temperature
    documents = jnp.concatenate([batch.p[:, None, :], batch.n], axis=1).reshape(
        count * (1 + negatives), -1
    )
    real = jnp.repeat(batch.where, 1 + negatives)
    terms_B = _log_sum(batch.q, documents, real, temperature, axis_name) - own_B
    if symmetric:
        back_B = _log_sum(batch.p, batch.q, batch.where, temperature, axis_name) - own_B
        terms_B = (terms_B + back_B) / 2
    return global_mean(terms_B, batch.where, axis_name)


def _log_sum(a_BxD, b_BxD, where_B, temperature, axis_name) -> jax.Array:
    """``log Σ_j exp(a_i·b_j / t)`` over the real b of all devices, ``[B]``."""
    b_CxD, where_C = gather(b_BxD, axis_name), gather(where_B, axis_name)

    def log_sum(a_RxD: jax.Array) -> jax.Array:
        logits_RxC = dots(a_RxD, b_CxD) / temperature
        return jax.nn.logsumexp(jnp.where(where_C[None, :], logits_RxC, _MASKED), axis=1)

    return by_blocks(log_sum, (a_BxD,), len(where_C))
