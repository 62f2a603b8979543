"""What to watch in self-distillation, whose target the model itself can move."""

import jax
import jax.numpy as jnp

from selfdistill_jax.losses.common import at_least_float32, dot, prepare, sigma, unit

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
    """Distributions of margins and targets, and how alike the documents have become.

    Time and memory are linear in the batch. Call it on the whole batch, outside of a mapped
    function.

    Args:
      q: ``[B, D]`` query vectors of any float dtype.
      p: ``[B, D]`` vectors of their positives.
      n: ``[B, D]`` vectors of their negatives.
      target_from: see `adaptive_margin`.
      normalize: scale the inputs to unit length first.
      where: ``[B]`` bool, the real rows; None means all. Without any every value is NaN.

    Returns:
      Of ``margin`` (``m_i = s(q_i,p_i) − s(q_i,n_i)``) and of ``target`` (``σ(p_i,n_i)``, the
      triplet's own) the scalars ``…_mean`` and ``…_std`` and ``[5]`` ``…_quantiles`` at
      `QUANTILES`; ``past_target``, the share of triplets with ``m_i ≥ σ(p_i,n_i)``; and
      ``document_cosine``, the mean cosine of two different rows among all 2 B documents: 1 when
      the encoder has collapsed and tells no document from another.

    Raises:
      ValueError: shapes that do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> q = p = jnp.array([[1.0, 0.0], [1.0, 0.0]])
      >>> found = summaries(q, p, n=p[:, ::-1])
      >>> float(found["margin_mean"]), float(found["target_mean"]), float(found["past_target"])
      (1.0, 0.5, 1.0)
      >>> round(float(found["document_cosine"]), 4)  # 2 of the 6 pairs are alike
      0.3333
    """
    batch = prepare(q, p, n, where=where, normalize=normalize)
    p_BxF, n_BxF = (batch.p, batch.n) if target_from is None else map(at_least_float32, target_from)
    if target_from is not None and normalize:
        p_BxF, n_BxF = unit(p_BxF), unit(n_BxF)
    margin_B = dot(batch.q, batch.p) - dot(batch.q, batch.n)
    target_B = sigma(dot(p_BxF, n_BxF))
    found = {}
    for name, values_B in (("margin", margin_B), ("target", target_B)):
        found[f"{name}_mean"] = jnp.mean(values_B, where=batch.where)
        found[f"{name}_std"] = jnp.std(values_B, where=batch.where)
        real_B = jnp.where(batch.where, values_B, jnp.nan)
        found[f"{name}_quantiles"] = jnp.nanquantile(real_B, jnp.array(QUANTILES))
    found["past_target"] = jnp.mean(margin_B >= target_B, where=batch.where)
    found["document_cosine"] = _mean_cosine(batch.p, batch.n, batch.where)
    return found


def _mean_cosine(p_BxD: jax.Array, n_BxD: jax.Array, where_B: jax.Array) -> jax.Array:
    """Of all pairs of different rows: (|Σ d|² − Σ |d|²) / (N (N − 1)), N = 2 B documents."""
    real_Bx1 = where_B[:, None]
    sum_D = jnp.sum(p_BxD, axis=0, where=real_Bx1) + jnp.sum(n_BxD, axis=0, where=real_Bx1)
    own = jnp.sum(dot(p_BxD, p_BxD) + dot(n_BxD, n_BxD), where=where_B)
    count = 2 * jnp.sum(where_B, dtype=sum_D.dtype)
    return (dot(sum_D, sum_D) - own) / (count * (count - 1))
