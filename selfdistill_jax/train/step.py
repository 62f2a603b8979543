"""Defines a training step: loss, gradient, update and metrics of a global batch, on any mesh."""

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
from selfdistill_jax.train.loss import FROM_TEACHER, IDS, Loss, wants
from selfdistill_jax.train.mesh import AXES, constrain_state, over_batch, put_state, state_shardings


class TrainState(NamedTuple):
    params: Params  # the trained ones: the whole encoder's, or an adapter's
    optimizer: optax.OptState
    target: Params | None = None  # of the target encoder; None: the trained one


class Vectors(NamedTuple):
    """Holds a batch's unit vectors: ``[B, D]``, negatives ``[B, K, D]`` (``[B, D]`` if K is 1)."""

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
    """Returns the loss of a global batch as a function of parameters.

    It is ``f(params, target, batch, base=None) -> (loss, (vectors, target_vectors))``. Triplets
    whose query has no tokens do not count. If a device has several parts of the batch, the encoder
    processes them one after the other and the loss still sees the whole batch: only one part's
    activations are in memory at a time, for one more forward pass (gradient caching, arXiv
    2101.06983).

    Args:
      encode: ``(params, inputs) -> [M, D]`` unit vectors of the inputs of one part.
      loss: takes queries, positives, negatives, ``where``, ``axis_name``, those of `FROM_TEACHER`
        and `IDS` that it has a parameter for, and ``target_from`` if there is a target encoder.
      mesh: a mesh from `make_mesh`; its number of devices divides the number of parts.
      merge: ``(base, trained) -> params`` combines frozen and trained parameters into those of the
        encoder.
    """

    def on_device(state: Any, batch: TripletBatch):
        params, target, base = state
        # Merged here, on whole arrays, so that devices sum only the trained parameters' gradient.
        vectors = _vectors(encode, merge(base, params), batch)
        given: dict[str, Any] = {
            name: make(batch.scores) for name, make in FROM_TEACHER.items() if wants(loss, name)
        }
        given |= {name: getattr(batch, name) for name in IDS if wants(loss, name)}
        if target is not None:
            # No dropout for a target: margins are drawn to its documents' similarities.
            plain = batch._replace(inputs=dataclasses.replace(batch.inputs, seeds=None))
            constant = lax.stop_gradient(_vectors(encode, merge(base, target), plain))
            given["target_from"] = constant.positive, constant.negative
        value = loss(*vectors, where=_present(batch), axis_name=AXES, **given)
        return value, (vectors, given.get("target_from"))

    over_mesh = over_batch(on_device, mesh)
    return lambda params, target, batch, base=None: over_mesh((params, target, base), batch)


def _present(batch: TripletBatch) -> jax.Array:
    """Returns ``[B]`` bool: whether the query has tokens."""
    count = len(batch.scores) // len(batch.inputs.lengths)
    return batch.inputs.lengths[:, :count].reshape(-1) > 0


def _vectors(encode: Encode, params: Params, batch: TripletBatch) -> Vectors:
    """Encodes the inputs of a batch, part by part, and adds the documents' fixed vectors if any."""
    inputs, count = batch.inputs, batch.scores.shape[1]
    if len(inputs.lengths) == 1:
        vectors = encode(params, jax.tree.map(lambda x: x[0], inputs))[None]
    else:
        # checkpoint: only the vectors of the forward pass are saved.
        one = jax.checkpoint(encode, prevent_cse=False)
        vectors = lax.map(lambda part: one(params, part), inputs)
    parts, _, size = vectors.shape
    kinds = 1 + count if batch.documents is None else 1
    vectors = vectors.reshape(parts, kinds, -1, size).transpose(1, 0, 2, 3)
    q, *documents = vectors.reshape(kinds, -1, size)
    if batch.documents is not None:
        documents = jnp.moveaxis(batch.documents, 1, 0)
    p, *n = documents
    if count == 2:
        return Vectors(q, p, n[0])
    return Vectors(q, p, jnp.stack(n, axis=1) if n else jnp.zeros((len(q), 0, size)))


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

    The state is donated, the frozen parameters (``base``) are not. Metrics are device arrays:
    ``loss``, ``gradient_norm``, ``distinct_positives``, and those of `summaries`.

    Args:
      encode, loss, mesh: see `make_global_loss`.
      optimizer: applied to the global gradient.
      target_decay: share of the target encoder's parameters that each step retains; the rest comes
        from the trained encoder (an exponential moving average). 1 leaves the target unchanged.
      **options: options of `make_global_loss`.
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
        if batch.positive_ids is not None:
            metrics["distinct_positives"] = _distinct(batch.positive_ids, _present(batch))
        return constrain_state(TrainState(params, optimizer_state, target), mesh), metrics

    return jax.jit(step, donate_argnums=0)


def _distinct(positive_ids: Any, where: jax.Array) -> jax.Array:
    """Returns the number of different positives as a share of the real rows.

    Args:
      positive_ids: ``[B, P]`` int32, see `TripletBatch`.
      where: ``[B]`` bool, the real rows.
    """
    own = jnp.sort(jnp.where(where, positive_ids[:, 0], -1))
    first = jnp.concatenate([jnp.ones(1, bool), own[1:] != own[:-1]])
    return jnp.sum(first & (own >= 0)) / jnp.sum(where)


def start_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    *,
    target: bool,
) -> TrainState:
    """Returns the state that training starts from, on the devices of the mesh.

    Args:
      params: arrays of this process.
      optimizer: the step's optimizer.
      mesh: the step's mesh.
      target: whether there is a target encoder; it starts as a copy of ``params``.
    """
    # A copy: the step donates the buffers of its state, and no buffer may be donated twice.
    copy = jax.tree.map(np.copy, params) if target else None
    own, copy = put_state((params, copy), mesh)
    shardings = state_shardings(jax.eval_shape(optimizer.init, own), mesh)
    moments = jax.jit(optimizer.init, out_shardings=shardings)(own)
    return TrainState(own, moments, copy)
