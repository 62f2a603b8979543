"""Attention within the rows of a block, forwards and backwards.

Written out because its layout decides its speed on a CPU: head-major operands (``[S, L, K]``)
run 128 rows of 128 tokens in 20 ms where `jax.nn.dot_product_attention` (time-major) takes 130 ms
on the same two cores, and the backward pass of autodiff multiplies transposed operands, which fall
back to a slow product. What the backward pass needs of the forward is the result and the logarithm
of each token's sum of weights; weights are computed anew (arXiv 2205.14135, section 3).

Shape legend: T tokens of a block, R rows of L tokens, H heads, K head size, D = H K, S = R H.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from selfdistill_jax.encoder.dropout import drop_weights
from selfdistill_jax.encoder.products import product, rearranged, transposed
from selfdistill_jax.encoder.relative import by_distance, square

# Who computes it: this module, or `jax.nn.dot_product_attention` by one of its implementations.
ATTENTIONS = ("own", "xla", "cudnn")
# Finite, so that a row without any token stays free of NaN; exp() of it is 0 in float32.
_MASKED = -1e9


class Block(NamedTuple):
    """What a layer knows of a block's tokens besides their hidden states.

    Attributes:
      texts: ``[T]`` int32; tokens of one number see each other.
      positions: ``[T]`` int32, places within texts.
      row: int32, which of the row lengths the block is cut into.
      seeds: ``[T]`` uint32, of what is dropped of a token; None drops nothing.
    """

    texts: jax.Array
    positions: jax.Array
    row: jax.Array
    seeds: jax.Array | None = None


class Sight(NamedTuple):
    """What of a text a layer's tokens see, besides what all layers do.

    Attributes:
      window: int32, positions to either side; None for the whole text.
      seeds: ``[T]`` uint32, of the weights that are dropped; None drops nothing.
    """

    window: jax.Array | None = None
    seeds: jax.Array | None = None


WHOLE_TEXT = Sight()


def attend(
    qkv_Tx3D: jax.Array,
    block: Block,
    *,
    heads: int,
    row_lengths: tuple[int, ...],
    bias_OxH: jax.Array | None = None,
    sight: Sight = WHOLE_TEXT,
    drop: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Softmax attention; scores, softmax and sums in float32.

    Args:
      qkv_Tx3D: queries, keys and values side by side.
      block: of these tokens.
      heads: H.
      row_lengths: one of which ``block.row`` names.
      bias_OxH: added to scores by the distance of two tokens, see `relative`; float32.
      sight: of this layer.
      drop: the share of weights that is dropped.

    Returns:
      ``[T, D]`` of the same dtype, and ``[T, H]`` float32 logarithms of the sums of weights, for
      `attend_backward`.
    """
    branches = [partial(_attend, length=length, heads=heads, drop=drop) for length in row_lengths]
    return lax.switch(block.row, branches, qkv_Tx3D, block, sight, bias_OxH)


def attend_backward(
    qkv_Tx3D: jax.Array,
    block: Block,
    out_TxD: jax.Array,
    log_sum_TxH: jax.Array,
    g_TxD: jax.Array,
    *,
    row_lengths: tuple[int, ...],
    bias_OxH: jax.Array | None = None,
    sight: Sight = WHOLE_TEXT,
    drop: float = 0.0,
) -> tuple[jax.Array, jax.Array | None]:
    """Gradients with respect to ``qkv`` and the bias from that with respect to the result."""
    branches = [partial(_attend_backward, length=length, drop=drop) for length in row_lengths]
    operands = (qkv_Tx3D, block, sight, out_TxD, log_sum_TxH, g_TxD, bias_OxH)
    return lax.switch(block.row, branches, *operands)


def attend_by_jax(
    qkv_Tx3D: jax.Array,
    block: Block,
    *,
    heads: int,
    row_lengths: tuple[int, ...],
    implementation: str,
    bias_OxH: jax.Array | None = None,
    sight: Sight = WHOLE_TEXT,
) -> jax.Array:
    """`attend` by `jax.nn.dot_product_attention`, differentiated as that is; nothing is dropped.

    Args:
      qkv_Tx3D, block, heads, row_lengths, bias_OxH, sight: as of `attend`.
      implementation: "xla" or "cudnn", which needs an NVIDIA GPU, bfloat16, and heads of a multiple
        of 8 and at most 128.

    Returns:
      ``[T, D]`` of the same dtype.
    """

    def branch(length: int, qkv: jax.Array, block: Block, sight: Sight, bias_OxH):
        q, k, v = (
            x.reshape(-1, length, heads, x.shape[-1] // heads) for x in jnp.split(qkv, 3, -1)
        )
        bias = None if bias_OxH is None else square(bias_OxH, length)[None].astype(qkv.dtype)
        mask = _seen(block, sight, length)[:, None]
        mixed = jax.nn.dot_product_attention(q, k, v, bias, mask, implementation=implementation)
        return mixed.reshape(len(qkv), -1)

    branches = [partial(branch, length) for length in row_lengths]
    return lax.switch(block.row, branches, qkv_Tx3D, block, sight, bias_OxH)


def _heads(x_Txn: jax.Array, length: int, heads: int, count: int) -> tuple[jax.Array, ...]:
    """``[T, count D]`` to so many ``[S, L, K]``."""

    def move(x):
        size = x.shape[-1] // (count * heads)
        parts = (part.reshape(-1, length, heads, size) for part in jnp.split(x, count, axis=-1))
        return tuple(part.transpose(0, 2, 1, 3).reshape(-1, length, size) for part in parts)

    return rearranged(move, x_Txn)


def _flat(x_SxLxK: jax.Array, heads: int) -> jax.Array:
    """The inverse, of one: ``[T, D]``."""
    _, length, size = x_SxLxK.shape
    x_RxHxLxK = x_SxLxK.reshape(-1, heads, length, size)
    return x_RxHxLxK.transpose(0, 2, 1, 3).reshape(-1, heads * size)


def _per_row(x_TxH: jax.Array, length: int) -> jax.Array:
    """``[T, H]`` to ``[S, L]``."""
    heads = x_TxH.shape[-1]
    return x_TxH.reshape(-1, length, heads).transpose(0, 2, 1).reshape(-1, length)


def _seen(block: Block, sight: Sight, length: int) -> jax.Array:
    """``[R, L, L]`` bool, which tokens see each other."""

    def of_pairs(x_T: jax.Array, compare: Callable) -> jax.Array:
        x_RxL = x_T.reshape(-1, length)
        return compare(x_RxL[:, :, None], x_RxL[:, None, :])

    seen_RxLxL = of_pairs(block.texts, jnp.equal)
    if sight.window is not None:
        seen_RxLxL &= jnp.abs(of_pairs(block.positions, jnp.subtract)) <= sight.window
    return seen_RxLxL


def _masked(x_SxLxL: jax.Array, block: Block, sight: Sight, other: float) -> jax.Array:
    """``other`` where two tokens do not see each other."""
    length = x_SxLxL.shape[-1]
    seen_RxLxL = _seen(block, sight, length)
    per_row = x_SxLxL.reshape(len(seen_RxLxL), -1, length, length)
    return jnp.where(seen_RxLxL[:, None], per_row, other).reshape(x_SxLxL.shape)


def _biased(scores_SxLxL: jax.Array, bias_HxLxL: jax.Array) -> jax.Array:
    per_row = scores_SxLxL.reshape(-1, *bias_HxLxL.shape)
    return (per_row + bias_HxLxL[None]).reshape(scores_SxLxL.shape)


def _attend(
    qkv_Tx3D: jax.Array, block: Block, sight: Sight, bias_OxH, *, length: int, heads: int, drop
):
    q, k, v = _heads(qkv_Tx3D, length, heads, 3)
    scores = product(q, k, transpose_b=True) * q.shape[-1] ** -0.5
    if bias_OxH is not None:
        scores = _biased(scores, square(bias_OxH, length))
    scores = _masked(scores, block, sight, _MASKED)
    highest = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - highest)
    total = weights.sum(-1, keepdims=True)
    weights = drop_weights(weights, sight.seeds, block.positions, drop)
    # Dividing L x K sums instead of L x L weights: the smaller array.
    mixed = (product(weights.astype(v.dtype), v) / total).astype(v.dtype)
    return _flat(mixed, heads), _flat(highest + jnp.log(total), heads)


def _attend_backward(
    qkv_Tx3D, block, sight, out_TxD, log_sum_TxH, g_TxD, bias_OxH, *, length: int, drop
):
    """Keys run along the rows of the square matrices: three of four products need it so."""
    heads = log_sum_TxH.shape[-1]
    q, k, v = _heads(qkv_Tx3D, length, heads, 3)
    (g,) = _heads(g_TxD, length, heads, 1)
    dtype, scale = v.dtype, q.shape[-1] ** -0.5
    inner = out_TxD.astype(jnp.float32) * g_TxD.astype(jnp.float32)
    inner_TxH = inner.reshape(len(inner), heads, -1).sum(-1)
    log_sum, inner = (_per_row(x, length)[:, None, :] for x in (log_sum_TxH, inner_TxH))
    scores = product(k, q, transpose_b=True) * scale - log_sum
    if bias_OxH is not None:
        scores = _biased(scores, square(bias_OxH[::-1], length))
    weights = _masked(jnp.exp(scores), block, sight, 0.0)

    def dropped(x: jax.Array) -> jax.Array:
        return drop_weights(x, sight.seeds, block.positions, drop, keys_first=True)

    back_v = product(dropped(weights).astype(dtype), g)
    back_scores = weights * (dropped(product(v, g, transpose_b=True)) - inner)
    back_bias = None
    if bias_OxH is not None:
        of_rows = back_scores.reshape(-1, heads, length, length).sum(0)
        back_bias = by_distance(of_rows, (len(bias_OxH) + 1) // 2)[::-1]
    back_scores = back_scores.astype(dtype)
    back_k = product(back_scores, q) * scale
    back_q = product(transposed(back_scores), k) * scale
    back = [_flat(x.astype(dtype), heads) for x in (back_q, back_k, back_v)]
    return jnp.concatenate(back, axis=-1), back_bias
