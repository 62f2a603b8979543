"""The contrastive baseline: softmax over the documents of the whole batch."""

import jax
import jax.numpy as jnp

from selfdistill_jax.losses.common import dot, dots, gather, global_mean, prepare


def softmax(
    q: jax.Array,
    p: jax.Array,
    n: jax.Array,
    *,
    temperature: float = 0.05,
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """In-batch softmax cross-entropy (InfoNCE, multiple negatives ranking).

    Definition:
      ``mean_i −log(exp(s(q_i,p_i)/t) / Σ_j [exp(s(q_i,p_j)/t) + exp(s(q_i,n_j)/t)])``, j over the
      global batch. Source: arXiv 1807.03748; with a hard negative a query, arXiv 2004.04906.

    Args:
      q: ``[B, D]`` query vectors of any float dtype.
      p: ``[B, D]`` vectors of their positives.
      n: ``[B, D]`` vectors of their negatives.
      temperature: t.
      normalize: scale the inputs to unit length first.
      where: ``[B]`` bool, the real rows; None means all.
      axis_name: mapped axis over which the batch is spread.

    Returns:
      Scalar, float32 (float64 for float64 inputs).

    Raises:
      ValueError: shapes that do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([[1.0, 0.0]])
      >>> round(float(softmax(x, x, x)), 4)  # positive and negative alike: log 2
      0.6931
    """
    batch = prepare(q, p, n, where=where, normalize=normalize)
    where_C = gather(batch.where, axis_name)
    logits_BxC = [
        jnp.where(where_C[None, :], dots(batch.q, gather(x, axis_name)) / temperature, -jnp.inf)
        for x in (batch.p, batch.n)
    ]
    own_B = dot(batch.q, batch.p) / temperature
    # A masked row may face masked columns alone, whose logsumexp has no gradient: give it its own.
    own_Bx1 = jnp.where(batch.where, -jnp.inf, own_B)[:, None]
    everything = jax.nn.logsumexp(jnp.concatenate([*logits_BxC, own_Bx1], axis=1), axis=1)
    return global_mean(everything - own_B, batch.where, axis_name)
