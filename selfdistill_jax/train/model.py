"""The encoder of a run: the functions that compute it, and which of its parameters are trained."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax

from selfdistill_jax.checkpoints.model_folder import Pretrained
from selfdistill_jax.checkpoints.peft import write_lora
from selfdistill_jax.encoder.apply import Encode, Params
from selfdistill_jax.encoder.lora import apply_lora, init_lora
from selfdistill_jax.train.encode_table import TableEncoder

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
