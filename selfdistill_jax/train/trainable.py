"""What of an encoder is trained: all of it, or an adapter beside weights that stay."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import ml_collections

from selfdistill_jax.checkpoints.model_folder import Pretrained
from selfdistill_jax.checkpoints.peft import write_lora
from selfdistill_jax.encoder.apply import Params
from selfdistill_jax.encoder.lora import TARGETS, apply_lora, init_lora
from selfdistill_jax.errors import InputError, nearest

# In a run's folder: the whole encoder, and what of it was trained beside frozen weights.
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

    def whole(self, trained: Params) -> Params:
        """The encoder's parameters from trained ones."""
        return self.merge(self.base, trained)


def check_adapter(config: ml_collections.ConfigDict) -> None:
    """Checks ``config.encoder.adapter_targets``.

    Raises:
      InputError: names the key, its value and what was expected.
    """
    targets = _split(config.encoder["adapter_targets"])
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


def trained_part(config: ml_collections.ConfigDict, encoder: Pretrained) -> TrainableParams:
    """What the config says is trained of the start encoder."""
    rank, alpha = config.encoder.adapter_rank, config.encoder.adapter_alpha
    targets, base = _split(config.encoder.adapter_targets), encoder.params
    if config.encoder.adapter == "none":
        return TrainableParams(base, lambda base, trained: trained)
    options: dict[str, Any] = {"base": config.encoder.init, "settings": _settings(config)}
    start = init_lora(base, rank=rank, targets=targets, key=jax.random.key(config.seed))

    def write(path: Path, trained: Params, card: str) -> None:
        write_lora(path, trained, encoder.config, alpha=alpha, card=card, **options)

    merge = partial(apply_lora, scale=alpha / rank)
    return TrainableParams(jax.device_get(start), cast(Any, merge), base, write)


def _settings(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """What of the start encoder the config sets anew."""
    keys = ("pooling", "max_length", "query_prompt", "document_prompt")
    return {key: config.encoder[key] for key in keys if config.encoder[key] not in ("source", 0)}


def _split(targets: Sequence[str]) -> tuple[str, ...]:
    """``--config.encoder.adapter_targets=query,value`` comes as a tuple of one text."""
    names = [name.strip() for some in targets for name in str(some).split(",")]
    return tuple(name for name in names if name)
