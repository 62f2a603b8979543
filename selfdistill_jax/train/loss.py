"""Binds a registered loss to its options, and checks it before a run starts."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp

from selfdistill_jax.errors import InputError, nearest
from selfdistill_jax.losses import LOSSES, matryoshka

Loss = Callable[..., jax.Array]
# Document vectors from which a loss computes targets: the encoder's own, the same as constants,
# those of the encoder's exponential moving average, or those of the start encoder.
TARGETS = ("model", "detached", "ema", "start")
TARGET_ENCODERS = TARGETS[2:]  # encoders other than the trained one
# Arguments besides the vectors that a loss gets if it has a parameter of that name.
FROM_TEACHER = {
    "teacher_margin": lambda scores: _as_negatives(scores[:, :1] - scores[:, 1:]),
    "teacher_scores": lambda scores: scores,
}
IDS = ("positive_ids", "negative_ids")


def _as_negatives(x_BxK: jax.Array) -> jax.Array:
    """Returns ``[B]`` if a query has one negative, as a simple custom loss expects."""
    return x_BxK[:, 0] if x_BxK.shape[1] == 1 else x_BxK


def wants(loss: Loss, name: str) -> bool:
    """Returns whether a loss has a parameter of that name (``**options`` does not count)."""
    return name in inspect.signature(loss).parameters


def needs_teacher(loss: Loss) -> bool:
    """Returns whether a loss needs a teacher's scores."""
    return any(wants(loss, name) for name in FROM_TEACHER)


def make_loss(
    name: str,
    options: dict[str, Any],
    *,
    negatives: int = 1,
    target: str = "model",
    dimensions: Sequence[int] = (),
) -> Loss:
    """Returns a registered loss with its options bound.

    Args:
      name: a key of `LOSSES`.
      options: keyword arguments of the loss.
      negatives: K, negatives per query; if it is 1, the loss gets ``n`` as ``[B, D]``.
      target: one of `TARGETS`.
      dimensions: sizes trained in addition to the whole vectors, see `check_dimensions`.

    Raises:
      InputError: the loss or an option is unknown, a value is invalid, or a target is set for a
        loss that computes none.
    """
    if name not in LOSSES:
        raise InputError(
            f"config.loss.name is {name!r}; expected one of {', '.join(LOSSES)}"
            f"{nearest(name, LOSSES)}"
        )
    for argument in ("where", "axis_name"):
        if not wants(LOSSES[name], argument):
            raise InputError(
                f"config.loss.name: the loss {name!r} has no parameter {argument!r}, which the "
                "training step passes; see 'A loss of your own' in docs/losses.md"
            )
    arrays = ("q", "p", "n", "where", "axis_name", "target_from", *IDS, *FROM_TEACHER)
    taken = [o for o in inspect.signature(LOSSES[name]).parameters if o not in arrays]
    for option in options:
        if option not in taken:
            raise InputError(
                f"config.loss.{option}: the loss {name!r} has no such option (it has "
                f"{', '.join(taken)}); start from the config of that loss"
            )
    if target not in TARGETS:
        raise InputError(
            f"config.train.target is {target!r}; expected {', '.join(TARGETS)}"
            f"{nearest(target, TARGETS)}"
        )
    needed = {"model": None, "detached": "stop_gradient"}.get(target, "target_from")
    if needed and not wants(LOSSES[name], needed):
        raise InputError(
            f"config.train.target is {target!r}; the loss {name!r} computes no target from its "
            "documents; set config.train.target='model'"
        )
    loss = partial(LOSSES[name], **options)
    if target == "detached":
        loss = partial(loss, stop_gradient=True)
    try:
        result = _shape_of(loss, max(negatives, 1), target=needed == "target_from")
    except (TypeError, ValueError) as error:
        raise InputError(f"config.loss: {error}") from None
    if not negatives:
        try:
            _shape_of(loss, 0, target=needed == "target_from")
        except ValueError:
            raise InputError(
                f"config.data.negatives_per_query is 0, and the loss {name!r} compares the "
                "positive with negatives; set 1 or more, or use a loss such as 'softmax'"
            ) from None
    if result.shape != ():
        raise InputError(
            f"config.loss.name: the loss {name!r} returns shape {result.shape}; expected "
            "a scalar, such as the result of losses.global_mean(terms, where, axis_name)"
        )
    return _at_dimensions(loss, dimensions) if dimensions else loss


def _shape_of(loss: Loss, negatives: int, *, target: bool) -> jax.ShapeDtypeStruct:
    """Returns the shape and type of a loss of two queries, without computing it."""
    vectors = jax.ShapeDtypeStruct((2, 4), jnp.float32)
    n = vectors if negatives == 1 else jax.ShapeDtypeStruct((2, negatives, 4), jnp.float32)
    scores = jnp.zeros((2, 1 + negatives))
    given = {key: make(scores) for key, make in FROM_TEACHER.items() if wants(loss, key)}
    ids = jnp.zeros((2, 1), jnp.int32), jnp.ones((2, negatives), jnp.int32)
    given |= {key: x for key, x in zip(IDS, ids, strict=True) if wants(loss, key)}
    if target:
        given["target_from"] = jnp.zeros(vectors.shape), jnp.zeros(n.shape)
    return jax.eval_shape(partial(loss, **given), vectors, vectors, n)


def _at_dimensions(loss: Loss, dimensions: Sequence[int]) -> Loss:
    """Returns the sum of the loss of the whole vectors and those of their first dimensions."""

    @wraps(loss)  # the step inspects the parameters of the loss
    def at_dimensions(q, p, n, **options):
        return matryoshka(loss, q, p, n, dimensions=(q.shape[-1], *dimensions), **options)

    return at_dimensions


def check_dimensions(dimensions: Sequence[int], whole: int) -> None:
    """Checks ``config.train.dimensions`` against the size of the encoder's vectors.

    Raises:
      InputError: a size is no whole number, out of range, or not smaller than the one before.
    """
    before = whole
    for size in dimensions:
        if not isinstance(size, int) or not 1 <= size < before:
            raise InputError(
                f"config.train.dimensions has {size!r}; expected whole numbers in strictly "
                f"descending order from 1 to {whole - 1}; all {whole} of the encoder are always "
                "trained"
            )
        before = size
