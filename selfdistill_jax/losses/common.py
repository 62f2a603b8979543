"""Helpers of all losses: input checks, unit vectors, rows of other devices, a masked global mean.

Shape legend: B queries on this device, C queries of the whole batch (C = B without an axis),
D dimensions, K negatives for each query. On several devices, each sums its own rows and one
``psum`` adds up the sums; docs/losses.md says where the gradient may be taken.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

ERRORS = {
    "l2": jnp.square,
    "l1": jnp.abs,
    # log(1 + e^-x), without overflow for large -x.
    "soft": lambda x: jax.nn.softplus(-x),
    # One-sided: a margin beyond its target costs nothing.
    "hinge": lambda x: jax.nn.relu(-x),
    "hinge2": lambda x: jnp.square(jax.nn.relu(-x)),
}


class Batch(NamedTuple):
    """Holds one device's checked vectors and the mask of its real rows."""

    q: jax.Array  # [B, D]
    p: jax.Array  # [B, D]
    n: jax.Array  # [B, K, D]
    where: jax.Array  # [B] bool


def check_choice(name: str, value: str, known) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, known))}")


def check_above_zero(name: str, value: float) -> None:
    # A traced value has no number to compare yet.
    if not isinstance(value, Tracer) and not value > 0:
        raise ValueError(f"{name} is {value}; expected a number above 0")


def unit(x: jax.Array) -> jax.Array:
    """Scales the last axis to length 1; a zero vector stays zero, and its gradient is finite.

    Args:
      x: ``[..., D]`` of any float dtype; its squares must neither overflow nor underflow (in
        float32: lengths of 1e-19 to 1e19).

    Returns:
      ``[..., D]`` of the same dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> unit(jnp.array([[0.0, 4.0], [0.0, 0.0]])).tolist()
      [[0.0, 1.0], [0.0, 0.0]]
    """
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    # Not rsqrt(max(square, tiny)): its gradient at a zero row is inf * 0.
    return x * lax.rsqrt(jnp.where(square > 0, square, 1))


def prepare(q, p, n, *, where, normalize: bool, least: int = 1) -> Batch:
    """Checks shapes, casts to at least float32, normalises, and zeroes the rows that are not real.

    Such a row may hold anything, and a NaN times a weight of 0 would still be NaN.

    Args:
      q, p: ``[B, D]``.
      n: ``[B, D]`` or ``[B, K, D]``; the returned batch has the latter.
      where: ``[B]`` bool or None.
      normalize: scale vectors to unit length.
      least: the fewest negatives per query that the loss accepts.

    Raises:
      ValueError: a shape is wrong, there are no rows, or there are too few negatives.
    """
    q, p, n = (jnp.asarray(x) for x in (q, p, n))
    shapes = q.shape, p.shape, n.shape
    if n.ndim == 2:
        n = n[:, None, :]
    if q.ndim != 2 or q.shape != p.shape or n.ndim != 3 or q.shape != n.shape[::2]:
        raise ValueError(
            "q, p and n must have the same shape [batch, dimensions] (n may be [batch, negatives, "
            f"dimensions]); got {', '.join(map(str, shapes))}"
        )
    if not len(q):
        raise ValueError("q, p and n have no rows; pass at least one, masked by where if need be")
    if n.shape[1] < least:
        raise ValueError(f"n has {n.shape[1]} negatives per query; this loss needs {least} or more")
    where = jnp.ones(q.shape[:1], bool) if where is None else jnp.asarray(where, bool)
    if where.shape != q.shape[:1]:
        raise ValueError(f"where must have shape {q.shape[:1]}; got {where.shape}")
    q, p, n = (zero_masked(at_least_float32(x), where) for x in (q, p, n))
    if normalize:
        q, p, n = unit(q), unit(p), unit(n)
    return Batch(q, p, n, where)


def zero_masked(x: jax.Array, where_B: jax.Array) -> jax.Array:
    """Returns ``[B, ...]`` with zeros in the rows that are not real."""
    return jnp.where(where_B.reshape(-1, *(1,) * (x.ndim - 1)), x, 0)


def at_least_float32(x: jax.Array) -> jax.Array:
    """Casts to at least float32: 3 digits of bfloat16 are too few for margins 0.001 apart."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def teacher_rows(name: str, x: jax.Array, shape: tuple[int, ...], where: jax.Array) -> jax.Array:
    """Returns a teacher's numbers in at least float32, zero in the rows that are not real.

    Raises:
      ValueError: their shape is not ``shape``.
    """
    x = at_least_float32(x)
    if x.shape != shape:
        raise ValueError(f"{name} must have shape {shape}; got {x.shape}")
    return zero_masked(x, where)


def matmul_exact(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns a matrix product at full float32 precision, on TPUs and GPUs too."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns row-wise dot products ``[..., D], [..., D] -> [...]``."""
    return jnp.sum(a * b, axis=-1)


def flat(x: jax.Array) -> jax.Array:
    """Reshapes ``[B, K, D]`` to ``[B K, D]``."""
    return x.reshape(-1, x.shape[-1])


def repeat(x: jax.Array, count: int) -> jax.Array:
    """Repeats each row once per negative, ``[B, ...]`` to ``[B count, ...]``."""
    return x if count == 1 else jnp.repeat(x, count, axis=0)


def dots(a_BxD: jax.Array, b_CxD: jax.Array) -> jax.Array:
    """Returns the dot products of all pairs of rows, ``[B, C]``."""
    return matmul_exact(a_BxD, b_CxD.T)


def margins(batch: Batch) -> jax.Array:
    """Returns how much closer a query is to its positive than to its negatives, ``[B, K]``."""
    return dot(batch.q, batch.p)[:, None] - dot(batch.q[:, None, :], batch.n)


def check_ids(
    batch: Batch, positive_ids: jax.Array | None, negative_ids: jax.Array | None
) -> tuple[jax.Array, jax.Array] | None:
    """Returns the ids of a batch's documents as ``[B, P]`` and ``[B, K]``, or None without ids.

    Raises:
      ValueError: only one of the two is given, or a shape does not fit the batch.
    """
    if positive_ids is None and negative_ids is None:
        return None
    if positive_ids is None or negative_ids is None:
        raise ValueError("only one of positive_ids and negative_ids is given; give both or neither")
    size, count, _ = batch.n.shape
    p, n = jnp.asarray(positive_ids), jnp.asarray(negative_ids)
    p, n = p.reshape(len(p), -1), n.reshape(size, -1) if n.ndim < 2 else n
    if len(p) != size or not p.shape[1] or n.shape != (size, count):
        raise ValueError(
            f"positive_ids must have shape [{size}] or [{size}, positives], and negative_ids "
            f"[{size}, {count}]; got {jnp.shape(positive_ids)} and {jnp.shape(negative_ids)}"
        )
    return p, n


def sigma(similarity: jax.Array) -> jax.Array:
    """Maps cosines in [-1, 1] to relevance margins in [0, 1]; takes any shape.

    Definition:
      ``σ(a, b) = (1 + s(a, b)) / 2``. Source: arXiv 2407.21515, as in its released code.

    Example:
      >>> sigma(-1.0), sigma(0.0), sigma(1.0)
      (0.0, 0.5, 1.0)
    """
    return (1.0 + similarity) / 2.0


def gather(x: jax.Array, axis_name: str | tuple[str, ...] | None) -> jax.Array:
    """Returns the rows of all devices in device order, ``[B, ...] -> [C, ...]``."""
    return x if axis_name is None else lax.all_gather(x, axis_name, tiled=True)


def psum(x: jax.Array, axis_name: str | tuple[str, ...] | None) -> jax.Array:
    return x if axis_name is None else lax.psum(x, axis_name)


def global_mean(
    terms: jax.Array, where: jax.Array | None = None, axis_name: str | tuple[str, ...] | None = None
) -> jax.Array:
    """Returns the mean of the real terms over all devices; 0, with zero gradient, without any.

    A custom loss that compares only the documents of one triplet needs no other communication
    between devices.

    Args:
      terms: ``[B]`` or ``[B, K]``; values and gradients must be finite in masked rows too.
      where: ``[B]`` bool, the real rows; None means all.
      axis_name: mapped axis, or axes, over which the batch is spread.

    Returns:
      Scalar of the terms' dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> float(global_mean(jnp.array([1.0, 2.0, 9.0]), jnp.array([True, True, False])))
      1.5
    """
    where = jnp.ones(terms.shape[:1], bool) if where is None else jnp.asarray(where, bool)
    where = where.reshape(where.shape + (1,) * (terms.ndim - where.ndim))
    where = jnp.broadcast_to(where, terms.shape)
    count = psum(jnp.sum(where, dtype=terms.dtype), axis_name)
    return psum(jnp.sum(terms, where=where), axis_name) / jnp.maximum(count, 1)
