"""Defines the device mesh: its axes, and which part of each array a device holds.

The mesh has two axes. The batch is spread over both; parameters, gradients and optimizer moments
are sharded over ``fsdp`` and replicated along ``data``. No other file in train/ names an axis.

A step's function runs on each device's part of the batch (`jax.shard_map`). It first
gathers the shards of the parameters, and JAX's transpose of that gather sends each device its shard
of the gradient. When XLA's partitioner placed the exchanges instead, the same step exchanged eight
times the bytes on a 2 x 4 mesh (docs/performance.md).
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax import P, lax
from jax.experimental import mesh_utils, multihost_utils

from selfdistill_jax.errors import InputError
from selfdistill_jax.retrieval.encode_corpus import cores

AXES = ("data", "fsdp")
_SHARDED = AXES[1]
_BATCH = P(AXES)
# Limit on CPU devices: each holds its own parameters, moments and gradient in memory.
_MOST_CPU_DEVICES = 4
Tree = TypeVar("Tree")


def make_mesh(devices: Sequence[jax.Device] | None = None, *, fsdp: int = 1) -> jax.sharding.Mesh:
    """Returns the mesh of all devices.

    Slices of TPUs are connected by a slower network, so they lie along ``data`` only.

    Args:
      devices: the devices to use; None for all.
      fsdp: number of devices over which a parameter is sharded.

    Raises:
      InputError: ``fsdp`` does not divide the number of devices of a slice.
    """
    devices = devices or jax.devices()
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    each = len(devices) // slices
    if each % fsdp:
        of_slice = f" of each of {slices} slices" if slices > 1 else ""
        raise InputError(
            f"config.train.fsdp is {fsdp}; expected a divisor of the {each} devices{of_slice}"
        )
    # Auto: Explicit sharding rejects products of batches.
    kinds = (jax.sharding.AxisType.Auto,) * 2
    shape = each // fsdp, fsdp
    if slices == 1:
        return jax.make_mesh(shape, AXES, axis_types=kinds, devices=devices)
    ordered = mesh_utils.create_hybrid_device_mesh(shape, (slices, 1), devices)
    return jax.sharding.Mesh(ordered, AXES, axis_types=kinds)


def batch_sharding(mesh: jax.sharding.Mesh) -> jax.NamedSharding:
    """Returns the sharding of a batch's arrays: their leading axis is spread over all devices."""
    return jax.NamedSharding(mesh, _BATCH)


def state_shardings(tree: Tree, mesh: jax.sharding.Mesh) -> Tree:
    """Returns the sharding of every array of parameters or of an optimizer's state.

    Args:
      tree: arrays, or anything with a shape.
      mesh: a mesh from `make_mesh`.
    """
    return jax.tree.map(lambda spec: jax.NamedSharding(mesh, spec), _specs(tree, mesh))


def _specs(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Shards the longest axis that ``fsdp`` divides; arrays without one are on every device."""
    count = mesh.shape[_SHARDED]

    def spec(x: Any) -> jax.P:
        axes = [axis for axis, size in enumerate(x.shape) if size % count == 0]
        if count == 1 or not axes:
            return P()
        longest = max(axes, key=lambda axis: x.shape[axis])
        return P(*(None,) * longest, _SHARDED)

    return jax.tree.map(spec, tree)


def put_state(tree: Tree, mesh: jax.sharding.Mesh) -> Tree:
    """Moves arrays, the same on every process, to the shardings of `state_shardings`."""
    return jax.device_put(tree, state_shardings(tree, mesh))


def constrain_state(tree: Tree, mesh: jax.sharding.Mesh) -> Tree:
    """Constrains arrays in a compiled function to the shardings of `state_shardings`."""
    return lax.with_sharding_constraint(tree, state_shardings(tree, mesh))


def put_batch(batch: Tree, mesh: jax.sharding.Mesh) -> Tree:
    """Returns global arrays, made from this process's part of a batch."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def batch_shapes(batch: Tree, mesh: jax.sharding.Mesh) -> Tree:
    """Returns the shapes, types and shardings of the result of `put_batch`.

    Args:
      batch: this process's part of a batch, or its shapes and types; the whole batch if this
        process compiles for devices that are not there.
      mesh: a mesh from `make_mesh`.
    """
    sharding = batch_sharding(mesh)

    def whole(x: Any) -> jax.ShapeDtypeStruct:
        shape = (x.shape[0] * jax.process_count(), *x.shape[1:])
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=sharding)

    return jax.tree.map(whole, batch)


def state_shapes(tree: Tree, mesh: jax.sharding.Mesh) -> Tree:
    """Returns the shapes, types and shardings of the result of `put_state`."""

    def whole(x: Any, sharding: jax.NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(whole, tree, state_shardings(tree, mesh))


def to_host(tree: Tree) -> Tree:
    """Returns whole numpy arrays on every process; all processes must call it."""

    def fetch(x: Any) -> np.ndarray:
        if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
            return np.asarray(multihost_utils.process_allgather(x, tiled=True))
        return np.asarray(x)

    return jax.tree.map(fetch, tree)


def over_batch(
    function: Callable[[Any, Any], tuple[jax.Array, Any]], mesh: jax.sharding.Mesh
) -> Callable[[Any, Any], tuple[jax.Array, Any]]:
    """Returns ``f(state, batch) -> (scalar, arrays)``, computed on each device's part of a batch.

    Take the gradient of ``f``, not within ``function``, where a sum over devices multiplies it by
    their number (tests/losses/test_gradient_placement.py).

    Args:
      function: gets whole arrays of the state, and the device's part of the batch. Its scalar is
        the same on all devices; its arrays have the batch as leading axis.
      mesh: a mesh from `make_mesh`.
    """

    def call(state: Any, batch: Any) -> tuple[jax.Array, Any]:
        specs = _specs(state, mesh)

        def on_device(state: Any, batch: Any) -> tuple[jax.Array, Any]:
            return function(jax.tree.map(_gather, state, specs), batch)

        return jax.shard_map(
            on_device, mesh=mesh, in_specs=(specs, _BATCH), out_specs=(P(), _BATCH)
        )(state, batch)

    return call


def _gather(x: jax.Array, spec: jax.P) -> jax.Array:
    """Returns each device's copy of a whole array; the transpose sums the gradient over devices."""
    if _SHARDED not in spec:
        return lax.pcast(x, AXES, to="varying")
    x = lax.pcast(x, AXES[0], to="varying")
    return lax.all_gather(x, _SHARDED, axis=spec.index(_SHARDED), tiled=True)


def split_cpu_into_devices(triplets: int) -> None:
    """Splits a CPU's cores into devices, each of which trains on its part of the batch.

    As one device, the cores share the work of each operation and wait for each other at its end:
    with two cores of Zen 3, a step is 1.2 times as fast on two devices as on one. The function has
    no effect on other backends, or if JAX_NUM_CPU_DEVICES or XLA_FLAGS sets the number.

    Call it before JAX starts.

    Args:
      triplets: triplets of a micro-batch, which the devices, up to four, share equally.
    """
    given = jax.config.jax_num_cpu_devices != -1  # ty: ignore[missing-attribute]
    if not given and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", cpu_devices(triplets, cores()))


def cpu_devices(triplets: int, cores: int) -> int:
    """Returns the largest number of devices, up to four and the cores, that divides the triplets.

    >>> cpu_devices(64, cores=2), cpu_devices(6, cores=16), cpu_devices(7, cores=4)
    (2, 3, 1)
    """
    return max(n for n in range(1, min(cores, _MOST_CPU_DEVICES) + 1) if triplets % n == 0)
