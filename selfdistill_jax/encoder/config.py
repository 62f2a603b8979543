"""What fixes the shape of an encoder, read from a Hugging Face ``config.json``."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from selfdistill_jax.encoder.pointwise import ACTIVATIONS
from selfdistill_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Sizes of a BERT encoder; hashable, so a jitted function may close over it."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_positions: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    activation: str = "gelu"

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads


# Architecture facts that this BERT does not compute: another value means another function.
_FIXED = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
_FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "layer_norm_eps": "layer_norm_eps",
    "activation": "hidden_act",
}


def read_config(raw: Mapping[str, Any], *, where: str) -> EncoderConfig:
    """Turns the content of a ``config.json`` into an `EncoderConfig`.

    Args:
      raw: the parsed JSON object.
      where: the file's name, for error messages.

    Raises:
      InputError: another architecture than BERT, a missing key, or an unsupported setting.
    """
    model_type = raw.get("model_type")
    if model_type != "bert":
        raise InputError(
            f"{where}: model_type is {model_type!r}; this version reads 'bert' "
            "(BERT, MiniLM, E5, BGE, GTE); choose such an encoder"
        )
    for key, expected in _FIXED.items():
        if raw.get(key, expected) != expected:
            raise InputError(f"{where}: {key} is {raw[key]!r}; only {expected!r} is supported")
    missing = [key for key in _FIELDS.values() if key not in raw]
    if missing:
        raise InputError(f"{where}: key {missing[0]!r} is missing; a BERT config.json has it")
    config = EncoderConfig(**{name: raw[key] for name, key in _FIELDS.items()})
    if config.hidden_size % config.num_heads:
        raise InputError(
            f"{where}: hidden_size {config.hidden_size} is not divisible by "
            f"num_attention_heads {config.num_heads}"
        )
    if config.activation not in ACTIVATIONS:
        raise InputError(
            f"{where}: hidden_act is {config.activation!r}; supported: {', '.join(ACTIVATIONS)}"
        )
    return config
