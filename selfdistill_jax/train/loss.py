"""Binds a loss of the registry to its options, and checks it before any work."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp

from selfdistill_jax.errors import InputError, nearest
from selfdistill_jax.losses import LOSSES, matryoshka

Loss = Callable[..., jax.Array]
# Whose document vectors make a loss's targets: the encoder's own, these as constants, those of an
# exponential moving average of it, those of the encoder it started from.
TARGETS = ("model", "detached", "ema", "start")
TARGET_ENCODERS = TARGETS[2:]  # another than the one that is trained
# What a loss gets of a batch besides the vectors, if it has a parameter of that name.
FROM_TEACHER = {
    "teacher_margin": lambda scores: _as_negatives(scores[:, :1] - scores[:, 1:]),
    "teacher_scores": lambda scores: scores,
}
IDS = ("positive_ids", "negative_ids")


def _as_negatives(x_BxK: jax.Array) -> jax.Array:
    """``[B]`` where a query has one negative: what a simple loss of one's own expects."""
    return x_BxK[:, 0] if x_BxK.shape[1] == 1 else x_BxK


def wants(loss: Loss, name: str) -> bool:
    """Returns whether a loss has a parameter of that name (``**options`` is none)."""
    return name in inspect.signature(loss).parameters


def needs_teacher(loss: Loss) -> bool:
    """Returns whether a loss learns from a teacher's scores."""
    return any(wants(loss, name) for name in FROM_TEACHER)


def make_loss(
    name: str,
    options: dict[str, Any],
    *,
    negatives: int = 1,
    target: str = "model",
    dimensions: Sequence[int] = (),
) -> Loss:
    """Returns a loss of the registry with its options bound.

    Args:
      name: in `LOSSES`.
      options: its keyword arguments.
      negatives: K, negatives of a query; the loss gets ``n`` as ``[B, D]`` where it is 1.
      target: one of `TARGETS`.
      dimensions: sizes that are trained beside the whole vectors, see `check_dimensions`.

    Raises:
      InputError: no such loss, an option it does not take, a value it refuses, or a target for a
        loss that has none.
    """
    if name not in LOSSES:
        raise InputError(
            f"config.loss.name is {name!r}; expected one of {', '.join(LOSSES)}"
            f"{nearest(name, LOSSES)}"
        )
    for argument in ("where", "axis_name"):
        if not wants(LOSSES[name], argument):
            raise InputError(
                f"config.loss.name: the loss {name!r} takes no {argument!r}, which the training "
                "step gives it; see 'A loss of your own' in docs/losses.md"
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
            f"config.train.target is {target!r}; the loss {name!r} has no target of its own making"
        )
    loss = partial(LOSSES[name], **options)
    if target == "detached":
        loss = partial(loss, stop_gradient=True)
    example = jax.ShapeDtypeStruct((2, 4), jnp.float32)
    several = example if negatives == 1 else jax.ShapeDtypeStruct((2, negatives, 4), jnp.float32)
    scores = jnp.zeros((2, 1 + negatives))
    given = {key: make(scores) for key, make in FROM_TEACHER.items() if wants(loss, key)}
    try:
        result = jax.eval_shape(partial(loss, **given), example, example, several)
    except (TypeError, ValueError) as error:
        raise InputError(f"config.loss: {error}") from None
    if result.shape != ():
        raise InputError(
            f"config.loss.name: the loss {name!r} gives an array of shape {result.shape}; expected "
            "a scalar, for instance by losses.global_mean(terms, where, axis_name)"
        )
    return _at_dimensions(loss, dimensions) if dimensions else loss


def _at_dimensions(loss: Loss, dimensions: Sequence[int]) -> Loss:
    """The loss of the whole vectors and, added to it, of their first dimensions."""

    @wraps(loss)  # the step asks for its parameters
    def at_dimensions(q, p, n, **options):
        return matryoshka(loss, q, p, n, dimensions=(q.shape[-1], *dimensions), **options)

    return at_dimensions


def check_dimensions(dimensions: Sequence[int], whole: int) -> None:
    """Checks ``config.train.dimensions`` against the size of the encoder's vectors.

    Raises:
      InputError: what is wrong with the first that cannot be trained.
    """
    before = whole
    for size in dimensions:
        if not isinstance(size, int) or not 1 <= size < before:
            raise InputError(
                f"config.train.dimensions has {size!r}; expected whole numbers from large to "
                f"small, each once and below the {whole} of the encoder, which are always trained"
            )
        before = size
