"""Statistics to watch in self-distillation, where the model can move its own target."""

import jax
import jax.numpy as jnp

from selfdistill_jax.losses.common import (
    at_least_float32,
    dot,
    margins,
    prepare,
    repeat,
    sigma,
    unit,
)

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def summaries(
    q: jax.Array,
    p: jax.Array,
    n: jax.Array,
    *,
    target_from: tuple[jax.Array, jax.Array] | None = None,
    normalize: bool = True,
    where: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """Returns distributions of margins and targets, and the mean similarity of documents.

    Time and memory are linear in the batch. Call it on the whole batch, outside any mapped
    function.

    Args:
      q: ``[B, D]`` query vectors of any float dtype.
      p: ``[B, D]`` vectors of their positives.
      n: ``[B, D]`` vectors of their negatives, or ``[B, K, D]``, K per query; K may be 0.
      target_from: see `adaptive_margin`.
      normalize: scale the inputs to unit length first.
      where: ``[B]`` bool, the real rows; None means all. Without real rows every value is NaN.

    Returns:
      For ``margin`` (``m_ik = s(q_i,p_i) − s(q_i,n_ik)``) and ``target`` (``σ(p_i,n_ik)``), the
      scalars ``…_mean`` and ``…_std`` and the ``[5]`` ``…_quantiles`` at `QUANTILES`;
      ``past_target``, the share with ``m_ik ≥ σ(p_i,n_ik)``; and ``negative_mean``, the mean of
      ``s(q_i,n_ik)``. Without negatives these are missing. Also ``positive_mean``, the mean of
      ``s(q_i,p_i)``; ``other_mean``, the mean of ``s(q_i,p_j)`` for j ≠ i; ``own_above_mean``, the
      share of queries that are closer to their own positive than to the other rows' on average,
      about 0.5 by chance; and ``document_cosine``, the mean cosine of two different rows among all
      (1 + K) B documents, which is 1 when the encoder has collapsed and all documents have one
      vector.

    Raises:
      ValueError: the shapes do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> q = p = jnp.array([[1.0, 0.0], [1.0, 0.0]])
      >>> found = summaries(q, p, n=p[:, ::-1])
      >>> float(found["margin_mean"]), float(found["target_mean"]), float(found["past_target"])
      (1.0, 0.5, 1.0)
      >>> round(float(found["document_cosine"]), 4)  # 2 of the 6 pairs are alike
      0.3333
    """
    batch = prepare(q, p, n, where=where, normalize=normalize, least=0)
    count = batch.n.shape[1]
    real_N = repeat(batch.where, count)
    own_B = dot(batch.q, batch.p)
    # Comparing with the mean of all rows gives the same answer as with the mean of the others, and
    # takes one product per query instead of one per pair.
    all_B = batch.q @ jnp.mean(batch.p, axis=0, where=batch.where[:, None])
    rows = jnp.sum(batch.where, dtype=all_B.dtype)
    found = {
        "positive_mean": jnp.mean(own_B, where=batch.where),
        "other_mean": jnp.mean((rows * all_B - own_B) / (rows - 1), where=batch.where),
        "own_above_mean": jnp.mean(own_B > all_B, where=batch.where),
    }
    if count:
        negative_N = dot(batch.q[:, None, :], batch.n).reshape(-1)
        found["negative_mean"] = jnp.mean(negative_N, where=real_N)
        p_BxF, n_BxKxF = batch.p, batch.n
        if target_from is not None:
            p_BxF, n = (at_least_float32(x) for x in target_from)
            n_BxKxF = n.reshape(*batch.n.shape[:2], -1)
            if normalize:
                p_BxF, n_BxKxF = unit(p_BxF), unit(n_BxKxF)
        margin_N = margins(batch).reshape(-1)
        target_N = sigma(dot(p_BxF[:, None, :], n_BxKxF)).reshape(-1)
        for name, values_N in (("margin", margin_N), ("target", target_N)):
            found[f"{name}_mean"] = jnp.mean(values_N, where=real_N)
            found[f"{name}_std"] = jnp.std(values_N, where=real_N)
            masked_N = jnp.where(real_N, values_N, jnp.nan)
            found[f"{name}_quantiles"] = jnp.nanquantile(masked_N, jnp.array(QUANTILES))
        found["past_target"] = jnp.mean(margin_N >= target_N, where=real_N)
    found["document_cosine"] = _mean_cosine(batch.p, batch.n, batch.where)
    return found


def _mean_cosine(p_BxD: jax.Array, n_BxKxD: jax.Array, where_B: jax.Array) -> jax.Array:
    """Returns the mean over pairs of M different rows: (|Σ d|² − Σ |d|²) / (M (M − 1))."""
    sum_D = jnp.sum(p_BxD, axis=0, where=where_B[:, None])
    sum_D += jnp.sum(n_BxKxD, axis=(0, 1), where=where_B[:, None, None])
    squares_B = dot(p_BxD, p_BxD) + jnp.sum(dot(n_BxKxD, n_BxKxD), axis=1)
    own = jnp.sum(squares_B, where=where_B)
    count = (1 + n_BxKxD.shape[1]) * jnp.sum(where_B, dtype=sum_D.dtype)
    return (dot(sum_D, sum_D) - own) / (count * (count - 1))
