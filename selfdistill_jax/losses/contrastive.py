"""The contrastive baseline, softmax over the documents of the whole batch, and its variants."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from selfdistill_jax.losses.common import (
    at_least_float32,
    check_above_zero,
    check_ids,
    dot,
    dots,
    flat,
    gather,
    global_mean,
    prepare,
    repeat,
    sigma,
    unit,
    zero_masked,
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
    joint: bool = False,
    margin: float = 0.0,
    document_margin: float = 0.0,
    hardness: float = 0.0,
    smoothing: float = 0.0,
    privileged: float = 0.0,
    document_temperature: float = 0.05,
    mask_above: float = 1.0,
    guide: float = 2.0,
    stop_gradient: bool = False,
    target_from: tuple[jax.Array, jax.Array] | None = None,
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
      ``mean_i −log(exp(s(q_i,p_i)/t) / Σ_j exp(s(q_j,p_i)/t))``. ``joint``: the sum also has
      ``exp(s(q_j,p_i)/t)`` of all queries, ``exp(s(q_i,q_j)/t)`` of the other queries, and
      ``exp(s(p_i,x)/t)`` of the other queries' documents x. With ids, a document that is a positive
      of query i is left out of that query's sum, except ``p_i`` itself. It is computed block by
      block, so that memory does not grow with the square of the batch. Source: arXiv 1807.03748;
      with hard negatives, arXiv 2004.04906; symmetric, arXiv 2103.00020; joint, arXiv 2308.03281.

    With x over the other documents of query i, ``d_ix = s(p_i, x)`` and ``[·]`` without gradient:

    * ``margin``, ``document_margin`` (λ): x has the logit ``(s(q_i,x) + margin + λ σ(d_ix))/t``;
    * ``hardness`` (α): x also counts ``exp(α [s(q_i,x)])`` times, divided by the mean over x (arXiv
      2010.04592);
    * ``smoothing`` (ε): the classes' probabilities are ``1 − ε`` for ``p_i`` and ``ε w_ix`` for x,
      ``w_i = softmax_x(d_ix / t₂)`` (arXiv 2305.15720);
    * ``privileged`` (β): adds ``β KL(w_i ‖ softmax_x(s(q_i,x) / t))``, the positive in the role of
      the query;
    * ``mask_above`` (θ): leaves out x with ``d_ix > θ``; ``guide`` (δ): leaves out x with
      ``s(q_i,x) > s(q_i,p_i) + δ`` (arXiv 2402.16829, with the trained encoder as the guide).

    Args:
      q: ``[B, D]`` query vectors of any float dtype.
      p: ``[B, D]`` vectors of their positives.
      n: ``[B, D]`` vectors of their negatives, or ``[B, K, D]``, K per query; K may be 0.
      temperature: t, above 0.
      symmetric: also compare each positive with all queries.
      joint: also compare queries with queries and positives with documents.
      margin, document_margin, hardness, smoothing, privileged: see above; 0 changes nothing.
      document_temperature: t₂, above 0.
      mask_above: θ; 1 leaves nothing out.
      guide: δ; 2 leaves nothing out.
      stop_gradient: treat every ``d_ix`` as a constant.
      target_from: ``(p, n)`` of another encoder, in the shapes of p and n; its constant
        similarities replace ``d_ix``.
      positive_ids: ``[B]`` int32 ids of the positives, or ``[B, P]`` ids of all documents that are
        known to answer the query: its own positive first, padded with -1.
      negative_ids: ``[B]`` or ``[B, K]`` int32 ids of the negatives; given with positive_ids.
      normalize: scale the inputs to unit length first; a zero vector stays zero, with cosines of 0.
      where: ``[B]`` bool, the real rows; None means all. Without real rows the loss is 0.
      axis_name: mapped axis, or axes, over which the batch is spread.

    Returns:
      Scalar, float32 (float64 for float64 inputs).

    Raises:
      ValueError: the shapes do not match, a temperature is not above 0, ``joint`` is set with an
        option that it excludes, or ``target_from`` or ``stop_gradient`` without one that uses it.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([[1.0, 0.0]])
      >>> round(float(softmax(x, x, x)), 4)  # positive and negative alike: log 2
      0.6931
    """
    check_above_zero("temperature", temperature)
    check_above_zero("document_temperature", document_temperature)
    if joint and (symmetric or smoothing or privileged):
        raise ValueError("joint excludes the options symmetric, smoothing and privileged")
    batch = prepare(q, p, n, where=where, normalize=normalize, least=0)
    per_query = 1 + batch.n.shape[1]
    ids = check_ids(batch, positive_ids, negative_ids)
    own_B = dot(batch.q, batch.p) / temperature
    real = repeat(batch.where, per_query)
    known = None
    if ids is not None:
        of_documents = jnp.concatenate([ids[0][:, :1], ids[1]], axis=1).reshape(-1)
        known = ids[0], of_documents[:, None]
    variant = _Variant(margin, document_margin, hardness, smoothing, privileged, mask_above, guide)
    targets = None
    if variant.uses_documents:
        targets = batch.p, batch.n
        if target_from is not None:
            targets = tuple(zero_masked(at_least_float32(x), batch.where) for x in target_from)
            targets = targets[0], targets[1].reshape(batch.n.shape[:2] + targets[1].shape[-1:])
            if normalize:
                targets = unit(targets[0]), unit(targets[1])
        if stop_gradient or target_from is not None:
            targets = lax.stop_gradient(targets)
    elif target_from is not None or stop_gradient:
        raise ValueError(
            "a target is set (target_from or stop_gradient), but no option that compares documents "
            "is set: document_margin, smoothing, privileged or mask_above"
        )
    options: Any = {"temperature": temperature, "axis_name": axis_name}
    terms_B = _compare(
        batch.q,
        _documents(batch.p, batch.n),
        real,
        known,
        per_query,
        own=own_B,
        variant=variant,
        targets=None if targets is None else (targets[0], _documents(*targets)),
        document_temperature=document_temperature,
        **options,
    )
    plain = partial(
        _compare, own=own_B, variant=_Variant(), targets=None, document_temperature=1.0, **options
    )
    own, every = (None, None) if ids is None else (ids[0][:, :1], ids[0])
    if symmetric or joint:
        to_queries_B = plain(batch.p, batch.q, batch.where, ids and (own, every), 1)
    if symmetric:
        terms_B = (terms_B + to_queries_B) / 2
    if joint:
        among_queries_B = plain(batch.q, batch.q, batch.where, ids and (every, own), 1)
        documents = _documents(batch.p, batch.n)
        among_documents_B = plain(batch.p, documents, real, known, per_query, own_group=True)
        terms_B = _joint(terms_B, to_queries_B, among_queries_B, among_documents_B)
    return global_mean(terms_B, batch.where, axis_name)


class _Variant(NamedTuple):
    """Holds the options that change the plain loss; the defaults change nothing."""

    margin: float = 0.0
    document_margin: float = 0.0
    hardness: float = 0.0
    smoothing: float = 0.0
    privileged: float = 0.0
    mask_above: float = 1.0
    guide: float = 2.0

    @property
    def uses_documents(self) -> bool:
        """Returns whether any option compares documents with each other."""
        return bool(
            self.document_margin or self.smoothing or self.privileged or self.mask_above < 1
        )


def _documents(p_BxD: jax.Array, n_BxKxD: jax.Array) -> jax.Array:
    """Returns all documents, each positive followed by its negatives, ``[B (1 + K), D]``."""
    return flat(jnp.concatenate([p_BxD[:, None, :], n_BxKxD], axis=1))


def _joint(terms_B, to_queries_B, *others: jax.Array) -> jax.Array:
    """Returns the terms of one sum over all directions.

    A term is ``log(1 + S / exp(own))``, S the sum of one direction; 1 counts in the first two only.
    """
    every = jnp.stack([terms_B, to_queries_B, *others])
    top_B = lax.stop_gradient(jnp.max(every, axis=0))
    return top_B + jnp.log(
        jnp.sum(jnp.exp(every - top_B[None]), axis=0) - len(others) * jnp.exp(-top_B)
    )


def _compare(
    a_BxD,
    b_SxD,
    where_S,
    known,
    per_row,
    *,
    own,
    variant: _Variant,
    targets,
    document_temperature,
    temperature,
    axis_name,
    own_group: bool = False,
) -> jax.Array:
    """Returns each row's cross-entropy among the real b of all devices, ``[B]``.

    Args:
      a_BxD: rows, such as queries.
      b_SxD: candidates; the first of each row's ``per_row`` is the right one.
      where_S: real candidates.
      known: ids of the rows of a and of b, ``[B, P]`` and ``[S, Q]``. A row of b that shares an id
        with a row of a is left out for that row, except the right one. None leaves nothing out.
      per_row: rows of b per row of a.
      own: ``[B]`` logits of the right candidates.
      variant: options of `softmax`.
      own_group: whether all ``per_row`` candidates of a row are left out, not the right one alone.
      targets: vectors whose products are ``d``, of the rows of a and of b; None if not used.
    """
    b_CxD, where_C = gather(b_SxD, axis_name), gather(where_S, axis_name)
    first = 0 if axis_name is None else lax.axis_index(axis_name) * len(a_BxD)
    rows = {"a": a_BxD, "own": own, "at": (first + jnp.arange(len(a_BxD))) * per_row}
    if known is not None:
        ids_CxQ = gather(known[1], axis_name)
        rows["ids"] = known[0]
    if targets is not None:
        target_CxF = gather(targets[1], axis_name)
        rows["target"] = targets[0]

    def terms(*blocks: jax.Array) -> jax.Array:
        row = dict(zip(rows, blocks, strict=True))
        s_RxC = dots(row["a"], b_CxD)
        offset = jnp.arange(len(where_C))[None, :] - row["at"][:, None]
        is_own = (offset >= 0) & (offset < (per_row if own_group else 1))
        others = where_C[None, :] & ~is_own
        if known is not None:
            ids = row["ids"][:, None, :, None]
            others &= ~((ids == ids_CxQ[None, :, None, :]) & (ids >= 0)).any((2, 3))
        d_RxC = dots(row["target"], target_CxF) if targets is not None else jnp.zeros(())
        return _cross_entropy(
            s_RxC, d_RxC, row["own"], others, variant, temperature, document_temperature
        )

    return by_blocks(terms, tuple(rows.values()), len(where_C))


def _cross_entropy(
    s_RxC, d_RxC, own_R, others, variant: _Variant, temperature, document_temperature
) -> jax.Array:
    """Returns ``[R]`` terms from similarities, the right candidates' logits and the others."""
    fixed_RxC = lax.stop_gradient(s_RxC)
    if variant.mask_above < 1:
        others &= lax.stop_gradient(d_RxC) <= variant.mask_above
    if variant.guide < 2:
        others &= fixed_RxC <= lax.stop_gradient(own_R * temperature)[:, None] + variant.guide

    def among_others(x_RxC: jax.Array) -> jax.Array:
        return jnp.where(others, x_RxC, _MASKED)

    logits_RxC = s_RxC / temperature
    if variant.margin:
        logits_RxC += variant.margin / temperature
    if variant.document_margin:
        logits_RxC += variant.document_margin * sigma(d_RxC) / temperature
    if variant.hardness:
        counts_RxC = among_others(variant.hardness * fixed_RxC)
        number_R = jnp.maximum(jnp.sum(others, axis=1), 1)
        mean_R = jax.nn.logsumexp(counts_RxC, axis=1) - jnp.log(number_R)
        logits_RxC += variant.hardness * fixed_RxC - mean_R[:, None]
    logits_RxC = among_others(logits_RxC)
    all_R = jnp.logaddexp(own_R, jax.nn.logsumexp(logits_RxC, axis=1))
    if not (variant.smoothing or variant.privileged):
        return all_R - own_R
    log_w_RxC = jax.nn.log_softmax(among_others(d_RxC / document_temperature), axis=1)
    w_RxC = jnp.where(others, jnp.exp(log_w_RxC), 0)
    some_R = others.any(axis=1)
    mean_R = jnp.sum(w_RxC * jnp.where(others, logits_RxC, 0), axis=1)
    epsilon_R = jnp.where(some_R, variant.smoothing, 0.0)
    terms_R = all_R - (1 - epsilon_R) * own_R - epsilon_R * mean_R
    if variant.privileged:
        log_q_RxC = jax.nn.log_softmax(among_others(s_RxC / temperature), axis=1)
        divergence_RxC = jnp.where(others, w_RxC * (log_w_RxC - log_q_RxC), 0)
        terms_R += variant.privileged * jnp.sum(divergence_RxC, axis=1)
    return terms_R
