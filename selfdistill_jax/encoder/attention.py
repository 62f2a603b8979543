"""Computes attention within packed rows, in one of several ways.

Shape legend: T tokens, R rows of L tokens, H heads, K head size, D = H K.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from selfdistill_jax.encoder.precision import precision
from selfdistill_jax.encoder.tpu.row_attention import row_attention, supports

# auto: "pallas" on TPUs if it supports the shapes, otherwise "own". own: the reference, below.
# pallas: the TPU kernel, which other devices interpret (slowly). xla, cudnn: implementations of
# `jax.nn.dot_product_attention`.
ATTENTIONS = ("auto", "own", "pallas", "xla", "cudnn")


def attend(
    qkv_Tx3D: jax.Array,
    segments_RxL: jax.Array,
    bias_HxLxL: jax.Array | None,
    window: jax.Array | None,
    *,
    heads: int,
    implementation: str,
    drop: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """Computes softmax attention of each token over the tokens of its text, ``[T, D]``.

    Args:
      qkv_Tx3D: queries, keys and values side by side; softmax is float32.
      segments_RxL: int32 number of each token's text; the tokens of a text are contiguous.
      bias_HxLxL: float32, added to the scores of all rows; or None.
      window: int32, distance to which a token attends on either side; or None.
      heads: H.
      implementation: one of `ATTENTIONS`; "cudnn" needs an NVIDIA GPU, bfloat16, and a head size
        that is a multiple of 8 and at most 128.
      drop: drops some of the weights ``[R, H, L, L]``; "own" and "auto" only.

    Raises:
      ValueError: "pallas" does not support the shapes.
    """
    length, head_size = segments_RxL.shape[1], qkv_Tx3D.shape[1] // (3 * heads)
    fits = supports(length=length, heads=heads, head_size=head_size)
    if implementation == "pallas" and not fits:
        raise ValueError(
            f"attention 'pallas' does not support rows of {length} tokens with {heads} heads of "
            f"{head_size}; use 'auto'"
        )
    arguments = qkv_Tx3D, segments_RxL, bias_HxLxL, window
    if implementation == "pallas":
        return row_attention(*arguments, heads)
    if implementation == "auto" and fits and drop is None:
        return row_attention(*arguments, heads, _own)
    if implementation in ("auto", "own"):
        return _own(*arguments, heads=heads, drop=drop)
    q, k, v = _split(qkv_Tx3D, segments_RxL, heads)
    bias = None if bias_HxLxL is None else bias_HxLxL[None].astype(q.dtype)
    mask, how = _sees(segments_RxL, window)[:, None], implementation
    mixed = jax.nn.dot_product_attention(q, k, v, bias, mask, implementation=how)  # ty: ignore
    return mixed.reshape(len(qkv_Tx3D), -1)


def _own(qkv, segments, bias, window, *, heads: int, drop=None) -> jax.Array:
    q, k, v = _split(qkv, segments, heads)
    multiply = partial(jnp.einsum, precision=precision(qkv.dtype))
    scores = multiply("rqhk,rshk->rhqs", q, k, preferred_element_type=jnp.float32)
    scores *= q.shape[-1] ** -0.5
    if bias is not None:
        scores += bias[None]
    weights = jax.nn.softmax(scores, axis=-1, where=_sees(segments, window)[:, None])
    if drop is not None:
        weights = drop(weights)
    return multiply("rhqs,rshk->rqhk", weights.astype(qkv.dtype), v).reshape(len(qkv), -1)


def _split(qkv: jax.Array, segments: jax.Array, heads: int) -> jax.Array:
    """Returns queries, keys and values, ``[3, R, L, H, K]``."""
    return jnp.moveaxis(qkv.reshape(*segments.shape, 3, heads, -1), 2, 0)


def _sees(segments: jax.Array, window: jax.Array | None) -> jax.Array:
    """Returns ``[R, L, L]`` bool: whether a token attends to another."""
    sees = segments[:, :, None] == segments[:, None, :]
    if window is None:
        return sees
    places = jnp.arange(segments.shape[1])  # within a text, distances are those in the row
    return sees & (jnp.abs(places[:, None] - places[None]) <= window)[None]
