"""What of an encoder is trained: all of it, or an adapter beside weights that stay."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import ml_collections

from selfdistill_jax.encoder.adapters import TARGETS, apply_lora, init_lora
from selfdistill_jax.encoder.encode import Params
from selfdistill_jax.encoder.folder import Encoder
from selfdistill_jax.encoder.peft import write_lora
from selfdistill_jax.errors import InputError, nearest

ADAPTERS = ("none", "lora")
FOLDER = "adapter"  # in a run's folder


class Trained(NamedTuple):
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
    """Checks which matrices an adapter is to stand beside.

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


def trained_part(config: ml_collections.ConfigDict, encoder: Encoder) -> Trained:
    """What the config says is trained of the start encoder."""
    rank, alpha = config.encoder.adapter_rank, config.encoder.adapter_alpha
    targets = _split(config.encoder.adapter_targets)
    if config.encoder.adapter == "none":
        return Trained(encoder.params, lambda base, trained: trained)
    start = init_lora(encoder.params, rank=rank, targets=targets, key=jax.random.key(config.seed))

    def merge(base: Params, trained: Params) -> Params:
        return apply_lora(base, trained, scale=alpha / rank)

    def write(path: Path, trained: Params, card: str) -> None:
        base = config.encoder.init
        write_lora(path, trained, encoder.config, alpha=alpha, base=base, card=card)

    return Trained(jax.device_get(start), merge, encoder.params, write)


def _split(targets: Sequence[str]) -> tuple[str, ...]:
    """``--config.encoder.adapter_targets=query,value`` comes as a tuple of one text."""
    return tuple(name.strip() for some in targets for name in some.split(","))
