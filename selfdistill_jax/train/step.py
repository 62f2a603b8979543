"""One training step: a jit around the gradient of a `jax.shard_map` over the mesh axis ``data``.

The gradient is taken outside of the shard_map, with ``check_vma=True``: taken inside, a sum written
as `jax.pmap` wanted it multiplies the gradient by the number of devices, with the loss still right
(tests/losses/test_gradient_placement.py has the table).
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import P, lax

from selfdistill_jax.data.batches import TripletBatch
from selfdistill_jax.encoder.bert import TokenRows
from selfdistill_jax.encoder.encode import Encode, Params
from selfdistill_jax.losses import summaries

AXIS = "data"
Loss = Callable[..., jax.Array]
# What a loss gets of a batch besides the vectors, if it has a parameter of that name.
FROM_TEACHER = {
    "teacher_margin": lambda scores_Bx2: scores_Bx2[:, 0] - scores_Bx2[:, 1],
    "teacher_scores": lambda scores_Bx2: scores_Bx2,
}


class TrainState(NamedTuple):
    params: Params
    optimizer: optax.OptState
    target: Params | None = None  # of the encoder that targets come from; None: the trained one


class Vectors(NamedTuple):
    """Unit vectors of a batch, ``[B, D]`` each."""

    query: jax.Array
    positive: jax.Array
    negative: jax.Array


def make_mesh(devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """All devices on one axis; Auto, since Explicit sharding rejects products of batches."""
    devices = devices or jax.devices()
    kinds = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=kinds, devices=devices)


def wants(loss: Loss, name: str) -> bool:
    """Whether a loss has a parameter of that name (``**options`` is none)."""
    return name in inspect.signature(loss).parameters


def make_loss(encode: Encode, loss: Loss, mesh: jax.sharding.Mesh, *, micro_batches: int = 1):
    """Returns ``f(params, target, batch) -> (loss, (vectors, target_vectors))`` over the mesh.

    Rows whose query has no tokens stand for no triplet and count for nothing.

    Args:
      encode: ``(params, rows) -> [N, D]`` unit vectors.
      loss: of queries, positives, negatives; also gets ``where``, ``axis_name``, of `FROM_TEACHER`
        what it has a parameter for, and ``target_from`` where there is a target encoder.
      mesh: of the axis `AXIS`; its size divides the batch.
      micro_batches: parts that a device's rows go through the encoder in, one after the other; the
        loss still sees the whole batch. Activations of one part are held at a time, for one more
        forward pass (gradient caching, arXiv 2101.06983).
    """

    def triplets(params: Params, batch: TripletBatch) -> Vectors:
        query = encode(params, TokenRows(batch.query_ids, batch.query_lengths))
        return Vectors(query, *documents(params, batch))

    def documents(params: Params, batch: TripletBatch) -> tuple[jax.Array, jax.Array]:
        rows = TokenRows(
            jnp.concatenate([batch.positive_ids, batch.negative_ids]),
            jnp.concatenate([batch.positive_lengths, batch.negative_lengths]),
        )
        positive, negative = jnp.split(encode(params, rows), 2)
        return positive, negative

    def on_device(params: Params, target: Params | None, batch: TripletBatch):
        # Each device's own copy from here on: the transpose is the gradient's one sum over devices,
        # and the encoder's hand-written products need not know of the mesh.
        params, target = lax.pcast((params, target), AXIS, to="varying")
        vectors = _in_parts(triplets, micro_batches)(params, batch)
        given: dict[str, Any] = {
            name: make(batch.scores) for name, make in FROM_TEACHER.items() if wants(loss, name)
        }
        if target is not None:
            pair = _in_parts(documents, micro_batches)(target, batch)
            given["target_from"] = lax.stop_gradient(pair)
        value = loss(*vectors, where=batch.query_lengths > 0, axis_name=AXIS, **given)
        return value, (vectors, given.get("target_from"))

    specs = (P(), P(), P(AXIS))
    return jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=(P(), P(AXIS)))


def _in_parts(function: Callable, parts: int) -> Callable:
    """``function(params, batch)`` of one part of the batch's rows at a time."""
    if parts == 1:
        return function

    def in_parts(params: Params, batch: TripletBatch):
        split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
        # checkpoint: of the forward pass only the vectors are kept.
        one = jax.checkpoint(function, prevent_cse=False)
        joined = lax.map(lambda part: one(params, part), split)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), joined)

    return in_parts


def make_step(
    encode: Encode,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    *,
    micro_batches: int = 1,
    target_decay: float = 1.0,
) -> Callable[[TrainState, TripletBatch], tuple[TrainState, dict[str, Any]]]:
    """Returns the jitted ``step(state, batch) -> (state, metrics)``; the state is donated.

    Metrics are device arrays: ``loss``, ``gradient_norm``, and those of `summaries`.

    Args:
      encode, loss, mesh, micro_batches: see `make_loss`.
      optimizer: applied to the global gradient.
      target_decay: what of the state's target encoder stays at each step, the rest being the
        trained one's (an exponential moving average); 1 leaves it as it is.
    """
    global_loss = make_loss(encode, loss, mesh, micro_batches=micro_batches)

    def step(state: TrainState, batch: TripletBatch):
        (value, (vectors, target_from)), gradient = jax.value_and_grad(global_loss, has_aux=True)(
            state.params, state.target, batch
        )
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        target = state.target
        if target is not None and target_decay < 1:
            target = optax.incremental_update(params, target, 1 - target_decay)
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradient)}
        metrics |= summaries(
            *vectors, target_from=target_from, where=batch.query_lengths > 0, normalize=False
        )
        return TrainState(params, optimizer_state, target), metrics

    return jax.jit(step, donate_argnums=0)


def put_state(state: TrainState, mesh: jax.sharding.Mesh) -> TrainState:
    """The state on every device of the mesh."""
    return jax.device_put(state, jax.NamedSharding(mesh, P()))


def put_batch(batch: TripletBatch, mesh: jax.sharding.Mesh) -> TripletBatch:
    """This process's rows as its part of the global batch."""
    sharding = jax.NamedSharding(mesh, P(AXIS))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
