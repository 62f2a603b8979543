"""Defines AdamW with a learning-rate schedule; weight decay acts on matrices only."""

import jax
import optax

from selfdistill_jax.errors import InputError

DECAYS = ("constant", "linear", "cosine", "exponential")


def make_schedule(
    *, learning_rate: float, steps: int, warmup_steps: int, decay: str, decay_rate: float
) -> optax.Schedule:
    """Returns a schedule: linear warmup over ``warmup_steps``, then constant or a decay.

    Raises:
      InputError: the decay is unknown.
    """
    rest = max(steps - warmup_steps, 1)
    after = {
        "constant": lambda: optax.constant_schedule(learning_rate),
        "linear": lambda: optax.linear_schedule(learning_rate, 0.0, rest),
        "cosine": lambda: optax.cosine_decay_schedule(learning_rate, rest),
        "exponential": lambda: optax.exponential_decay(learning_rate, 1, decay_rate),
    }
    if decay not in after:
        raise InputError(f"config.train.decay is {decay!r}; expected {', '.join(DECAYS)}")
    # Counted from 1: a first update at learning rate 0 would waste a step.
    warmup = optax.linear_schedule(
        learning_rate / max(warmup_steps, 1), learning_rate, max(warmup_steps - 1, 1)
    )
    return optax.join_schedules([warmup, after[decay]()], [warmup_steps])


def make_optimizer(
    schedule: optax.Schedule, *, weight_decay: float, clip_norm: float
) -> optax.GradientTransformation:
    """Returns AdamW (b1 0.9, b2 0.999) after clipping by global norm (0: none)."""
    adamw = optax.adamw(schedule, weight_decay=weight_decay, mask=matrices)
    return optax.chain(optax.clip_by_global_norm(clip_norm), adamw) if clip_norm else adamw


def matrices(params):
    """Returns a tree of bools: True for kernels and embedding tables, False for biases and norms.

    It decides by name, not by rank: layers are stacked, so a bias has two axes too.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key not in ("bias", "scale"), params
    )
