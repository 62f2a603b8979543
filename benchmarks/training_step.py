"""A complete training step on random tokens, without pretrained weights or data."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from selfdistill_jax.data.batches import TripletBatch
from selfdistill_jax.data.cache import cache_folder
from selfdistill_jax.data.packing import block_limit, block_of, lay_out, row_lengths, write_tokens
from selfdistill_jax.data.tokens import TokenTable
from selfdistill_jax.encoder.apply import init_params, make_encode
from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.losses import distributed_margin
from selfdistill_jax.retrieval.encode_corpus import on_accelerator
from selfdistill_jax.train.mesh import make_mesh, put_batch, put_state, split_cpu_into_devices
from selfdistill_jax.train.step import TrainState, make_step

MINILM = EncoderConfig(30522, 384, 6, 12, 1536, 512)


def batch(
    size: int, query_length: int, document_length: int, vocabulary: int, *, parts: int = 1
) -> TripletBatch:
    """A batch of random tokens in which every text has its maximum length."""
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(parts):
        tables = []
        for length in (query_length, document_length, document_length):
            ids = rng.integers(1000, vocabulary, size // parts * length, dtype=np.int32)
            table = TokenTable(ids, np.arange(size // parts + 1) * length)
            tables.append((table, np.arange(size // parts), length))
        lengths = np.concatenate([table.lengths(n) for table, _, n in tables])
        kinds = row_lengths(document_length)
        shape = {
            "block": block_of(block_limit(accelerator=on_accelerator()), kinds),
            "row_lengths": kinds,
        }
        layout = lay_out(lengths, **shape)
        texts.append(write_tokens(layout, tables, blocks=len(layout.rows), **shape))
    every = jax.tree.map(lambda *arrays: np.stack(arrays), *texts)
    return TripletBatch(every, np.zeros((size, 2), np.float32))


def kept_bytes(config: EncoderConfig, tokens: int, *, bytes_a_number: int = 4) -> int:
    """Bytes that a step stores for the backward pass of ``tokens`` tokens, padding included.

    The formula is in docs/performance.md, "Memory of a step".
    """
    d, f, h = config.hidden_size, config.intermediate_size, config.num_heads
    inner = 2 * f if config.gated else f
    return config.num_layers * tokens * (bytes_a_number * (7 * d + inner) + 4 * h)


def setup(
    *,
    batch_size: int,
    query_length: int,
    document_length: int,
    micro_batches: int = 1,
    dtype: str = "float32",
) -> tuple[Any, dict[str, Any]]:
    """For `common.Worker`: one compiled step of all-MiniLM-L6-v2's size, with the devices of a run.

    Uses the compilation cache of a run, so a second call compiles nothing. Compiling leaves about
    0.3 GB in the memory of the process.
    """
    split_cpu_into_devices(batch_size // micro_batches)
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    params = init_params(MINILM, jax.random.key(0))
    optimizer = optax.adamw(5e-5)
    mesh = make_mesh()
    encode = make_encode(MINILM, pooling="mean", dtype=jnp.dtype(dtype))
    step = make_step(encode, distributed_margin, optimizer, mesh)
    state = put_state(TrainState(params, jax.jit(optimizer.init)(params)), mesh)
    del params
    sizes = (batch_size, query_length, document_length, MINILM.vocab_size)
    rows = put_batch(batch(*sizes, parts=micro_batches * mesh.devices.size), mesh)
    return timed(step, state, rows, MINILM, dtype)


def timed(
    step: Any, state: TrainState, rows: TripletBatch, config: EncoderConfig, dtype: str
) -> tuple[Any, dict[str, Any]]:
    """For `common.Worker`: one step on a batch that is already on the devices.

    Args:
      step: the result of `make_step`; it donates the buffers of the state.
      state: the initial state.
      rows: the batch.
      config: the encoder's config.
      dtype: the dtype of the step.
    """
    compiled = step.lower(state, rows).compile()
    memory = compiled.memory_analysis()
    devices = len(rows.inputs.ids.devices())
    computed = rows.inputs.ids[0].size  # of one part on one device
    kept = kept_bytes(config, computed, bytes_a_number=jnp.dtype(dtype).itemsize)
    found: dict[str, Any] = {  # memory of all devices together
        "devices": devices,
        "temporary_gb": devices * memory.temp_size_in_bytes / 1e9,
        "useful_tokens": rows.useful_tokens,
        "kept_gb": devices * kept / 1e9,
        "state_gb": devices * sum(x.nbytes for x in jax.tree.leaves(state)) / 1e9,
    }
    state, metrics = compiled(state, rows)  # values of the first step
    found |= {name: float(metrics[name]) for name in ("loss", "gradient_norm")}

    def run() -> None:
        nonlocal state
        state, metrics = compiled(state, rows)
        jax.block_until_ready((state, metrics))

    run()
    return run, found


def loss_alone(*, batch_size: int, dimensions: int) -> tuple[Any, dict[str, Any]]:
    """For `common.Worker`: value and gradient of the default loss."""
    q, p, n = jax.random.normal(jax.random.key(0), (3, batch_size, dimensions))
    function = jax.jit(jax.value_and_grad(distributed_margin, (0, 1, 2)))
    jax.block_until_ready(function(q, p, n))

    def run() -> None:
        for _ in range(100):
            jax.block_until_ready(function(q, p, n))

    return run, {"calls": 100}
