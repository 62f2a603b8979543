"""The contrastive baseline: softmax over the documents of the whole batch."""

import jax
import jax.numpy as jnp
from jax import lax

from selfdistill_jax.losses.common import (
    check_above_zero,
    check_ids,
    dot,
    dots,
    flat,
    gather,
    global_mean,
    prepare,
    repeat,
)
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
    positive_ids: jax.Array | None = None,
    negative_ids: jax.Array | None = None,
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> jax.Array:
    """Returns the in-batch softmax cross-entropy (InfoNCE, multiple negatives ranking loss).

    Definition:
      ``mean_i −log(exp(s(q_i,p_i)/t) / Σ_j [exp(s(q_i,p_j)/t) + Σ_k exp(s(q_i,n_jk)/t)])``, j over
      the global batch, k over the negatives of a query. ``symmetric``: the mean of that and of
      ``mean_i −log(exp(s(q_i,p_i)/t) / Σ_j exp(s(q_j,p_i)/t))``. With ids, a document that is a
      positive of query i is left out of that query's sum, except ``p_i`` itself. It is computed
      block by block, so that memory does not grow with the square of the batch. Source: arXiv
      1807.03748; with hard negatives, arXiv 2004.04906; symmetric, arXiv 2103.00020.

    Args:
      q: ``[B, D]`` query vectors of any float dtype.
      p: ``[B, D]`` vectors of their positives.
      n: ``[B, D]`` vectors of their negatives, or ``[B, K, D]``, K per query; K may be 0.
      temperature: t, above 0.
      symmetric: also compare each positive with all queries.
      positive_ids: ``[B]`` int32 ids of the positives, or ``[B, P]`` ids of all documents that are
        known to answer the query: its own positive first, padded with -1.
      negative_ids: ``[B]`` or ``[B, K]`` int32 ids of the negatives; given with positive_ids.
      normalize: scale the inputs to unit length first; a zero vector stays zero, with cosines of 0.
      where: ``[B]`` bool, the real rows; None means all. Without real rows the loss is 0.
      axis_name: mapped axis, or axes, over which the batch is spread.

    Returns:
      Scalar, float32 (float64 for float64 inputs).

    Raises:
      ValueError: the shapes do not match, or the temperature is not above 0.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([[1.0, 0.0]])
      >>> round(float(softmax(x, x, x)), 4)  # positive and negative alike: log 2
      0.6931
    """
    check_above_zero("temperature", temperature)
    batch = prepare(q, p, n, where=where, normalize=normalize, least=0)
    per_query = 1 + batch.n.shape[1]
    ids = check_ids(batch, positive_ids, negative_ids)
    own_B = dot(batch.q, batch.p) / temperature
    documents = flat(jnp.concatenate([batch.p[:, None, :], batch.n], axis=1))
    real = repeat(batch.where, per_query)
    known = None
    if ids is not None:
        of_documents = jnp.concatenate([ids[0][:, :1], ids[1]], axis=1).reshape(-1)
        known = ids[0], of_documents[:, None]
    options = {"temperature": temperature, "axis_name": axis_name}
    terms_B = _log_sum(batch.q, documents, real, known, per_query, **options) - own_B
    if symmetric:
        known = None if ids is None else (ids[0][:, :1], ids[0])
        back_B = _log_sum(batch.p, batch.q, batch.where, known, 1, **options) - own_B
        terms_B = (terms_B + back_B) / 2
    return global_mean(terms_B, batch.where, axis_name)


def _log_sum(a_BxD, b_SxD, where_S, known, per_row, *, temperature, axis_name) -> jax.Array:
    """Returns ``log Σ_j exp(a_i·b_j / t)`` over the real b of all devices, ``[B]``.

    Args:
      known: ids of the rows of a and of b, ``[B, P]`` and ``[S, Q]``. A row of b that shares an id
        with a row of a is left out of that row's sum, except the first of the row's own. None
        leaves nothing out.
      per_row: rows of b per row of a.
    """
    b_CxD, where_C = gather(b_SxD, axis_name), gather(where_S, axis_name)
    rows: tuple[jax.Array, ...] = (a_BxD,)
    if known is not None:
        ids_CxQ = gather(known[1], axis_name)
        first = 0 if axis_name is None else lax.axis_index(axis_name) * len(a_BxD)
        rows += (known[0], (first + jnp.arange(len(a_BxD))) * per_row)

    def log_sum(a_RxD: jax.Array, ids_RxP=None, own_R=None) -> jax.Array:
        logits_RxC = dots(a_RxD, b_CxD) / temperature
        counted = where_C[None, :]
        if ids_RxP is not None and own_R is not None:
            ids = ids_RxP[:, None, :, None]
            same = ((ids == ids_CxQ[None, :, None, :]) & (ids >= 0)).any((2, 3))
            counted &= ~same | (own_R[:, None] == jnp.arange(len(where_C))[None, :])
        return jax.nn.logsumexp(jnp.where(counted, logits_RxC, _MASKED), axis=1)

    return by_blocks(log_sum, rows, len(where_C))
