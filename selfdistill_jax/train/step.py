"""One training step: loss, gradient, update and metrics of a global batch, on any mesh."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from selfdistill_jax.data.batches import TripletBatch
from selfdistill_jax.encoder.apply import Encode, Params
from selfdistill_jax.losses.diagnostics import summaries
from selfdistill_jax.packed import PackedTexts
from selfdistill_jax.train.loss import FROM_TEACHER, IDS, Loss, wants
from selfdistill_jax.train.mesh import AXES, constrain_state, over_batch, put_state, state_shardings


class TrainState(NamedTuple):
    params: Params  # those that are trained: of the whole encoder, or of an adapter
    optimizer: optax.OptState
    target: Params | None = None  # of the encoder that targets come from; None: the trained one


class Vectors(NamedTuple):
    """Unit vectors of a batch: ``[B, D]``, negatives ``[B, K, D]``, or ``[B, D]`` if K is 1."""

    query: jax.Array
    positive: jax.Array
    negative: jax.Array


def make_global_loss(
    encode: Encode,
    loss: Loss,
    mesh: jax.sharding.Mesh,
    *,
    merge: Callable[[Params | None, Params], Params] = lambda base, trained: trained,
):
    """Returns ``f(params, target, batch, base=None) -> (loss, (vectors, target_vectors))`` over the
    mesh.

    Triplets whose query has no tokens count for nothing. Where a device has more than one part of
    the batch, the parts go through the encoder one after the other and the loss still sees the
    whole batch: activations of one part are held at a time, for one more forward pass (gradient
    caching, arXiv 2101.06983).

    Args:
      encode: ``(params, texts) -> [M, D]`` unit vectors.
      loss: of queries, positives, negatives; also gets ``where``, ``axis_name``, of `FROM_TEACHER`
        and `IDS` what it has a parameter for, and ``target_from`` where there is a target encoder.
      mesh: of `make_mesh`; its number of devices divides the batch's parts.
      merge: ``(base, trained) -> params`` makes, of frozen parameters and of trained ones, those
        that the encoder computes with.
    """

    def on_device(state: Any, batch: TripletBatch):
        params, target, base = state
        # Merged here, on whole arrays: devices sum the gradient of the trained parameters alone.
        in_parts = _in_parts(encode, batch.scores.shape[1] - 1)
        vectors = in_parts(merge(base, params), batch.texts)
        given: dict[str, Any] = {
            name: make(batch.scores) for name, make in FROM_TEACHER.items() if wants(loss, name)
        }
        given |= {name: getattr(batch, name) for name in IDS if wants(loss, name)}
        if target is not None:
            # A target drops nothing: its documents' similarities are what is aimed at.
            texts = dataclasses.replace(batch.texts, seeds=None)
            constant = lax.stop_gradient(in_parts(merge(base, target), texts))
            given["target_from"] = constant.positive, constant.negative
        value = loss(*vectors, where=_present(batch), axis_name=AXES, **given)
        return value, (vectors, given.get("target_from"))

    over_mesh = over_batch(on_device, mesh)
    return lambda params, target, batch, base=None: over_mesh((params, target, base), batch)


def _present(batch: TripletBatch) -> jax.Array:
    """``[B]`` bool: the query has tokens."""
    count = len(batch.scores) // len(batch.texts.lengths)
    return batch.texts.lengths[:, :count].reshape(-1) > 0


def _in_parts(encode: Encode, negatives: int) -> Callable[[Params, PackedTexts], Vectors]:
    """Vectors of the texts of all parts, one part at a time."""

    def in_parts(params: Params, texts: PackedTexts) -> Vectors:
        if len(texts.blocks) == 1:
            vectors = encode(params, jax.tree.map(lambda x: x[0], texts))[None]
        else:
            # checkpoint: of the forward pass only the vectors are kept.
            one = jax.checkpoint(encode, prevent_cse=False)
            vectors = lax.map(lambda part: one(params, part), texts)
        parts, _, size = vectors.shape
        kinds = vectors.reshape(parts, 2 + negatives, -1, size).transpose(1, 0, 2, 3)
        q, p, *n = kinds.reshape(2 + negatives, -1, size)
        if negatives == 1:
            return Vectors(q, p, n[0])
        return Vectors(q, p, jnp.stack(n, axis=1) if n else jnp.zeros((len(q), 0, size)))

    return in_parts


def make_step(
    encode: Encode,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    *,
    target_decay: float = 1.0,
    **options: Any,
) -> Callable[..., tuple[TrainState, dict[str, Any]]]:
    """Returns the jitted ``step(state, batch, base=None) -> (state, metrics)``.

    The state is donated, the frozen parameters (``base``) are not.

    Metrics are device arrays: ``loss``, ``gradient_norm``, and those of `summaries`.

    Args:
      encode, loss, mesh: see `make_global_loss`.
      optimizer: applied to the global gradient.
      target_decay: what of the state's target encoder stays at each step, the rest being the
        trained one's (an exponential moving average); 1 leaves it as it is.
      **options: of `make_global_loss`.
    """
    global_loss = make_global_loss(encode, loss, mesh, **options)

    def step(state: TrainState, batch: TripletBatch, base: Params | None = None):
        (value, (vectors, target_from)), gradient = jax.value_and_grad(global_loss, has_aux=True)(
            state.params, state.target, batch, base
        )
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        target: Any = state.target
        if target is not None and target_decay < 1:
            moved: Any = optax.incremental_update(params, target, 1 - target_decay)
            target = moved
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradient)}
        metrics |= summaries(
            *vectors, target_from=target_from, where=_present(batch), normalize=False
        )
        return constrain_state(TrainState(params, optimizer_state, target), mesh), metrics

    return jax.jit(step, donate_argnums=0)


def start_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    *,
    target: bool,
) -> TrainState:
    """Returns the state that training begins with, on the devices of the mesh.

    Args:
      params: arrays of this process.
      optimizer: of the step.
      mesh: of the step.
      target: whether there is a target encoder, the same one at first.
    """
    # A copy: the step gives the buffers of its state away, and may not give one twice.
    copy = jax.tree.map(np.copy, params) if target else None
    own, copy = put_state((params, copy), mesh)
    shardings = state_shardings(jax.eval_shape(optimizer.init, own), mesh)
    moments = jax.jit(optimizer.init, out_shardings=shardings)(own)
    return TrainState(own, moments, copy)
