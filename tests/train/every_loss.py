"""All losses of the registry and their gradients in one program, on a mesh of any shape.

Run as a program it is one process of several:

    python -m tests.train.every_loss PORT PROCESSES PROCESS DEVICES MICRO_BATCHES OUTPUT.npz
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np

from selfdistill_jax import losses
from selfdistill_jax.data.batches import TripletBatch
from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.encoder.encode import init_params, make_encode
from selfdistill_jax.train.step import make_loss, make_mesh, put_batch
from tests.losses.reference import bound

CONFIG = EncoderConfig(50, 16, 2, 2, 32, 16)
ROWS = 16
VARIANTS = [
    *((name, {}) for name in losses.LOSSES),
    # The batch is too small for "auto" to take these.
    ("distributed", {"method": "moments", "over": "positives"}),
    ("adaptive", {"method": "moments", "in_batch": True, "stop_gradient": True}),
    ("static", {"error": "l1", "in_batch": True, "broadcast": "released"}),
    ("softmax", {"symmetric": True}),
]
# Of 2, 4 and 8 devices the second has no row; what is left falls unequally on the others.
NO_ROWS = {1: (3, 11), 2: (3, *range(8, 16)), 4: (3, 4, 5, 6, 7, 13), 8: (2, 3, 5, 14)}


def batch(no_rows=()):
    rng = np.random.default_rng(0)
    parts = []
    for width in (6, 12, 12):
        parts += [
            rng.integers(0, 50, (ROWS, width)).astype(np.int32),
            rng.integers(1, width + 1, ROWS).astype(np.int32),
        ]
    for lengths in parts[1::2]:
        lengths[list(no_rows)] = 0
    return TripletBatch(*parts, rng.standard_normal((ROWS, 2)).astype(np.float32))


def every_loss(q, p, n, *, teacher_margin, teacher_scores, where, axis_name):
    given = {"margin_mse": {"teacher_margin": teacher_margin}}
    given |= {"kl": {"teacher_scores": teacher_scores}}
    return jnp.stack(
        [
            bound(name, options)(q, p, n, where=where, axis_name=axis_name, **given.get(name, {}))
            for name, options in VARIANTS
        ]
    )


def values_and_gradients(mesh, micro_batches, rows):
    """``[losses]``, and a tree like the parameters with a leading axis of the losses."""
    params = init_params(CONFIG, jax.random.key(0))
    return jax.device_get(_compiled(mesh, micro_batches)(params, put_batch(rows, mesh)))


@functools.cache
def _compiled(mesh, micro_batches):
    encode = make_encode(CONFIG, pooling="mean")
    function = make_loss(encode, every_loss, mesh, micro_batches=micro_batches)

    def both(params, rows):
        value, pull = jax.vjp(lambda params: function(params, None, rows)[0], params)
        # One after the other, not jax.jacrev: under its vmap of 12 XLA gave other gradients for
        # one and for two micro-batches (jax 0.10.2 on a CPU; right for 8 and for each alone).
        return value, jax.lax.map(lambda one: pull(one)[0], jnp.eye(len(value)))

    return jax.jit(both)


def main(port, processes, process, devices, micro_batches, output):
    jax.config.update("jax_num_cpu_devices", int(devices))
    jax.distributed.initialize(f"127.0.0.1:{port}", int(processes), int(process))
    share = ROWS // int(processes)
    own = slice(int(process) * share, (int(process) + 1) * share)
    rows = jax.tree.map(lambda x: x[own], batch(NO_ROWS[jax.device_count()]))
    value, gradient = values_and_gradients(make_mesh(), int(micro_batches), rows)
    if jax.process_index() == 0:
        leaves = jax.tree.leaves(gradient)
        np.savez(output, value, *leaves)


if __name__ == "__main__":
    main(*sys.argv[1:])
