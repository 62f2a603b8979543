"""Tests that a global batch gives the same loss, gradient and update on any mesh."""

import dataclasses
import functools
import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from selfdistill_jax import losses
from selfdistill_jax.encoder.apply import init_params, make_encode
from selfdistill_jax.encoder.dropout import Dropout
from selfdistill_jax.train.mesh import make_mesh, put_batch, put_state
from selfdistill_jax.train.optimizer import make_optimizer, make_schedule, matrices
from selfdistill_jax.train.step import TrainState, make_step
from tests.train.every_loss import CONFIG, NO_ROWS, ROWS, VARIANTS, batch, values_and_gradients


def mesh(devices, fsdp=1):
    return make_mesh(jax.devices()[:devices], fsdp=fsdp)


@functools.cache
def alone(no_rows):
    """Returns values and gradients of the whole batch at once, on one device."""
    return values_and_gradients(mesh(1), batch(no_rows))


def assert_same(got, want):
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    for ours, theirs in zip(*map(jax.tree.leaves, (got[1], want[1])), strict=True):
        for number, (name, _) in enumerate(VARIANTS):
            scale = max(np.abs(leaf[number]).max() for leaf in jax.tree.leaves(want[1]))
            assert scale > 1e-4, name  # there is something to compare
            np.testing.assert_allclose(
                ours[number], theirs[number], atol=1e-5 * scale + 1e-7, err_msg=name
            )


# Numbers of devices, of devices that share parameters, and of micro-batches.
MESHES = [(d, 1, m) for d in (1, 2, 4, 8) for m in (1, 2, 4) if ROWS % (d * m) == 0 and d * m > 1]
MESHES += [(8, 2, 1), (8, 4, 2), (8, 8, 1)]


@pytest.mark.parametrize(("devices", "fsdp", "micro_batches"), MESHES)
def test_every_loss_on_every_mesh(devices, fsdp, micro_batches):
    for no_rows in ((), NO_ROWS[devices]):
        rows = batch(no_rows, devices * micro_batches)
        got = values_and_gradients(mesh(devices, fsdp), rows)
        assert_same(got, alone(no_rows))


def test_rows_without_a_query_are_rows_removed():
    kept = batch(rows=np.delete(np.arange(ROWS), NO_ROWS[8]))
    assert_same(values_and_gradients(mesh(1), kept), alone(NO_ROWS[8]))


@pytest.mark.parametrize(
    ("processes", "devices", "fsdp", "micro_batches"), [(2, 4, 1, 2), (2, 1, 1, 4), (2, 4, 8, 1)]
)
def test_every_loss_in_two_processes(tmp_path, processes, devices, fsdp, micro_batches):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    output = tmp_path / "out.npz"
    command = [sys.executable, "-m", "tests.train.every_loss", str(port), str(processes)]
    running = [
        subprocess.Popen(
            [*command, *map(str, (number, devices, fsdp, micro_batches)), str(output)],
            env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    for one in running:
        _, err = one.communicate(timeout=120)
        assert one.returncode == 0, err
    with np.load(output) as saved:
        value, *leaves = (saved[name] for name in saved.files)
    want = alone(NO_ROWS[processes * devices])
    assert_same((value, leaves), want)


def setting(
    loss=losses.distributed_margin,
    optimizer=None,
    devices=8,
    fsdp=1,
    target=None,
    parts=None,
    **options,
):
    """Returns a step, a state and the batch on a mesh."""
    optimizer = optimizer or optax.sgd(1.0)  # the update is the gradient, which Adam would rescale
    params = init_params(CONFIG, jax.random.key(0))
    on = mesh(devices, fsdp)
    step = make_step(make_encode(CONFIG, pooling="mean"), loss, optimizer, on, **options)
    state = put_state(TrainState(params, optimizer.init(params), target), on)
    return step, state, put_batch(batch(parts=parts or devices), on)


def update(*args, steps=1, **options):
    step, state, rows = setting(*args, **options)
    for _ in range(steps):
        state, metrics = step(state, rows)
    return jax.device_get((state, metrics))


def test_an_update_and_its_metrics_do_not_depend_on_the_mesh():
    want, numbers = update(devices=1)
    for devices, fsdp, micro_batches in ((8, 1, 1), (2, 1, 4), (8, 4, 1), (8, 8, 2)):
        got, same = update(devices=devices, fsdp=fsdp, parts=devices * micro_batches)
        for x, y in zip(*map(jax.tree.leaves, (got.params, want.params)), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-6)
        assert same.keys() == numbers.keys()
        for name, value in numbers.items():
            np.testing.assert_allclose(same[name], value, atol=2e-6, err_msg=name)


def test_dropout_does_not_depend_on_the_mesh():
    """Dropout depends on each text's seeds alone, so the mesh does not change results."""
    seeds = np.random.default_rng(1).integers(2**32, size=(3, ROWS), dtype=np.uint32)
    rates = Dropout(*5 * (0.2,))
    encode = make_encode(CONFIG, pooling="mean", dropout=rates)
    params = jax.device_get(init_params(CONFIG, jax.random.key(0)))  # each step donates its copy

    def gradient(devices, parts):
        rows = batch(parts=parts)
        own = np.stack([part.reshape(-1) for part in np.split(seeds, parts, axis=1)])
        rows = rows._replace(inputs=dataclasses.replace(rows.inputs, seeds=own))
        on = mesh(devices)
        step = make_step(encode, losses.distributed_margin, optax.sgd(1.0), on)
        state = put_state(TrainState(params, optax.sgd(1.0).init(params)), on)
        return jax.device_get(step(state, put_batch(rows, on)))

    (want, numbers), (plain, _) = gradient(1, 1), update(devices=1)
    for devices, parts in ((8, 8), (2, 8)):
        got, same = gradient(devices, parts)
        for x, y in zip(*map(jax.tree.leaves, (got.params, want.params)), strict=True):
            np.testing.assert_allclose(x, y, atol=2e-6)
        np.testing.assert_allclose(same["loss"], numbers["loss"], atol=2e-6)
    other = jax.tree.map(lambda x, y: np.abs(x - y).max(), want.params, plain.params)
    assert max(jax.tree.leaves(other)) > 1e-3


@jax.jit
def vectors(params, rows):
    texts = jax.tree.map(lambda x: x[0], rows.inputs)
    return jnp.split(make_encode(CONFIG, pooling="mean")(params, texts), 3)


def test_metrics_are_those_of_the_batchs_vectors():
    _, metrics = update()
    params = init_params(CONFIG, jax.random.key(0))
    want = losses.summaries(*vectors(params, batch()))
    for name, value in want.items():
        np.testing.assert_allclose(metrics[name], value, atol=1e-5, err_msg=name)


def other_params():
    return init_params(CONFIG, jax.random.key(7))


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_targets_from_another_encoder(micro_batches):
    """The loss and the update are those with the other encoder's vectors as constants."""
    state, metrics = update(target=other_params(), parts=8 * micro_batches)
    _, *documents = vectors(other_params(), batch())
    params = init_params(CONFIG, jax.random.key(0))

    def by_hand(params):
        return losses.distributed_margin(*vectors(params, batch()), target_from=tuple(documents))

    value, gradient = jax.jit(jax.value_and_grad(by_hand))(params)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    expected = jax.tree.map(lambda p, g: p - g, params, gradient)
    for x, y in zip(*map(jax.tree.leaves, (state.params, expected)), strict=True):
        np.testing.assert_allclose(x, y, atol=2e-6)
    for x, y in zip(*map(jax.tree.leaves, (state.target, other_params())), strict=True):
        np.testing.assert_array_equal(x, y)  # unchanged
    similar = jnp.mean(losses.sigma(jnp.sum(documents[0] * documents[1], axis=1)))
    np.testing.assert_allclose(metrics["target_mean"], similar, rtol=1e-5)


def test_moving_target_follows_the_encoder():
    first, _ = update(target=other_params(), target_decay=0.75)
    for moved, old, new in zip(
        *map(jax.tree.leaves, (first.target, other_params(), first.params)), strict=True
    ):
        np.testing.assert_allclose(moved, 0.75 * old + 0.25 * new, atol=1e-6)


def test_micro_batches_hold_the_activations_of_one():
    def temporary(parts):
        step, state, rows = setting(devices=1, parts=parts)
        blocks = 4096 // parts
        texts = dataclasses.replace(
            rows.inputs,
            **{
                name: jax.ShapeDtypeStruct((parts, blocks, *x.shape[2:]), x.dtype)
                for name in ("ids", "segment_ids", "positions", "row_kind")
                for x in [getattr(rows.inputs, name)]
            },
        )
        compiled = step.lower(state, rows._replace(inputs=texts)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(8) < temporary(1) / 5


@pytest.mark.parametrize("fsdp", [1, 2, 4, 8])
def test_devices_share_parameters_and_moments(fsdp):
    """The compiler's count of memory shows it, and a step keeps the sharding."""
    optimizer = optax.adamw(1e-3)
    step, state, rows = setting(optimizer=optimizer, fsdp=fsdp, target=other_params())
    arguments = step.lower(state, rows).compile().memory_analysis().argument_size_in_bytes
    sizes = [
        leaf.nbytes / (fsdp if is_shared(leaf, fsdp) else 1) for leaf in jax.tree.leaves(state)
    ]
    batch_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(rows)) / 8
    assert abs(arguments - sum(sizes) - batch_bytes) < 512
    if fsdp > 1:
        assert sum(sizes) < 1.1 * sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / fsdp
    before = [leaf.sharding for leaf in jax.tree.leaves(state)]
    state, _ = step(state, rows)
    assert [leaf.sharding.spec for leaf in jax.tree.leaves(state)] == [s.spec for s in before]
    shards = {leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state)}
    assert shards == {round(size) for size in sizes}


def is_shared(leaf, count):
    return any(size % count == 0 for size in leaf.shape)


def test_adamw_update_agrees_and_decays_matrices_only():
    schedule = make_schedule(
        learning_rate=1e-3, steps=10, warmup_steps=0, decay="linear", decay_rate=1.0
    )
    results = [
        update(optimizer=make_optimizer(schedule, steps=9, weight_decay=w, clip_norm=1.0))[0].params
        for w in (0.0, 0.5)
    ]
    start = jax.device_get(init_params(CONFIG, jax.random.key(0)))
    for decayed, plain, with_decay, before in zip(
        *map(jax.tree.leaves, (matrices(start), *results, start)), strict=True
    ):
        expected = plain - 1e-3 * 0.5 * before if decayed else plain
        np.testing.assert_allclose(with_decay, expected, atol=1e-7)
