"""Defines the encoder of a run: how it is computed, and which of its parameters are trained."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from selfdistill_jax.checkpoints.layout import DOCUMENT_ENCODER
from selfdistill_jax.checkpoints.model_folder import Pretrained, document_encoder
from selfdistill_jax.checkpoints.peft import write_lora
from selfdistill_jax.data.packing import accelerator_row_length
from selfdistill_jax.encoder.apply import Encode, Params
from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.encoder.dense_head import identity_layer
from selfdistill_jax.encoder.dropout import Dropout
from selfdistill_jax.encoder.lora import TARGETS, apply_lora, init_lora
from selfdistill_jax.encoder.tpu import row_attention
from selfdistill_jax.errors import InputError, nearest
from selfdistill_jax.train.evaluation.encode_table import TableEncoder

# Folders in a run's folder: the whole encoder, and the LoRA adapter alone.
MODEL, ADAPTER = "model", "adapter"
ADAPTERS = ("none", "lora", "head")


class TrainableParams(NamedTuple):
    """Holds the trained part of an encoder's parameters.

    Attributes:
      start: the parameters that training starts from.
      merge: ``(base, trained) -> params`` returns the parameters of the whole encoder.
      base: the frozen parameters; None if everything is trained.
      through_layers: whether gradients flow through the encoder's layers.
      write: ``(path, trained, card)`` writes the trained part alone; None if it is everything.
    """

    start: Params
    merge: Callable[[Params | None, Params], Params]
    base: Params | None = None
    through_layers: bool = True
    write: Callable[[Path, Params, str], None] | None = None

    def merged(self, trained: Params) -> Params:
        """Returns the whole encoder's parameters, given the trained ones."""
        return self.merge(self.base, trained)


class Model(NamedTuple):
    """Holds a run's encoder.

    Attributes:
      name: the folder or hub id that it was read from.
      pretrained: the start encoder, with the run's pooling, prompts and maximum length.
      encode: ``(params, texts) -> [M, D]`` in training, with dropout.
      encode_table: encodes token tables for search, without dropout.
      trained: its trained parameters.
    """

    name: str
    pretrained: Pretrained
    encode: Encode
    encode_table: TableEncoder
    trained: TrainableParams


def with_settings(
    encoder: Pretrained,
    name: str,
    *,
    max_length: int,
    prompts: Mapping[str, str],
    lengths: Mapping[str, int],
) -> Pretrained:
    """Applies a run's prompts and maximum length to a start encoder.

    Args:
      encoder: the start encoder, with the run's pooling.
      name: its folder or hub id.
      max_length: tokens read per text outside training; 0 keeps the source's value.
      prompts: prompts of queries and documents; "source" keeps the source's.
      lengths: tokens that queries and documents are truncated to in training.

    Raises:
      InputError: the encoder encodes only queries, or a length exceeds its maximum.
    """
    if document_encoder(encoder) is not None:
        raise InputError(
            f"config.encoder.init: {name} encodes only queries; start from a model that encodes "
            f"queries and documents, such as its subfolder {DOCUMENT_ENCODER}"
        )
    positions = encoder.config.max_positions
    if max_length > positions:
        raise InputError(
            f"config.encoder.max_length is {max_length}; expected at most {positions}, the number "
            f"of positions of {name}"
        )
    encoder = encoder._replace(
        max_length=max_length or min(encoder.max_length, positions),
        prompts=encoder.prompts.replaced(**{k: v for k, v in prompts.items() if v != "source"}),
    )
    for kind, length in lengths.items():
        if length > encoder.max_length:
            raise InputError(
                f"config.data.{kind}_length is {length}; expected at most {encoder.max_length}, "
                f"which {name} reads (config.encoder.max_length raises this up to {positions})"
            )
    return encoder


def check_adapter_targets(targets: Sequence[str]) -> None:
    """Checks the names of the matrices that a LoRA adapter is added to.

    Raises:
      InputError: a name is unknown or given twice, or there is none.
    """
    known = ", ".join(TARGETS)
    for name in targets:
        if name not in TARGETS:
            raise InputError(
                f"config.encoder.adapter_targets has {name!r}; expected some of {known}"
                f"{nearest(name, TARGETS)}"
            )
    if not targets or len(set(targets)) < len(targets):
        raise InputError(
            f"config.encoder.adapter_targets is {targets}; expected some of {known}, each once"
        )


def check_attention(
    attention: str,
    config: EncoderConfig,
    *,
    platform: str,
    backend: str,
    dtype: str,
    dropout: Dropout,
    longest: int,
) -> None:
    """Checks that an implementation of attention can compute an encoder's.

    Args:
      attention: "pallas", "xla" or "cudnn".
      config: the encoder's sizes.
      platform: type of the devices, such as "tpu".
      backend, dtype: ``config.encoder.backend``, and the type of matrix products.
      dropout: the encoder's dropout.
      longest: number of tokens of the longest text.

    Raises:
      InputError: a setting, the device or the encoder rules it out.
    """
    key = f"config.train.attention is {attention!r}"
    if backend == "cpu":
        raise InputError(
            f"{key}, but config.encoder.backend 'cpu' has its own; set "
            "config.train.attention='auto' or config.encoder.backend='plain'"
        )
    if dropout.attention:
        raise InputError(
            f"{key}, which does not support the encoder's attention dropout; set "
            "config.train.attention='auto' or config.encoder.dropout='none'"
        )
    heads, size = config.num_heads, config.head_size
    length = accelerator_row_length(longest)
    fits = row_attention.supports(length=length, heads=heads, head_size=size)
    needs, problems = {
        "xla": ("", ()),
        "pallas": (
            "the kernel needs a TPU, texts of up to 512 tokens, and heads of 32, 64, 128 or 256 "
            "that fill tiles of 128",
            (
                (platform != "tpu", f"the devices are of type {platform!r}"),
                (not fits, f"there are {heads} heads of {size} and texts of up to {longest}"),
            ),
        ),
        "cudnn": (
            "cuDNN needs an NVIDIA GPU, config.train.dtype='bfloat16' and a head size that is a "
            "multiple of 8 up to 128",
            (
                (platform != "gpu", f"the devices are of type {platform!r}"),
                (dtype != "bfloat16", f"config.train.dtype is {dtype!r}"),
                (size % 8 or size > 128, f"the size of an attention head is {size}"),
            ),
        ),
    }[attention]
    for wrong, found in problems:
        if wrong:
            raise InputError(
                f"{key}, but {found}; {needs}; otherwise set config.train.attention='auto'"
            )


def all_params(pretrained: Pretrained) -> TrainableParams:
    """Returns all parameters as the trained part."""
    return TrainableParams(pretrained.params, lambda base, trained: trained)


def lora_params(
    pretrained: Pretrained,
    *,
    name: str,
    rank: int,
    alpha: int,
    targets: Sequence[str],
    seed: int,
    settings: Mapping[str, Any],
) -> TrainableParams:
    """Returns a new LoRA adapter as the trained part.

    Args:
      pretrained: the start encoder, whose parameters are frozen.
      name: its folder or hub id, recorded in the adapter's folder.
      rank, targets: see `init_lora`.
      alpha: the adapter's contribution is scaled by alpha / rank.
      seed: seed of its random numbers.
      settings: settings that differ from the start encoder's, see `write_adapter`.
    """
    base = pretrained.params
    start = init_lora(base, rank=rank, targets=targets, key=jax.random.key(seed))

    def write(path: Path, trained: Params, card: str) -> None:
        options: dict[str, Any] = {"base": name, "card": card, "settings": settings}
        write_lora(path, trained, pretrained.config, alpha=alpha, **options)

    merge = partial(apply_lora, scale=alpha / rank)
    return TrainableParams(jax.device_get(start), cast(Any, merge), base, write=write)


def with_head(pretrained: Pretrained) -> tuple[Pretrained, TrainableParams]:
    """Adds a dense layer, at first the identity, as the trained part of a frozen encoder.

    The trained parameters are the difference to the identity, so that weight decay pulls to the
    start encoder.

    Returns:
      The encoder with the layer, which gives the same vectors, and the trained part.
    """
    layer, identity = identity_layer(pretrained.dimensions)
    number, before = str(len(pretrained.dense)), pretrained.params.get("dense", {})
    params = {**pretrained.params, "dense": {**before, number: identity}}

    def merge(base, trained):
        kernel = base["dense"][number]["kernel"] + trained["kernel"]
        return {**base, "dense": {**base["dense"], number: {"kernel": kernel}}}

    start = jax.tree.map(np.zeros_like, identity)
    pretrained = pretrained._replace(params=params, dense=(*pretrained.dense, layer))
    return pretrained, TrainableParams(start, merge, params, through_layers=False)
