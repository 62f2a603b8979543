"""What every loss shares: checked unit vectors, other devices' rows, a masked global mean.

Shape legend: B triplets on this device, C triplets of the whole batch (C = B without an axis),
D dimensions. A loss on several devices sums its own rows and meets the others in one ``psum``;
its gradient is right when it is taken outside the mapped function, or inside `jax.shard_map` with
``check_vma=True`` and no further sum.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

ERRORS = {
    "l2": jnp.square,
    "l1": jnp.abs,
    # log(1 + e^-x), without overflow for large -x.
    "soft": lambda x: jax.nn.softplus(-x),
}


class Batch(NamedTuple):
    """One device's checked triplets and the mask of its real rows."""

    q: jax.Array  # [B, D]
    p: jax.Array  # [B, D]
    n: jax.Array  # [B, D]
    where: jax.Array  # [B] bool


def check_choice(name: str, value: str, known) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, known))}")


def unit(x_BxD: jax.Array) -> jax.Array:
    """Rows scaled to length 1; a zero row stays zero (similarity 0) with a finite gradient."""
    square = jnp.sum(jnp.square(x_BxD), axis=-1, keepdims=True)
    # Not rsqrt(max(square, tiny)): its gradient at a zero row is inf * 0.
    return x_BxD * lax.rsqrt(jnp.where(square > 0, square, 1))


def prepare(q, p, n, *, where, normalize: bool) -> Batch:
    """Checks shapes, casts to float32 at least, normalises.

    Raises:
      ValueError: unless q, p, n are ``[B, D]`` of one shape and ``where`` is None or ``[B]``.
    """
    q, p, n = (jnp.asarray(x) for x in (q, p, n))
    if q.ndim != 2 or q.shape != p.shape or q.shape != n.shape:
        raise ValueError(
            "q, p and n must have one shape [batch, dimensions]; "
            f"got {q.shape}, {p.shape}, {n.shape}"
        )
    where = jnp.ones(q.shape[:1], bool) if where is None else jnp.asarray(where, bool)
    if where.shape != q.shape[:1]:
        raise ValueError(f"where must have shape {q.shape[:1]}; got {where.shape}")
    # bfloat16 products of unit vectors keep 3 digits: too few for margins that differ by 0.001.
    q, p, n = (x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (q, p, n))
    if normalize:
        q, p, n = unit(q), unit(p), unit(n)
    return Batch(q, p, n, where)


def dot(a_BxD: jax.Array, b_BxD: jax.Array) -> jax.Array:
    """Row-wise similarity ``[B]``."""
    return jnp.sum(a_BxD * b_BxD, axis=-1)


def dots(a_BxD: jax.Array, b_CxD: jax.Array) -> jax.Array:
    """All similarities ``[B, C]``, at full float32 precision on TPUs and GPUs too."""
    return jnp.matmul(a_BxD, b_CxD.T, precision=lax.Precision.HIGHEST)


def sigma(similarity: jax.Array) -> jax.Array:
    """A cosine in [-1, 1] as a relevance margin in [0, 1]."""
    return (1.0 + similarity) / 2.0


def gather(x: jax.Array, axis_name: str | None) -> jax.Array:
    """The rows of all devices, in device order: ``[B, ...] -> [C, ...]``."""
    return x if axis_name is None else lax.all_gather(x, axis_name, tiled=True)


def total(x: jax.Array, axis_name: str | None) -> jax.Array:
    return x if axis_name is None else lax.psum(x, axis_name)


def global_mean(terms: jax.Array, where: jax.Array, axis_name: str | None) -> jax.Array:
    """Mean of the real terms over all devices; 0 with zero gradient when there is none."""
    count = total(jnp.sum(where, dtype=terms.dtype), axis_name)
    return total(jnp.sum(terms, where=where), axis_name) / jnp.maximum(count, 1)
