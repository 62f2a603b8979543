"""A whole training step on made-up tokens: an encoder of any size, without weights or data."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from selfdistill_jax.data.batches import TripletBatch
from selfdistill_jax.data.cache import cache_folder
from selfdistill_jax.data.packing import block_of, lay_out, row_lengths, write_tokens
from selfdistill_jax.data.tokens import TokenTable
from selfdistill_jax.encoder.apply import init_params, make_encode
from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.losses import distributed_margin
from selfdistill_jax.retrieval.encode_corpus import block_tokens
from selfdistill_jax.train.cpu_devices import split_cpu_into_devices
from selfdistill_jax.train.mesh import make_mesh, put_batch, put_state
from selfdistill_jax.train.step import TrainState, make_step

MINILM = EncoderConfig(30522, 384, 6, 12, 1536, 512)


def batch(
    size: int, query_length: int, document_length: int, vocabulary: int, *, parts: int = 1
) -> TripletBatch:
    """Random tokens; every text is as long as its kind can be."""
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
        shape = {"block": block_of(block_tokens(), kinds), "row_lengths": kinds}
        layout = lay_out(lengths, **shape)
        texts.append(write_tokens(layout, tables, blocks=len(layout.rows), **shape))
    every = jax.tree.map(lambda *arrays: np.stack(arrays), *texts)
    return TripletBatch(every, np.zeros((size, 2), np.float32))


def kept_bytes(config: EncoderConfig, tokens: int, *, bytes_a_number: int = 4) -> int:
    """What a step keeps of so many tokens for its backward pass, padding included: the formula of
    docs/performance.md."""
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
    """For `common.Worker`: one step of all-MiniLM-L6-v2's size, compiled, on devices as a run has.

    Compiled programs are kept as a run keeps them; called again, nothing is compiled, which alone
    takes some 0.3 GB that the process keeps.
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
    """For `common.Worker`: one step on a batch that lies on the devices.

    Args:
      step: of `make_step`; takes the state's buffers.
      state: to begin with.
      rows: the batch.
      config: of the encoder.
      dtype: of the step.
    """
    compiled = step.lower(state, rows).compile()
    memory = compiled.memory_analysis()
    devices = len(rows.texts.ids.devices())
    computed = rows.texts.ids[0].size  # of a device, all at once where it has one part
    kept = kept_bytes(config, computed, bytes_a_number=jnp.dtype(dtype).itemsize)
    found: dict[str, Any] = {  # memory is of all devices together
        "devices": devices,
        "temporary_gb": devices * memory.temp_size_in_bytes / 1e9,
        "useful_tokens": rows.useful_tokens,
        "kept_gb": devices * kept / 1e9,
        "state_gb": devices * sum(x.nbytes for x in jax.tree.leaves(state)) / 1e9,
    }
    state, metrics = compiled(state, rows)  # the values to compare: of the first step
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
