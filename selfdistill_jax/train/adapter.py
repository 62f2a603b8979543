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
from selfdistill_jax.encoder.peft_prefix import write_prefix
from selfdistill_jax.encoder.prefix import apply_prefix, init_prefix
from selfdistill_jax.errors import InputError, nearest

# In a run's folder: the whole encoder, and what of it was trained beside frozen weights.
MODEL, FOLDER = "model", "adapter"
# What is trained -> which of the two is the run's result: no weights hold a prefix.
ADAPTERS = {"none": MODEL, "lora": MODEL, "prefix": FOLDER}


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
    """Checks which matrices an adapter is to stand beside, and that attention takes a prefix.

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
    if config.encoder.adapter == "prefix" and config.train.attention != "own":
        raise InputError(
            f"config.train.attention is {config.train.attention!r}, which takes no prefix; take "
            "'own', or config.encoder.adapter='lora'"
        )


def trained_part(config: ml_collections.ConfigDict, encoder: Encoder) -> Trained:
    """What the config says is trained of the start encoder."""
    if config.encoder.adapter == "none":
        return Trained(encoder.params, lambda base, trained: trained)
    key = jax.random.key(config.seed)
    return (_prefix if config.encoder.adapter == "prefix" else _lora)(config, encoder, key)


def _prefix(config: ml_collections.ConfigDict, encoder: Encoder, key: jax.Array) -> Trained:
    start = init_prefix(encoder.params, count=config.encoder.adapter_tokens, key=key)

    def write(path: Path, trained: Params, card: str) -> None:
        write_prefix(path, trained, encoder.config, base=config.encoder.init, card=card)

    return Trained(jax.device_get(start), apply_prefix, encoder.params, write)


def _lora(config: ml_collections.ConfigDict, encoder: Encoder, key: jax.Array) -> Trained:
    rank, alpha = config.encoder.adapter_rank, config.encoder.adapter_alpha
    targets = _split(config.encoder.adapter_targets)
    start = init_lora(encoder.params, rank=rank, targets=targets, key=key)

    def merge(base: Params, trained: Params) -> Params:
        return apply_lora(base, trained, scale=alpha / rank)

    def write(path: Path, trained: Params, card: str) -> None:
        base = config.encoder.init
        write_lora(path, trained, encoder.config, alpha=alpha, base=base, card=card)

    return Trained(jax.device_get(start), merge, encoder.params, write)


def _split(targets: Sequence[str]) -> tuple[str, ...]:
    """``--config.encoder.adapter_targets=query,value`` comes as a tuple of one text."""
    return tuple(name.strip() for some in targets for name in some.split(","))
