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
    "teacher_margin": lambda scores_Bx2: scores_Bx2[:, 0] - scores_Bx2[:, 1],
    "teacher_scores": lambda scores_Bx2: scores_Bx2,
}


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
    target: str = "model",
    dimensions: Sequence[int] = (),
) -> Loss:
    """Returns a loss of the registry with its options bound.

    Args:
      name: in `LOSSES`.
      options: its keyword arguments.
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
    arrays = ("q", "p", "n", "where", "axis_name", "target_from", *FROM_TEACHER)
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
    scores = jnp.zeros((2, 2))
    given = {key: make(scores) for key, make in FROM_TEACHER.items() if wants(loss, key)}
    try:
        result = jax.eval_shape(partial(loss, **given), example, example, example)
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
