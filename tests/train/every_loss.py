"""Computes all registered losses and their gradients in one program, on a mesh of any shape.

Run as a program, it is one of several processes:

    python -m tests.train.every_loss PORT PROCESSES PROCESS DEVICES FSDP MICRO_BATCHES OUTPUT.npz
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np

from selfdistill_jax import losses
from selfdistill_jax.data.batches import TripletBatch
from selfdistill_jax.data.packing import lay_out, write_tokens
from selfdistill_jax.data.tokens import TokenTable
from selfdistill_jax.encoder.apply import init_params, make_encode
from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.train.mesh import make_mesh, put_batch, put_state, to_host
from selfdistill_jax.train.step import make_global_loss
from tests.losses.reference import bound

CONFIG = EncoderConfig(50, 16, 2, 2, 32, 16)
ROWS = 16
VARIANTS = [
    *((name, {}) for name in losses.LOSSES),
    # The batch is too small for "auto" to choose these methods.
    ("distributed", {"method": "moments", "over": "positives"}),
    ("adaptive", {"method": "moments", "in_batch": True, "stop_gradient": True}),
    ("static", {"error": "l1", "in_batch": True, "broadcast": "released"}),
    ("softmax", {"symmetric": True}),
    ("distributed", {"method": "moments", "dimensions": (16, 5)}),
]
# Number of devices -> masked rows. Device 2 has no rows left, the others have different numbers.
NO_ROWS = {1: (3, 11), 2: (3, *range(8, 16)), 4: (3, 4, 5, 6, 7, 13), 8: (2, 3, 5, 14)}


def batch(no_rows=(), parts=1, rows=slice(None), fewest=1, kinds=3):
    """Returns a batch.

    Args:
      no_rows: triplets that are masked.
      parts: number of parts.
      rows: the triplets to take.
      fewest: smallest length of a text before masking.
      kinds: 1 for queries alone, 3 for queries, positives and negatives.
    """
    rng = np.random.default_rng(0)
    columns, lengths = [], []
    for width in (6, 12, 12):
        columns.append(rng.integers(0, 50, (ROWS, width)).astype(np.int32))
        lengths.append(np.maximum(rng.integers(1, width + 1, ROWS), fewest))
    scores = rng.standard_normal((ROWS, 2)).astype(np.float32)[rows]
    lengths = np.stack(lengths)
    lengths[:, list(no_rows)] = 0
    # Texts share rows of three lengths, and every part has another layout.
    texts = [
        pack([c[rows][at] for c in columns[:kinds]], lengths[:kinds, rows][:, at])
        for at in np.split(np.arange(len(scores)), parts)
    ]
    return TripletBatch(jax.tree.map(lambda *x: np.stack(x), *texts), scores)


def pack(columns, lengths):
    tables = []
    for ids, sizes in zip(columns, lengths, strict=True):
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        flat = np.concatenate([row[:n] for row, n in zip(ids, sizes, strict=True)])
        tables.append((TokenTable(flat, offsets), np.arange(len(sizes)), 12))
    shape = {"block": 32, "row_lengths": (8, 16, 32)}
    layout = lay_out(lengths.reshape(-1), **shape)
    return write_tokens(layout, tables, blocks=2 + 3 * len(lengths[0]), **shape)


def every_loss(q, p, n, *, teacher_margin, teacher_scores, where, axis_name):
    given = {"margin_mse": {"teacher_margin": teacher_margin}}
    given |= {"kl": {"teacher_scores": teacher_scores}}
    return jnp.stack(
        [
            bound(name, options)(q, p, n, where=where, axis_name=axis_name, **given.get(name, {}))
            for name, options in VARIANTS
        ]
    )


def values_and_gradients(mesh, rows):
    """Returns values ``[losses]``, and gradients with a leading axis of the losses."""
    params = init_params(CONFIG, jax.random.key(0))
    # Gathers whole arrays, since a process holds only its shards of the gradients.
    return to_host(_compiled(mesh)(put_state(params, mesh), put_batch(rows, mesh)))


@functools.cache
def _compiled(mesh):
    function = make_global_loss(make_encode(CONFIG, pooling="mean"), every_loss, mesh)

    def both(params, rows):
        value, pull = jax.vjp(lambda params: function(params, None, rows)[0], params)
        # One loss at a time, not jax.jacrev: under its vmap of 12 losses, XLA's gradients differed
        # between one and two micro-batches (jax 0.10.2 on a CPU; right for 8 and for each alone).
        return value, jax.lax.map(lambda one: pull(one)[0], jnp.eye(len(value)))

    return jax.jit(both)


def main(port, processes, process, devices, fsdp, micro_batches, output):
    jax.config.update("jax_num_cpu_devices", int(devices))
    jax.distributed.initialize(f"127.0.0.1:{port}", int(processes), int(process))
    share = ROWS // int(processes)
    own = slice(int(process) * share, (int(process) + 1) * share)
    parts = int(devices) * int(micro_batches)
    rows = batch(NO_ROWS[jax.device_count()], parts, own)
    value, gradient = values_and_gradients(make_mesh(fsdp=int(fsdp)), rows)
    if jax.process_index() == 0:
        leaves = jax.tree.leaves(gradient)
        np.savez(output, value, *leaves)


if __name__ == "__main__":
    main(*sys.argv[1:])
