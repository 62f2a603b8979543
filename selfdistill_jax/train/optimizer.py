"""Defines AdamW with a learning-rate schedule; weight decay acts on matrices only."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from selfdistill_jax.errors import InputError

_TABLE = 1024  # runs with as many multiples of this many steps share a compiled step
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
    schedule: optax.Schedule, *, steps: int, weight_decay: float, clip_norm: float
) -> optax.GradientTransformation:
    """Returns AdamW (b1 0.9, b2 0.999) after clipping by global norm (0: none).

    The learning rates of all steps are part of its state, so a compiled step serves every schedule:
    a run with another learning rate starts without compiling anew, which takes 10 to 20 s.

    Args:
      schedule: learning rate of each step, counted from 0.
      steps: number of steps of the run.
      weight_decay: decay per step, as a share of the learning rate; acts on matrices only.
      clip_norm: largest global norm of a gradient; 0: any.
    """
    adamw = (
        optax.scale_by_adam(),
        optax.add_decayed_weights(weight_decay, matrices),
        _scale_by_table(schedule, steps),
    )
    return optax.chain(*([optax.clip_by_global_norm(clip_norm)] if clip_norm else []), *adamw)


class _TableState(NamedTuple):
    count: jax.Array
    rates: jax.Array
    # The rate of the next update, looked up one step ahead. XLA fuses a lookup in the same step
    # into the update's loops, which made a step on a CPU 6 % slower.
    rate: jax.Array


def _scale_by_table(schedule: optax.Schedule, steps: int) -> optax.GradientTransformation:
    size = -(-steps // _TABLE) * _TABLE

    def init(params):
        del params
        rates = jnp.asarray(jax.vmap(schedule)(jnp.arange(size)), jnp.float32)
        rates = jnp.broadcast_to(rates, size)
        return _TableState(jnp.zeros([], jnp.int32), rates, rates[0])

    def update(updates, state, params=None):
        del params
        scaled = jax.tree.map(lambda u: (-state.rate * u).astype(u.dtype), updates)
        count = state.count + 1
        return scaled, _TableState(count, state.rates, state.rates[count])

    return optax.GradientTransformation(init, update)


def matrices(params):
    """Returns a tree of bools: True for kernels and embedding tables, False for biases and norms.

    It decides by name, not by rank: layers are stacked, so a bias has two axes too.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key not in ("bias", "scale"), params
    )
