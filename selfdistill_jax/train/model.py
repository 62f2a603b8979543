"""The encoder of a run: the functions that compute it, and which of its parameters are trained."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax

from selfdistill_jax.checkpoints.model_folder import Pretrained, read_folder
from selfdistill_jax.checkpoints.peft import write_lora
from selfdistill_jax.encoder.apply import Encode, Params
from selfdistill_jax.encoder.dropout import Dropout
from selfdistill_jax.encoder.lora import TARGETS, apply_lora, init_lora
from selfdistill_jax.errors import InputError, nearest
from selfdistill_jax.train.evaluation.encode_table import TableEncoder

# In a run's folder: the whole encoder, and the LoRA adapter alone.
MODEL, ADAPTER = "model", "adapter"
ADAPTERS = ("none", "lora")


class TrainableParams(NamedTuple):
    """The trained part.

    Attributes:
      start: the parameters that training begins with.
      merge: ``(base, trained) -> params``: the whole encoder's, which it computes with.
      base: the frozen parameters; None where everything is trained.
      write: ``(path, trained, card)`` writes the trained part alone; None where it is everything.
    """

    start: Params
    merge: Callable[[Params | None, Params], Params]
    base: Params | None = None
    write: Callable[[Path, Params, str], None] | None = None

    def merged(self, trained: Params) -> Params:
        """Returns the whole encoder's parameters, given the trained ones."""
        return self.merge(self.base, trained)


class Model(NamedTuple):
    """A run's encoder.

    Attributes:
      name: folder or hub id that it was read from.
      pretrained: the start encoder, with the run's pooling, prompts and maximum length.
      encode: ``(params, texts) -> [M, D]``, as it is trained: with dropout.
      encode_table: encodes token tables for search: without dropout.
      trained: which of its parameters are trained.
    """

    name: str
    pretrained: Pretrained
    encode: Encode
    encode_table: TableEncoder
    trained: TrainableParams


def read_encoder(
    name: str,
    *,
    pooling: str,
    max_length: int,
    prompts: Mapping[str, str],
    lengths: Mapping[str, int],
) -> Pretrained:
    """Reads a start encoder, and gives it a run's pooling, prompts and maximum length.

    Args:
      name: folder or hub id.
      pooling: see `read_folder`.
      max_length: tokens read of a text outside training; 0: what the source says.
      prompts: of queries and documents; "source": as the source has them.
      lengths: tokens that queries and documents are cut at in training.

    Raises:
      InputError: it cannot be found or read, or the lengths asked for are longer than it reads.
    """
    encoder = read_folder(name, pooling=pooling)
    positions = encoder.config.max_positions
    if max_length > positions:
        raise InputError(
            f"config.encoder.max_length is {max_length}; {name} has {positions} positions"
        )
    encoder = encoder._replace(
        max_length=max_length or min(encoder.max_length, positions),
        prompts=encoder.prompts.replaced(**{k: v for k, v in prompts.items() if v != "source"}),
    )
    for kind, length in lengths.items():
        if length > encoder.max_length:
            raise InputError(
                f"config.data.{kind}_length is {length}; {name} reads {encoder.max_length} tokens "
                f"(config.encoder.max_length, at most {positions})"
            )
    return encoder


def check_adapter_targets(targets: Sequence[str]) -> None:
    """Checks the names of the matrices that a LoRA adapter stands beside.

    Raises:
      InputError: an unknown name, one given twice, or none.
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
    attention: str, *, backend: str, dtype: str, dropout: Dropout, head_size: int
) -> None:
    """Checks that `jax.nn.dot_product_attention` can compute an encoder's attention.

    Args:
      attention: "xla" or "cudnn".
      backend, dtype: ``config.encoder.backend``, and the type of matrix products.
      dropout, head_size: of the encoder.

    Raises:
      InputError: what stands in the way.
    """
    key = f"config.train.attention is {attention!r}"
    if backend == "cpu":
        raise InputError(f"{key}; take 'own', or config.encoder.backend='plain'")
    if dropout.attention:
        raise InputError(
            f"{key}, which drops no weights; take 'own', or config.encoder.dropout='none'"
        )
    if attention != "cudnn":
        return
    for wrong, found in (
        (jax.default_backend() != "gpu", f"devices are {jax.default_backend()}"),
        (dtype != "bfloat16", f"config.train.dtype is {dtype!r}"),
        (head_size % 8 or head_size > 128, f"heads have {head_size} numbers"),
    ):
        if wrong:
            raise InputError(
                f"{key}, and {found}; cuDNN needs an NVIDIA GPU, 'bfloat16', and heads of a "
                "multiple of 8 up to 128"
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
      pretrained: its parameters stay as they are.
      name: folder or hub id of it, noted in the adapter's folder.
      rank, targets: see `init_lora`.
      alpha: what the adapter adds is scaled by alpha / rank.
      seed: of its random numbers.
      settings: what is computed with another value than in the start encoder, see `write_adapter`.
    """
    base = pretrained.params
    start = init_lora(base, rank=rank, targets=targets, key=jax.random.key(seed))

    def write(path: Path, trained: Params, card: str) -> None:
        options: dict[str, Any] = {"base": name, "card": card, "settings": settings}
        write_lora(path, trained, pretrained.config, alpha=alpha, **options)

    merge = partial(apply_lora, scale=alpha / rank)
    return TrainableParams(jax.device_get(start), cast(Any, merge), base, write)
