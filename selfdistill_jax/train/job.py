"""Turns a config into the checked parts of a run; all other code takes the parts."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from selfdistill_jax.checkpoints.model_folder import Pretrained, read_folder
from selfdistill_jax.data.cache import cache_folder
from selfdistill_jax.data.collection import Source
from selfdistill_jax.data.examples.mixed import parse_source
from selfdistill_jax.data.sources.registry import open_source
from selfdistill_jax.encoder.apply import make_encode
from selfdistill_jax.encoder.config import read_dropout
from selfdistill_jax.encoder.dropout import NO_DROPOUT
from selfdistill_jax.errors import InputError
from selfdistill_jax.train.check_settings import DTYPES, check_settings
from selfdistill_jax.train.data.tokenized_collection import DataSettings
from selfdistill_jax.train.evaluation.encode_table import TableEncoder
from selfdistill_jax.train.loop import LoopSettings
from selfdistill_jax.train.loss import (
    TARGET_ENCODERS,
    Loss,
    check_dimensions,
    make_loss,
    needs_teacher,
)
from selfdistill_jax.train.mesh import make_mesh, split_cpu_into_devices
from selfdistill_jax.train.model import (
    Model,
    all_params,
    check_adapter_targets,
    check_attention,
    lora_params,
    with_head,
    with_settings,
)
from selfdistill_jax.train.monitoring.hardware import fastest_dtype
from selfdistill_jax.train.monitoring.trackers import check_tracker
from selfdistill_jax.train.optimizer import make_optimizer, make_schedule
from selfdistill_jax.train.processes import broadcast_from_first, on_first
from selfdistill_jax.train.run_folder import flatten


class EvaluationSettings(NamedTuple):
    """Holds the settings of ``config.evaluation``, with the other collections opened."""

    dev_documents: int
    depth: int
    interpolation: tuple[float, ...]
    split: str
    retention: tuple[Source, ...]
    retention_documents: int


class Job(NamedTuple):
    """Holds the parts of a run, read from its config and checked.

    Attributes:
      settings: the whole config as plain values, for the record.
      mesh: the mesh of all devices.
      data: the run's data settings, see `load_data`.
      loss: see `make_loss`.
      optimizer: see `make_optimizer`.
      loop: settings of the training loop.
      target_encoder: whether targets come from an encoder other than the trained one.
      target_decay: share of that encoder's parameters that each step retains.
      tracker: name of the tracker, see `open_tracker`.
      dtype: type of matrix products.
      load_model: reads the start encoder, or takes the given one, and checks the settings that
        depend on it.
    """

    settings: dict[str, Any]
    mesh: jax.sharding.Mesh
    data: DataSettings
    loss: Loss
    optimizer: optax.GradientTransformation
    target_encoder: bool
    target_decay: float
    loop: LoopSettings
    patience: int
    evaluation: EvaluationSettings
    tracker: str
    dtype: jnp.dtype
    load_model: Callable[..., Model]


def split_devices(config: ml_collections.ConfigDict) -> None:
    """Splits a CPU into devices that share a micro-batch equally; call it before JAX starts."""
    split_cpu_into_devices(config.train.batch_size // max(config.train.micro_batches, 1))


def make_job(
    config: ml_collections.ConfigDict,
    *,
    dtype: str = "",
    devices: Sequence[jax.Device] | None = None,
) -> Job:
    """Checks a config and returns the parts of its run.

    Args:
      config: a config like that of `selfdistill_jax.config`.
      dtype: the type recorded by a run that is resumed, for ``config.train.dtype="auto"``; empty to
        choose the faster one.
      devices: the devices to train on; None for all.

    Raises:
      InputError: a setting is wrong, or the data set it names does not exist.
    """
    devices = devices or jax.devices()
    check_settings(flatten(config.to_dict()), devices=len(devices))
    check_tracker(config.train.tracker)
    check_adapter_targets(_names(config.encoder.adapter_targets))
    mesh = make_mesh(devices, fsdp=config.train.fsdp)
    train, data, cache = config.train, config.data, cache_folder(config.data.cache)
    if train.dtype != "auto":
        dtype = train.dtype
    elif dtype not in DTYPES:
        dtype = _fastest_dtype(cache)
    settings = config.to_dict()
    settings["train"]["dtype"] = dtype  # not "auto", which may differ elsewhere
    decay = train.target_decay
    loss = make_loss(
        config.loss.name,
        {key: value for key, value in config.loss.items() if key != "name"},
        target=train.target,
        negatives=data.negatives_per_query,
        dimensions=train.dimensions,
    )
    schedule = make_schedule(
        learning_rate=train.learning_rate,
        steps=train.steps,
        warmup_steps=train.warmup_steps,
        decay=train.decay,
        decay_rate=train.decay_rate,
    )
    sources = [parse_source(text) for text in data.sources]
    return Job(
        settings=settings,
        mesh=mesh,
        data=DataSettings(
            source=open_source(
                dataset=data.dataset,
                triplets=data.triplets,
                dev_queries=data.dev_queries,
                columns=data.columns,
                positive_from=data.positive_from,
                first_examples=data.first_examples,
                sources=sources,
            ),
            cache=cache,
            negatives=data.negatives,
            candidates=data.candidates,
            negatives_per_query=data.negatives_per_query,
            mined_ceiling=data.mined_ceiling,
            query_length=data.query_length,
            document_length=data.document_length,
            batch_size=train.batch_size,
            micro_batches=train.micro_batches,
            seed=config.seed,
            dropout=config.encoder.dropout != "none",
            frozen_documents=train.side == "query",
            needs_teacher=needs_teacher(loss),
            dtype=dtype,
            weights=tuple(source.weight for source in sources),
            mix=data.mix,
        ),
        loss=loss,
        optimizer=make_optimizer(
            schedule, steps=train.steps, weight_decay=train.weight_decay, clip_norm=train.clip_norm
        ),
        target_encoder=train.target in TARGET_ENCODERS,
        target_decay=decay if train.target == "ema" else 1.0,
        loop=LoopSettings(
            steps=train.steps,
            batch_size=train.batch_size,
            schedule=schedule,
            checkpoint_every=train.checkpoint_every,
            evaluate_every=train.evaluate_every,
            # Fixed documents cannot collapse, but those of an untrained encoder are all alike.
            collapse_cosine=math.inf if train.side == "query" else train.collapse_cosine,
            collapse_stop=train.collapse_stop,
        ),
        patience=train.patience,
        tracker=train.tracker,
        evaluation=EvaluationSettings(
            dev_documents=config.evaluation.dev_documents,
            depth=config.evaluation.depth,
            interpolation=tuple(config.evaluation.interpolation),
            split=config.evaluation.split,
            retention=_open_retention(config.evaluation.retention),
            retention_documents=config.evaluation.retention_documents,
        ),
        dtype=DTYPES[dtype],
        load_model=partial(_load_model, config, dtype, devices[0].platform),
    )


def _open_retention(names: str) -> tuple[Source, ...]:
    """Returns the collections that forgetting is measured on, from names between commas."""
    try:
        return tuple(open_source(dataset=name.strip()) for name in names.split(",") if name.strip())
    except InputError as error:
        raise InputError(f"config.evaluation.retention: {error}") from None


def _fastest_dtype(cache: Path) -> str:
    """Returns the faster type of the first process, for all processes."""
    names = list(DTYPES)
    index = on_first(lambda: np.array([names.index(fastest_dtype(cache))], np.int32))
    return names[int(broadcast_from_first(index, (1,))[0])]


def _load_model(
    config: ml_collections.ConfigDict, dtype: str, platform: str, given: Pretrained | None = None
) -> Model:
    """Reads the start encoder and builds the functions that compute it.

    Args:
      config: the run's config.
      dtype: name of the type of matrix products.
      platform: type of the devices, such as "tpu".
      given: an encoder to use instead of ``config.encoder.init``.

    Raises:
      InputError: the encoder cannot be found or read, or a setting does not fit it.
    """
    pretrained = with_settings(
        given or read_folder(config.encoder.init, pooling=config.encoder.pooling),
        config.encoder.init,
        max_length=config.encoder.max_length,
        prompts={
            "query": config.encoder.query_prompt,
            "document": config.encoder.document_prompt,
        },
        lengths={"query": config.data.query_length, "document": config.data.document_length},
    )
    check_dimensions(config.train.dimensions, pretrained.dimensions)
    trained = all_params(pretrained)
    if config.encoder.adapter == "head":
        pretrained, trained = with_head(pretrained)
    dropout = NO_DROPOUT
    if config.encoder.dropout == "source":
        where = str(pretrained.folder / "config.json")
        dropout = read_dropout(pretrained.raw_config, where=where)
    attention = config.train.attention
    if attention not in ("auto", "own"):
        check_attention(
            attention,
            pretrained.config,
            platform=platform,
            backend=config.encoder.backend,
            dtype=dtype,
            dropout=dropout,
            longest=max(config.data.query_length, config.data.document_length),
        )
    backend = config.encoder.backend
    options: dict[str, Any] = {
        "pooling": pretrained.pooling,
        "dense": pretrained.dense,
        "dtype": DTYPES[dtype],
        "backend": "plain" if backend == "auto" and platform != "cpu" else backend,
    }
    encode = make_encode(
        pretrained.config, dropout=dropout, remat=config.train.remat, attention=attention, **options
    )
    encode_table = TableEncoder(make_encode(pretrained.config, **options), pretrained.dimensions)
    if config.encoder.adapter == "lora":
        keys = ("pooling", "max_length", "query_prompt", "document_prompt")
        recorded = {key: config.encoder[key] for key in keys}
        if config.train.side == "query":
            recorded["side"] = config.train.side
        trained = lora_params(
            pretrained,
            name=config.encoder.init,
            rank=config.encoder.adapter_rank,
            alpha=config.encoder.adapter_alpha,
            targets=_names(config.encoder.adapter_targets),
            seed=config.seed,
            settings={key: value for key, value in recorded.items() if value not in ("source", 0)},
        )
    return Model(config.encoder.init, pretrained, encode, encode_table, trained)


def _names(given: Sequence[str]) -> tuple[str, ...]:
    """Splits names at commas: ``--config.encoder.adapter_targets=query,value`` is one string."""
    names = [name.strip() for some in given for name in str(some).split(",")]
    return tuple(name for name in names if name)
