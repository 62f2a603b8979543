"""What fixes the shape of an encoder, read from a Hugging Face ``config.json``."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from selfdistill_jax.encoder.architectures import ARCHITECTURES
from selfdistill_jax.encoder.dropout import Dropout
from selfdistill_jax.encoder.pointwise import ACTIVATIONS
from selfdistill_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Sizes of an encoder; hashable, so a jitted function may close over it.

    Attributes:
      max_positions: tokens of the longest text.
      type_vocab_size: rows of the table of token types, 0 for none; all tokens are of the first.
      architecture: a key of `ARCHITECTURES`.
      position_offset: row of the first token's position.
      embedding_size: of embeddings that are projected to the hidden size; 0 for those of that size.
      relative_buckets: of distances that attention has a bias for, 0 for none.
      pre_norm: norms stand before attention and feed-forward instead of behind their sums.
      gated: half of the feed-forward's inner values, activated, scale the other half.
      biases: whether products and norms add one.
      rotary: base of the angles by which queries and keys are turned, of each layer; then there is
        no table of positions.
      windows: how far each layer's tokens see, 0 for the whole text; empty: all of them do.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_positions: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    activation: str = "gelu"
    architecture: str = "bert"
    position_offset: int = 0
    embedding_size: int = 0
    relative_buckets: int = 0
    pre_norm: bool = False
    gated: bool = False
    biases: bool = True
    rotary: tuple[float, ...] = ()
    windows: tuple[int, ...] = ()

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads


def read_dropout(raw: Mapping[str, Any], *, where: str) -> Dropout:
    """The shares that a ``config.json`` asks for in training.

    Args:
      raw: the parsed JSON object, of a known architecture.
      where: the file's name, for error messages.

    Raises:
      InputError: a share is not in [0, 1).
    """
    keys = ARCHITECTURES[raw["model_type"]].dropout
    rates = {place: raw.get(key, default) for place, (key, default) in keys.items()}
    for place, rate in rates.items():
        if not 0 <= rate < 1:
            raise InputError(f"{where}: {keys[place][0]} is {rate}; expected a share in [0, 1)")
    return Dropout(**rates)


def read_config(raw: Mapping[str, Any], *, where: str) -> EncoderConfig:
    """Turns the content of a ``config.json`` into an `EncoderConfig`.

    Args:
      raw: the parsed JSON object.
      where: the file's name, for error messages.

    Raises:
      InputError: an unknown architecture, a missing key, or an unsupported setting.
    """
    model_type = raw.get("model_type")
    if model_type not in ARCHITECTURES:
        raise InputError(
            f"{where}: model_type is {model_type!r}; supported: {', '.join(ARCHITECTURES)}; choose "
            "such an encoder"
        )
    architecture = ARCHITECTURES[model_type]
    for key, expected in architecture.only.items():
        if raw.get(key, expected) != expected:
            raise InputError(f"{where}: {key} is {raw[key]!r}; only {expected!r} is supported")
    missing = [key for key in architecture.keys.values() if key not in raw]
    if missing:
        raise InputError(
            f"{where}: key {missing[0]!r} is missing; a {architecture.name} config.json has it"
        )
    sizes = {name: raw[key] for name, key in architecture.keys.items()}
    if sizes.get("embedding_size") == sizes["hidden_size"]:
        sizes["embedding_size"] = 0
    if architecture.after_padding:
        # The first rows of the table are no token's position.
        sizes["position_offset"] = raw.get("pad_token_id", 1) + 1
        sizes["max_positions"] -= sizes["position_offset"]
    by_layer = architecture.by_layer(raw, where)
    config = EncoderConfig(architecture=model_type, **sizes, **architecture.fixed, **by_layer)
    if config.hidden_size % config.num_heads:
        raise InputError(
            f"{where}: hidden_size {config.hidden_size} is not divisible by "
            f"num_attention_heads {config.num_heads}"
        )
    if config.activation not in ACTIVATIONS:
        raise InputError(
            f"{where}: {architecture.keys['activation']} is {config.activation!r}; supported: "
            f"{', '.join(ACTIVATIONS)}"
        )
    return config
