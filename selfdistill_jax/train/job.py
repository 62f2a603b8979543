"""Turns a config into losses and encoders, and refuses wrong values before any work."""

import inspect
import math
from collections.abc import Sequence
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import traverse_util

from selfdistill_jax.checkpoints.model_folder import Pretrained, read_folder
from selfdistill_jax.data.negatives import NEGATIVES
from selfdistill_jax.encoder.apply import BACKENDS, Encode, make_encode
from selfdistill_jax.encoder.config import read_dropout
from selfdistill_jax.encoder.dropout import NO_DROPOUT, Dropout
from selfdistill_jax.encoder.model import ATTENTIONS, REMATS
from selfdistill_jax.errors import InputError, nearest
from selfdistill_jax.losses import LOSSES, matryoshka
from selfdistill_jax.train.optimizer import make_schedule
from selfdistill_jax.train.step import FROM_TEACHER, Loss, wants
from selfdistill_jax.train.trainable import ADAPTERS, check_adapter

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
# Whose document vectors make a loss's targets: the encoder's own, these as constants, those of an
# exponential moving average of it, those of the encoder it started from.
TARGETS = ("model", "detached", "ema", "start")
TARGET_ENCODERS = TARGETS[2:]  # another than the one that is trained
DROPOUTS = ("none", "source")

_MINIMUM = {
    0: (
        "seed", "train.learning_rate", "train.warmup_steps", "train.weight_decay",
        "train.clip_norm", "train.patience", "evaluation.dev_documents", "encoder.max_length",
    ),
    1: (
        "encoder.adapter_rank", "encoder.adapter_alpha",
        "train.steps", "train.micro_batches", "train.checkpoint_every", "train.evaluate_every",
        "data.candidates", "evaluation.depth",
    ),
}  # fmt: skip


def check_train(config: ml_collections.ConfigDict, devices: int) -> None:
    """Checks numbers that would fail late or mean nothing.

    Raises:
      InputError: names the key, its value and what was expected.
    """
    for least, keys in _MINIMUM.items():
        for key in keys:
            group, _, name = key.rpartition(".")
            value = config[group][name] if group else config[name]
            if not value >= least:
                raise InputError(f"config.{key} is {value}; expected {least} or more")
    for key, value in traverse_util.flatten_dict(config.to_dict(), sep=".").items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"config.{key} is {value}; expected a finite number")
    size, parts = config.train.batch_size, config.train.micro_batches
    if size < 2:  # a query alone has nothing to be compared with, and grain batches no single rows
        raise InputError(f"config.train.batch_size is {size}; expected 2 or more")
    if size % (devices * parts):
        near = max(size // (devices * parts), 1) * devices * parts
        shared = f" in {parts} micro-batches each (config.train.micro_batches)" if parts > 1 else ""
        raise InputError(
            f"config.train.batch_size is {size}, which {devices} devices{shared} cannot share "
            f"equally; take a multiple of {devices * parts}, such as {near}"
        )
    for key, value in (
        ("train.target_decay", config.train.target_decay),
        ("data.mined_ceiling", config.data.mined_ceiling),
    ):
        if not 0 <= value <= 1:
            raise InputError(f"config.{key} is {value}; expected 0 to 1")
    for key in ("query_length", "document_length"):
        if config.data[key] < 3:  # [CLS], one token, [SEP]
            raise InputError(f"config.data.{key} is {config.data[key]}; expected 3 tokens or more")
    for key, known in (
        ("train.dtype", DTYPES),
        ("train.remat", REMATS),
        ("train.attention", ATTENTIONS),
        ("encoder.backend", BACKENDS),
        ("encoder.dropout", DROPOUTS),
        ("encoder.adapter", ADAPTERS),
        ("data.negatives", NEGATIVES),
    ):
        group, _, name = key.partition(".")
        value = config[group][name]
        if value not in known:
            raise InputError(
                f"config.{key} is {value!r}; expected {' or '.join(known)}{nearest(value, known)}"
            )
    check_adapter(config)


def loss_of(config: ml_collections.ConfigDict) -> Loss:
    """The config's loss.

    Raises:
      InputError: as `make_loss_function`.
    """
    return make_loss_function(
        config.loss.name,
        {key: value for key, value in config.loss.items() if key != "name"},
        target=config.train.target,
        dimensions=config.train.dimensions,
    )


def schedule_of(config: ml_collections.ConfigDict) -> optax.Schedule:
    """The config's learning rates.

    Raises:
      InputError: as `make_schedule`.
    """
    return make_schedule(
        learning_rate=config.train.learning_rate,
        steps=config.train.steps,
        warmup_steps=config.train.warmup_steps,
        decay=config.train.decay,
        decay_rate=config.train.decay_rate,
    )


def make_loss_function(
    name: str,
    options: dict[str, Any],
    *,
    target: str = "model",
    dimensions: Sequence[int] = (),
) -> Loss:
    """A loss of the registry with its options bound.

    Args:
      name: in `LOSSES`.
      options: its keyword arguments.
      target: one of `TARGETS`.
      dimensions: sizes that are trained beside the whole vectors, see `check_dimensions`.

    Raises:
      InputError: no such loss, an option it does not take, a value it refuses, or a target for a
        loss that has none.
    """
    if name not in LOSSES:
        raise InputError(
            f"config.loss.name is {name!r}; expected one of {', '.join(LOSSES)}"
            f"{nearest(name, LOSSES)}"
        )
    for argument in ("where", "axis_name"):
        if not wants(LOSSES[name], argument):
            raise InputError(
                f"config.loss.name: the loss {name!r} takes no {argument!r}, which the training "
                "step gives it; see 'A loss of your own' in docs/losses.md"
            )
    arrays = ("q", "p", "n", "where", "axis_name", "target_from", *FROM_TEACHER)
    taken = [o for o in inspect.signature(LOSSES[name]).parameters if o not in arrays]
    for option in options:
        if option not in taken:
            raise InputError(
                f"config.loss.{option}: the loss {name!r} has no such option (it has "
                f"{', '.join(taken)}); start from the config of that loss"
            )
    if target not in TARGETS:
        raise InputError(
            f"config.train.target is {target!r}; expected {', '.join(TARGETS)}"
            f"{nearest(target, TARGETS)}"
        )
    needed = {"model": None, "detached": "stop_gradient"}.get(target, "target_from")
    if needed and not wants(LOSSES[name], needed):
        raise InputError(
            f"config.train.target is {target!r}; the loss {name!r} has no target of its own making"
        )
    loss = partial(LOSSES[name], **options)
    if target == "detached":
        loss = partial(loss, stop_gradient=True)
    example = jax.ShapeDtypeStruct((2, 4), jnp.float32)
    scores = jnp.zeros((2, 2))
    given = {key: make(scores) for key, make in FROM_TEACHER.items() if wants(loss, key)}
    try:
        result = jax.eval_shape(partial(loss, **given), example, example, example)
    except (TypeError, ValueError) as error:
        raise InputError(f"config.loss: {error}") from None
    if result.shape != ():
        raise InputError(
            f"config.loss.name: the loss {name!r} gives an array of shape {result.shape}; expected "
            "a scalar, for instance by losses.global_mean(terms, where, axis_name)"
        )
    return _at_dimensions(loss, dimensions) if dimensions else loss


def _at_dimensions(loss: Loss, dimensions: Sequence[int]) -> Loss:
    """The loss of the whole vectors and, added to it, of their first dimensions."""

    @wraps(loss)  # the step asks for its parameters
    def at_dimensions(q, p, n, **options):
        return matryoshka(loss, q, p, n, dimensions=(q.shape[-1], *dimensions), **options)

    return at_dimensions


def check_dimensions(dimensions: Sequence[int], whole: int) -> None:
    """Checks ``config.train.dimensions`` against the size of the encoder's vectors.

    Raises:
      InputError: what is wrong with the first that cannot be trained.
    """
    before = whole
    for size in dimensions:
        if not isinstance(size, int) or not 1 <= size < before:
            raise InputError(
                f"config.train.dimensions has {size!r}; expected whole numbers from large to "
                f"small, each once and below the {whole} of the encoder, which are always trained"
            )
        before = size


def load_encoder(config: ml_collections.ConfigDict) -> Pretrained:
    """The start encoder, with the run's pooling, prompts and maximum length.

    Raises:
      InputError: it cannot be found or read, or the lengths asked for are longer than it reads.
    """
    encoder = read_folder(config.encoder.init, pooling=config.encoder.pooling)
    positions, longest = encoder.config.max_positions, config.encoder.max_length
    if longest > positions:
        raise InputError(
            f"config.encoder.max_length is {longest}; {config.encoder.init} has {positions} "
            "positions"
        )
    given = {"query": config.encoder.query_prompt, "document": config.encoder.document_prompt}
    encoder = encoder._replace(
        max_length=longest or min(encoder.max_length, positions),
        prompts=encoder.prompts.replaced(**{k: v for k, v in given.items() if v != "source"}),
    )
    for key in ("query_length", "document_length"):
        if config.data[key] > encoder.max_length:
            raise InputError(
                f"config.data.{key} is {config.data[key]}; {config.encoder.init} reads "
                f"{encoder.max_length} tokens (config.encoder.max_length, at most {positions})"
            )
    return encoder


def make_encoders(config: ml_collections.ConfigDict, encoder: Pretrained) -> tuple[Encode, Encode]:
    """The function that is trained, and that which evaluates.

    Raises:
      InputError: what the source says of dropout is no share, or attention cannot be computed as
        the config has it.
    """
    options: dict[str, Any] = {
        "pooling": encoder.pooling,
        "dense": encoder.dense,
        "dtype": DTYPES[config.train.dtype],
        "backend": config.encoder.backend,
    }
    dropout = NO_DROPOUT
    if config.encoder.dropout == "source":
        where = str(encoder.folder / "config.json")
        dropout = read_dropout(encoder.raw_config, where=where)
    attention = config.train.attention
    if attention != "own":
        _check_attention(config, encoder, dropout)
    training = make_encode(
        encoder.config, dropout=dropout, remat=config.train.remat, attention=attention, **options
    )
    return training, make_encode(encoder.config, **options)


def _check_attention(config, encoder: Pretrained, dropout: Dropout) -> None:
    key = f"config.train.attention is {config.train.attention!r}"
    if config.encoder.backend == "cpu":
        raise InputError(f"{key}; take 'own', or config.encoder.backend='plain'")
    if dropout.attention:
        raise InputError(
            f"{key}, which drops no weights; take 'own', or config.encoder.dropout='none'"
        )
    if config.train.attention != "cudnn":
        return
    size = encoder.config.head_size
    for wrong, found in (
        (jax.default_backend() != "gpu", f"devices are {jax.default_backend()}"),
        (config.train.dtype != "bfloat16", f"config.train.dtype is {config.train.dtype!r}"),
        (size % 8 or size > 128, f"heads have {size} numbers"),
    ):
        if wrong:
            raise InputError(
                f"{key}, and {found}; cuDNN needs an NVIDIA GPU, 'bfloat16', and heads of a "
                "multiple of 8 up to 128"
            )
