"""Builds a training step of an encoder, and batches from a BEIR folder's training pairs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.training_step import timed
from configs import distributed
from selfdistill_jax.data.batch_shape import BatchShape
from selfdistill_jax.data.batches import TripletBatch
from selfdistill_jax.data.cache import cache_folder
from selfdistill_jax.encoder.apply import make_encode
from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.losses import distributed_margin
from selfdistill_jax.train.data.dataset import load_data
from selfdistill_jax.train.job import make_job
from selfdistill_jax.train.mesh import make_mesh, put_batch, split_cpu_into_devices
from selfdistill_jax.train.optimizer import make_optimizer
from selfdistill_jax.train.step import TrainState, make_step, start_state


class RealStep(NamedTuple):
    """The result of `build`.

    Attributes:
      config: the encoder's config.
      step: the jitted step, which donates the buffers of its state.
      state: the initial state.
      batches: batches on the devices.
      shape: the shape of the batches.
      useful_tokens, computed_tokens: mean numbers of tokens in a batch.
      devices: number of devices.
    """

    config: EncoderConfig
    step: Any
    state: TrainState
    batches: list[TripletBatch]
    shape: BatchShape
    useful_tokens: float
    computed_tokens: float
    devices: int


def build(
    *,
    model: str,
    dataset: str,
    batch_size: int,
    query_length: int,
    document_length: int,
    dtype: str,
    backend: str = "auto",
    count: int = 4,
) -> RealStep:
    """Builds the step of a run of ``configs/distributed.py``, with the devices of such a run.

    Args:
      model: folder or hub id.
      dataset: BEIR folder with ``qrels/train.tsv``.
      batch_size, query_length, document_length, dtype, backend: settings of the config.
      count: number of batches to make.
    """
    split_cpu_into_devices(batch_size)
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    config = distributed.get_config()
    config.encoder.init, config.data.dataset = model, dataset
    config.data.query_length, config.data.document_length = query_length, document_length
    config.train.batch_size = batch_size
    job = make_job(config)
    model = job.load_model()
    encoder, made = model.pretrained, load_data(job.data, model)[1]
    batches = [made[number] for number in range(count)]
    optimizer = make_optimizer(lambda step: 5e-5, steps=1, weight_decay=0.01, clip_norm=1.0)
    mesh = make_mesh()
    encode = make_encode(
        encoder.config, pooling=encoder.pooling, dtype=jnp.dtype(dtype), backend=backend
    )
    step = make_step(encode, distributed_margin, optimizer, mesh)
    state = start_state(encoder.params, optimizer, mesh, target=False)
    on_devices = [put_batch(batch, mesh) for batch in batches]
    return RealStep(
        encoder.config,
        step,
        state,
        on_devices,
        made.shape,
        sum(batch.useful_tokens for batch in batches) / count,
        sum(batch.computed_tokens for batch in batches) / count,
        mesh.devices.size,
    )


def setup(**settings: Any) -> tuple[Any, dict[str, Any]]:
    """For `common.Worker`: one step on the first batch; takes the settings of `build`."""
    made = build(count=1, **settings)
    return timed(made.step, made.state, made.batches[0], made.config, settings["dtype"])
