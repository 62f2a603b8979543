"""Compiles a tiny step for a TPU topology, without a TPU, and prints facts about it as JSON.

    python -m tests.train.tpu_step v5e:2x2 NUMBER_OF_SLICES ATTENTION

libtpu must be importable; `run` calls this program with the variables that libtpu needs.
"""

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

# Where `make tpu` installs libtpu. If it were in the environment itself, JAX would look for a TPU.
FOLDER = Path(sys.prefix) / "tpu"
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
    # A client that only compiles cannot read back the entries that it writes.
    "JAX_ENABLE_COMPILATION_CACHE": "false",
}
TRIPLETS, SIZE, HEADS, LAYERS = 64, 128, 4, 2


def is_installed() -> bool:
    return (FOLDER / "libtpu").is_dir() or importlib.util.find_spec("libtpu") is not None


def run(topology: str, slices: int = 1, attention: str = "auto") -> dict:
    """Compiles in a new process, and returns the facts."""
    environment = {**os.environ, **_ENVIRONMENT}
    environment["PYTHONPATH"] = os.pathsep.join((os.environ["PYTHONPATH"], str(FOLDER)))
    command = [sys.executable, "-m", "tests.train.tpu_step", topology, str(slices), attention]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def main(topology: str, slices: int, attention: str) -> None:
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from jax.experimental import topologies

    from selfdistill_jax import losses
    from selfdistill_jax.data.batches import TrainingBatches
    from selfdistill_jax.data.negatives import KnownPositives
    from selfdistill_jax.data.packing import LANES, MOST_TOKENS
    from selfdistill_jax.data.store import Examples
    from selfdistill_jax.data.tokens import TokenTable
    from selfdistill_jax.encoder.apply import init_params, make_encode
    from selfdistill_jax.encoder.config import EncoderConfig
    from selfdistill_jax.train.mesh import batch_shapes, make_mesh, state_shapes
    from selfdistill_jax.train.step import TrainState, make_step

    options = {"num_slices": slices} if slices > 1 else {}
    devices = topologies.get_topology_desc(
        platform="tpu", topology_name=topology, **options
    ).devices
    mesh = make_mesh(devices)
    lengths = np.tile([5, 9, 30, 60], TRIPLETS)
    table = TokenTable(
        np.full(lengths.sum(), 7, np.int32), np.concatenate([[0], np.cumsum(lengths)])
    )
    rows = np.arange(TRIPLETS, dtype=np.int32)
    batches = TrainingBatches(
        table,
        table,
        Examples(rows, rows, rows[:, None] + TRIPLETS, np.zeros((TRIPLETS, 2), np.float32)),
        known=KnownPositives(rows, rows, range(len(lengths)), 1),
        pool=range(len(lengths)),
        candidates=None,
        seed=0,
        batch_size=TRIPLETS,
        query_length=20,
        document_length=60,
        parts=len(devices),
        block=MOST_TOKENS,
        single_block=True,
    )
    batch = batches[0]
    config = EncoderConfig(1000, SIZE, LAYERS, HEADS, 192, 64)
    options = {"dtype": jnp.bfloat16, "backend": "plain", "attention": attention}
    encode = make_encode(config, pooling="mean", **options)
    params = jax.eval_shape(partial(init_params, config), jax.random.key(0))
    optimizer = optax.adamw(1e-3)
    step = make_step(encode, losses.distributed_margin, optimizer, mesh)
    state = TrainState(params, jax.eval_shape(optimizer.init, params))
    # One process compiles for all hosts, so its batch is the global batch.
    shapes = jax.tree.map(
        lambda x, whole: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole.sharding),
        batch,
        batch_shapes(batch, mesh),
    )
    compiled = step.lower(state_shapes(state, mesh), shapes).compile()
    text = compiled.as_text()
    facts = {
        "devices": len(devices),
        "kernels": text.count('custom_call_target="tpu_custom_call"'),
        "conditionals": len(re.findall(r" conditional\(", text)),
        "loops": len(re.findall(r" while\(", text)),
        "host": len(re.findall(r"infeed|outfeed|callback", text)),
        "transfers": len(re.findall(r" (?:send|recv)\(", text)),
        "parameter_bytes": 4 * sum(x.size for x in jax.tree.leaves(params)),
        "arrays_of_scores": _sizes(text).count(batch.inputs.ids[0].size * HEADS * LANES),
    }
    for name in ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"):
        lines = re.findall(rf"^.* = (.*?) {name}(?:-start)?\(", text, re.MULTILINE)
        facts[name] = sorted((sum(_bytes(line)) for line in lines), reverse=True)
    print(json.dumps(facts))


def _bytes(text: str):
    """Yields the bytes of each array of an HLO type."""
    widths = {"pred": 1, "bf16": 2, "s32": 4, "u32": 4, "f32": 4}
    for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", text):
        yield widths[kind] * math.prod(map(int, filter(None, shape.split(","))))


def _sizes(text: str) -> list[int]:
    """Returns the number of elements of each array in a compiled program."""
    shapes = re.findall(r"\w+\[([\d,]+)\]", text)
    return [math.prod(map(int, shape.split(","))) for shape in shapes]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
