"""Computes attention within the rows of a block, forward and backward.

It is written out because its layout decides its speed on a CPU: head-major operands (``[S, L, K]``)
run 128 rows of 128 tokens in 20 ms where `jax.nn.dot_product_attention` (time-major) takes 130 ms
on the same two cores, and the backward pass of autodiff multiplies transposed operands, which fall
back to a slow product. The forward pass stores its result and the logarithm of each token's sum of
weights; the backward pass computes the weights again (arXiv 2205.14135, section 3).

Shape legend: T tokens of a block, R rows of L tokens, H heads, K head size, D = H K, S = R H.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from selfdistill_jax.encoder.cpu.matmul import hidden_from_xla, product, transposed
from selfdistill_jax.encoder.cpu.row_groups import by_rows
from selfdistill_jax.encoder.dropout import drop_weights
from selfdistill_jax.encoder.positions import by_distance, square

# Finite, so that a row without tokens gives no NaN; its exp() is 0 in float32.
_MASKED = -1e9


class TokenInfo(NamedTuple):
    """Holds the data about a block's tokens that layers need besides hidden states.

    Attributes:
      segment_ids: ``[T]`` int32; tokens with the same number attend to each other.
      positions: ``[T]`` int32, positions within texts.
      row_kind: int32, index of the block's row length in ``row_lengths``.
      seeds: ``[T]`` uint32 seeds of dropout; None drops nothing.
    """

    segment_ids: jax.Array
    positions: jax.Array
    row_kind: jax.Array | None
    seeds: jax.Array | None = None


class LayerMask(NamedTuple):
    """Holds a layer's own limits of attention within a text.

    Attributes:
      window: int32, positions to either side; None for the whole text.
      seeds: ``[T]`` uint32 seeds of the dropout of weights; None drops nothing.
    """

    window: jax.Array | None = None
    seeds: jax.Array | None = None


WHOLE_TEXT = LayerMask()


def attend(
    qkv_Tx3D: jax.Array,
    block: TokenInfo,
    *,
    heads: int,
    row_lengths: tuple[int, ...],
    bias_OxH: jax.Array | None = None,
    sight: LayerMask = WHOLE_TEXT,
    drop: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Computes softmax attention, with scores, softmax and sums in float32.

    Args:
      qkv_Tx3D: queries, keys and values side by side.
      block: data about these tokens.
      heads: H.
      row_lengths: the possible row lengths; ``block.row_kind`` is an index into them.
      bias_OxH: float32 bias of scores by the distance of two tokens, see `positions`.
      sight: the layer's limits of attention.
      drop: share of weights to drop.

    Returns:
      ``[T, D]`` of the dtype of ``qkv``, and ``[T, H]`` float32 logarithms of the sums of weights,
      for `attend_backward`.
    """
    branches = [partial(_attend, length=length, heads=heads, drop=drop) for length in row_lengths]
    return lax.switch(block.row_kind, branches, qkv_Tx3D, block, sight, bias_OxH)


def attend_backward(
    qkv_Tx3D: jax.Array,
    block: TokenInfo,
    out_TxD: jax.Array,
    log_sum_TxH: jax.Array,
    g_TxD: jax.Array,
    *,
    row_lengths: tuple[int, ...],
    bias_OxH: jax.Array | None = None,
    sight: LayerMask = WHOLE_TEXT,
    drop: float = 0.0,
) -> tuple[jax.Array, jax.Array | None]:
    """Returns the gradients with respect to ``qkv`` and bias, given the result's gradient ``g``."""
    branches = [partial(_attend_backward, length=length, drop=drop) for length in row_lengths]
    operands = (qkv_Tx3D, block, sight, out_TxD, log_sum_TxH, g_TxD, bias_OxH)
    return lax.switch(block.row_kind, branches, *operands)


def _heads(x_Txn: jax.Array, length: int, heads: int, count: int) -> tuple[jax.Array, ...]:
    """Splits ``[T, count D]`` into ``count`` arrays ``[S, L, K]``."""

    def move(x):
        size = x.shape[-1] // (count * heads)
        parts = (part.reshape(-1, length, heads, size) for part in jnp.split(x, count, axis=-1))
        return tuple(part.transpose(0, 2, 1, 3).reshape(-1, length, size) for part in parts)

    return hidden_from_xla(move, x_Txn)


def _flat(x_SxLxK: jax.Array, heads: int) -> jax.Array:
    """Returns the inverse of `_heads` for one array: ``[T, D]``."""
    _, length, size = x_SxLxK.shape
    x_RxHxLxK = x_SxLxK.reshape(-1, heads, length, size)
    return x_RxHxLxK.transpose(0, 2, 1, 3).reshape(-1, heads * size)


def _per_row(x_TxH: jax.Array, length: int) -> jax.Array:
    """Reshapes ``[T, H]`` to ``[S, L]``."""
    heads = x_TxH.shape[-1]
    return x_TxH.reshape(-1, length, heads).transpose(0, 2, 1).reshape(-1, length)


def _of_tokens(block: TokenInfo, sight: LayerMask) -> tuple[TokenInfo, jax.Array | None]:
    """Returns the data that differs between tokens, with a leading axis of T, for `by_rows`."""
    return TokenInfo(block.segment_ids, block.positions, row_kind=None), sight.seeds


def _seen(block: TokenInfo, window: jax.Array | None, length: int) -> jax.Array:
    """Returns ``[R, L, L]`` bool: which tokens attend to each other."""

    def of_pairs(x_T: jax.Array, compare: Callable) -> jax.Array:
        x_RxL = x_T.reshape(-1, length)
        return compare(x_RxL[:, :, None], x_RxL[:, None, :])

    seen_RxLxL = of_pairs(block.segment_ids, jnp.equal)
    if window is not None:
        seen_RxLxL &= jnp.abs(of_pairs(block.positions, jnp.subtract)) <= window
    return seen_RxLxL


def _masked(x_SxLxL: jax.Array, seen_RxLxL: jax.Array, other: float) -> jax.Array:
    """Returns ``x``, with ``other`` where two tokens do not attend to each other."""
    length = x_SxLxL.shape[-1]
    per_row = x_SxLxL.reshape(len(seen_RxLxL), -1, length, length)
    return jnp.where(seen_RxLxL[:, None], per_row, other).reshape(x_SxLxL.shape)


def _biased(scores_SxLxL: jax.Array, bias_HxLxL: jax.Array) -> jax.Array:
    per_row = scores_SxLxL.reshape(-1, *bias_HxLxL.shape)
    return (per_row + bias_HxLxL[None]).reshape(scores_SxLxL.shape)


def _attend(
    qkv_Tx3D: jax.Array,
    block: TokenInfo,
    sight: LayerMask,
    bias_OxH: jax.Array | None,
    *,
    length: int,
    heads: int,
    drop: float,
):
    bias_HxLxL = None if bias_OxH is None else square(bias_OxH, length)

    def core(of_heads, of_tokens):
        (q, k, v), (block, seeds) = of_heads, of_tokens
        seen = _seen(block, sight.window, length)
        scores = product(q, k, transpose_b=True) * q.shape[-1] ** -0.5
        if bias_HxLxL is not None:
            scores = _biased(scores, bias_HxLxL)
        scores = _masked(scores, seen, _MASKED)
        highest = scores.max(-1, keepdims=True)
        weights = jnp.exp(scores - highest)
        total = weights.sum(-1, keepdims=True)
        weights = drop_weights(weights, seeds, block.positions, drop)
        mixed = product(weights.astype(v.dtype), v)
        # Divides the L x K sums, not the L x L weights: the smaller array.
        return ((mixed / total).astype(v.dtype), highest + jnp.log(total)), ()

    of_heads = _heads(qkv_Tx3D, length, heads, 3)
    (mixed, log_sum), _ = by_rows(core, of_heads, _of_tokens(block, sight), heads=heads)
    return _flat(mixed, heads), _flat(log_sum, heads)


def _attend_backward(
    qkv_Tx3D,
    block: TokenInfo,
    sight: LayerMask,
    out_TxD,
    log_sum_TxH,
    g_TxD,
    bias_OxH,
    *,
    length: int,
    drop: float,
):
    """Computes the gradients for one row length.

    Square matrices are keys by queries, as three of the four products need them.
    """
    heads = log_sum_TxH.shape[-1]
    dtype = qkv_Tx3D.dtype
    bias_HxLxL = None if bias_OxH is None else square(bias_OxH[::-1], length)

    def core(of_heads, of_tokens):
        (q, k, v, g, log_sum, inner), (block, seeds) = of_heads, of_tokens
        log_sum, inner = log_sum[:, None, :], inner[:, None, :]
        scale = q.shape[-1] ** -0.5
        scores = product(k, q, transpose_b=True) * scale - log_sum
        if bias_HxLxL is not None:
            scores = _biased(scores, bias_HxLxL)
        weights = _masked(jnp.exp(scores), _seen(block, sight.window, length), 0.0)

        def dropped(x: jax.Array) -> jax.Array:
            return drop_weights(x, seeds, block.positions, drop, keys_first=True)

        back_v = product(dropped(weights).astype(dtype), g)
        back_scores = weights * (dropped(product(v, g, transpose_b=True)) - inner)
        back_bias = None
        if bias_HxLxL is not None:
            back_bias = back_scores.reshape(-1, *bias_HxLxL.shape).sum(0)
        back_scores = back_scores.astype(dtype)
        back_k = product(back_scores, q) * scale
        back_q = product(transposed(back_scores), k) * scale
        back = tuple(x.astype(dtype) for x in (back_q, back_k, back_v))
        return back, back_bias

    inner = out_TxD.astype(jnp.float32) * g_TxD.astype(jnp.float32)
    inner_TxH = inner.reshape(len(inner), heads, -1).sum(-1)
    of_heads = (
        *_heads(qkv_Tx3D, length, heads, 3),
        *_heads(g_TxD, length, heads, 1),
        *(_per_row(x, length) for x in (log_sum_TxH, inner_TxH)),
    )
    back, back_bias = by_rows(core, of_heads, _of_tokens(block, sight), heads=heads)
    if back_bias is not None:
        back_bias = by_distance(back_bias, (len(bias_OxH) + 1) // 2)[::-1]
    return jnp.concatenate([_flat(x, heads) for x in back], axis=-1), back_bias
