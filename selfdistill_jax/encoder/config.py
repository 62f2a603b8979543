"""Reads the sizes of an encoder from a Hugging Face ``config.json``."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from selfdistill_jax.encoder.activations import ACTIVATIONS
from selfdistill_jax.encoder.architectures import ARCHITECTURES
from selfdistill_jax.encoder.dropout import Dropout
from selfdistill_jax.errors import InputError
from selfdistill_jax.json_file import entry


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Holds the sizes of an encoder; hashable, so that a jitted function may close over it.

    Attributes:
      max_positions: number of tokens of the longest possible text.
      type_vocab_size: rows of the table of token types, 0 for no table; all tokens use row 0.
      architecture: a key of `ARCHITECTURES`.
      position_offset: row of the position table that the first token uses.
      embedding_size: size of embeddings that are projected to the hidden size; 0 if they have the
        hidden size themselves.
      relative_buckets: number of distance buckets of the attention bias, 0 for no bias.
      pre_norm: whether norms come before attention and feed-forward instead of after their sums.
      gated: whether one half of the feed-forward's inner values, activated, scales the other half.
      biases: whether products and norms add a bias.
      rotary: base of the rotary angles of each layer; empty if there is a position table instead.
      windows: distance to which each layer's tokens attend, 0 for the whole text; empty if all
        layers attend to the whole text.
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


def counts_positions_from_padding(config: EncoderConfig) -> bool:
    """Returns whether transformers numbers a padded row's positions from its first column.

    RoBERTa and MPNet number only a text's own tokens, and rotary angles depend on distances alone.
    """
    return not config.position_offset and not config.rotary


def read_dropout(raw: Mapping[str, Any], *, where: str) -> Dropout:
    """Returns the dropout rates that a ``config.json`` sets for training.

    Args:
      raw: the parsed JSON object, of a known architecture.
      where: the file's name, for error messages.

    Raises:
      InputError: a rate is not in [0, 1).
    """
    keys = ARCHITECTURES[raw["model_type"]].dropout
    rates = {
        place: entry(raw, key, float, where=where, default=default)
        for place, (key, default) in keys.items()
    }
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
    if model_type is None:
        raise InputError(
            f"{where}: has no model_type, so it is not the config of a transformer; expected a "
            "folder that save_pretrained of transformers or sentence-transformers wrote"
        )
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise InputError(
            f"{where}: model_type is {model_type!r}, which is not supported; use a model of one of "
            f"the types {', '.join(ARCHITECTURES)}"
        )
    architecture = ARCHITECTURES[model_type]
    for key, expected in architecture.only.items():
        if raw.get(key, expected) != expected:
            raise InputError(f"{where}: {key} is {raw[key]!r}; only {expected!r} is supported")
    sizes = {field: _size(raw, key, field, where=where) for field, key in architecture.keys.items()}
    if sizes.get("embedding_size") == sizes["hidden_size"]:
        sizes["embedding_size"] = 0
    if architecture.after_padding:
        # The first rows of the position table belong to no token.
        sizes["position_offset"] = entry(raw, "pad_token_id", int, where=where, default=1) + 1
        sizes["max_positions"] -= sizes["position_offset"]
    by_layer = architecture.by_layer(raw, where)
    config = EncoderConfig(architecture=model_type, **sizes, **architecture.fixed, **by_layer)
    if config.max_positions < 1:
        raise InputError(
            f"{where}: max_position_embeddings is {raw['max_position_embeddings']}; expected more "
            f"than {config.position_offset}, the number of rows before the first token's position"
        )
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


def _size(raw: Mapping[str, Any], key: str, field: str, *, where: str) -> Any:
    """Returns a checked value of ``config.json`` for a field of `EncoderConfig`."""
    kind = {"layer_norm_eps": float, "activation": str}.get(field, int)
    value = entry(raw, key, kind, where=where)
    if kind is not str and not 0 < value < 2**31:
        raise InputError(f"{where}: {key} is {value}; expected a number above 0")
    return value
