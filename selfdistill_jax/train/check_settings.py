"""Checks a config for values that would fail late or make no sense."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from selfdistill_jax.data.example_order import MIXES
from selfdistill_jax.data.negatives import NEGATIVES
from selfdistill_jax.encoder.apply import BACKENDS
from selfdistill_jax.encoder.attention import ATTENTIONS
from selfdistill_jax.encoder.model import REMATS
from selfdistill_jax.errors import InputError, nearest
from selfdistill_jax.train.evaluation.final_test import SPLITS
from selfdistill_jax.train.loss import TARGET_ENCODERS
from selfdistill_jax.train.model import ADAPTERS
from selfdistill_jax.train.monitoring.trackers import TRACKERS

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
_MINIMUM = {
    "seed": 0,
    "data.negatives_per_query": 0,
    "data.candidates": 1,
    "data.dev_queries": 0,
    "data.query_length": 3,  # [CLS], one token, [SEP]
    "data.document_length": 3,
    "encoder.max_length": 0,
    "encoder.adapter_rank": 1,
    "encoder.adapter_alpha": 1,
    "train.steps": 1,
    "train.batch_size": 2,  # one query has nothing to compare with; grain batches no single rows
    "train.fsdp": 1,
    "train.micro_batches": 1,
    "data.first_examples": 0,
    "train.learning_rate": 0,
    "train.warmup_steps": 0,
    "train.weight_decay": 0,
    "train.clip_norm": 0,
    "train.checkpoint_every": 1,
    "train.evaluate_every": 1,
    "train.patience": 0,
    "evaluation.dev_documents": 0,
    "evaluation.depth": 1,
    "evaluation.retention_documents": 0,
}
_SHARES = ("train.target_decay", "data.mined_ceiling", "data.positive_from")
_NAMES = {
    "train.dtype": ("auto", *DTYPES),
    "train.side": ("both", "query"),
    "train.tracker": TRACKERS,
    "train.remat": REMATS,
    "train.attention": ATTENTIONS,
    "encoder.backend": BACKENDS,
    "encoder.dropout": ("none", "source"),
    "encoder.adapter": ADAPTERS,
    "data.negatives": NEGATIVES,
    "data.mix": MIXES,
    "evaluation.split": SPLITS,
}


def check_settings(settings: Mapping[str, Any], *, devices: int) -> None:
    """Checks each setting for itself, and the sizes that must fit together.

    Args:
      settings: values by their names, such as ``{"train.steps": 30, …}``.
      devices: number of devices of all processes.

    Raises:
      InputError: a setting is wrong.
    """
    for key, least in _MINIMUM.items():
        if not settings[key] >= least:
            raise InputError(f"config.{key} is {settings[key]}; expected {least} or more")
    for key, value in settings.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"config.{key} is {value}; expected a finite number")
    for key in _SHARES:
        if not 0 <= settings[key] <= 1:
            raise InputError(f"config.{key} is {settings[key]}; expected 0 to 1")
    for alpha in settings["evaluation.interpolation"]:
        if not isinstance(alpha, int | float) or not 0 < alpha <= 1:
            raise InputError(
                f"config.evaluation.interpolation has {alpha!r}; expected numbers above 0 and up "
                "to 1, such as (0.5, 1.0)"
            )
    for key, known in _NAMES.items():
        value = settings[key]
        if value not in known:
            raise InputError(
                f"config.{key} is {value!r}; expected {' or '.join(known)}{nearest(value, known)}"
            )
    _check_batch(settings["train.batch_size"], devices, settings["train.micro_batches"])
    target = settings["train.target"]
    if settings["train.side"] == "query" and target in TARGET_ENCODERS:
        raise InputError(
            f"config.train.target is {target!r}, but with config.train.side='query' the vectors of "
            "documents, from which targets are computed, never change; set "
            "config.train.target='model'"
        )
    candidates, needed = settings["data.candidates"], settings["data.negatives_per_query"]
    if settings["data.negatives"] != "random" and candidates < needed:
        raise InputError(
            f"config.data.candidates is {candidates}; expected {needed} or more, as many as "
            "config.data.negatives_per_query"
        )


def _check_batch(size: int, devices: int, parts: int) -> None:
    if size % (devices * parts):
        near = max(size // (devices * parts), 1) * devices * parts
        shared = f" in {parts} micro-batches each (config.train.micro_batches)" if parts > 1 else ""
        raise InputError(
            f"config.train.batch_size is {size}, which {devices} devices{shared} cannot share "
            f"equally; take a multiple of {devices * parts}, such as {near}"
        )
