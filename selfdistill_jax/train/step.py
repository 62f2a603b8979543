"""One training step: a jit around the gradient of a `jax.shard_map` over the mesh axis ``data``.

The gradient is taken outside of the shard_map, with ``check_vma=True``: taken inside, a sum written
as `jax.pmap` wanted it multiplies the gradient by the number of devices, with the loss still right.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import P

from selfdistill_jax.data.batches import TripletBatch
from selfdistill_jax.encoder.bert import TokenRows
from selfdistill_jax.encoder.encode import Encode, Params
from selfdistill_jax.losses.common import dot, sigma

AXIS = "data"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class TrainState(NamedTuple):
    params: Params
    optimizer: optax.OptState


def make_mesh(devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """All devices on one axis; Auto, since Explicit sharding rejects products of batches."""
    devices = devices or jax.devices()
    kinds = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=kinds, devices=devices)


def make_loss(encode: Encode, loss: Callable[..., jax.Array], mesh: jax.sharding.Mesh):
    """Returns ``f(params, batch) -> (loss, summaries)`` of a global batch spread over the mesh.

    Summaries are the triplets' ``margin`` and ``target`` (their own documents' σ), ``[B]`` each.
    """

    def on_device(params: Params, batch: TripletBatch):
        # Each device's own copy from here on: the transpose is the gradient's one sum over devices,
        # and the encoder's hand-written products need not know of the mesh.
        params = jax.lax.pcast(params, AXIS, to="varying")
        q = encode(params, TokenRows(batch.query_ids, batch.query_lengths))
        documents = TokenRows(
            jnp.concatenate([batch.positive_ids, batch.negative_ids]),
            jnp.concatenate([batch.positive_lengths, batch.negative_lengths]),
        )
        p, n = jnp.split(encode(params, documents), 2)
        summaries = {"margin": dot(q, p) - dot(q, n), "target": sigma(dot(p, n))}
        return loss(q, p, n, axis_name=AXIS), summaries

    return jax.shard_map(on_device, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=(P(), P(AXIS)))


def make_step(
    encode: Encode,
    loss: Callable[..., jax.Array],
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
) -> Callable[[TrainState, TripletBatch], tuple[TrainState, dict[str, Any]]]:
    """Returns the jitted ``step(state, batch) -> (state, metrics)``; the state is donated.

    Metrics are device arrays: ``loss``, ``gradient_norm``, and of margins and targets the mean and
    the `QUANTILES`.
    """
    global_loss = make_loss(encode, loss, mesh)

    def step(state: TrainState, batch: TripletBatch):
        (value, summaries), gradient = jax.value_and_grad(global_loss, has_aux=True)(
            state.params, batch
        )
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradient)}
        for name, values in summaries.items():
            metrics[f"{name}_mean"] = values.mean()
            metrics[f"{name}_quantiles"] = jnp.quantile(values, jnp.array(QUANTILES))
        return TrainState(params, optimizer_state), metrics

    return jax.jit(step, donate_argnums=0)


def put_state(state: TrainState, mesh: jax.sharding.Mesh) -> TrainState:
    """The state on every device of the mesh."""
    return jax.device_put(state, jax.NamedSharding(mesh, P()))


def put_batch(batch: TripletBatch, mesh: jax.sharding.Mesh) -> TripletBatch:
    """This process's rows as its part of the global batch."""
    sharding = jax.NamedSharding(mesh, P(AXIS))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
