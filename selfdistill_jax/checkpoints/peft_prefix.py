"""Prefixes as folders of Hugging Face's PEFT: written for it, and read from it.

    adapter_config.json          how many tokens, and the sizes of the encoder
    adapter_model.safetensors    prompt_embeddings [P, n 2 D]: a token's key and value, by layer

Shape legend: n layers, P places of the prefix, D hidden size.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from selfdistill_jax.checkpoints.adapter_folder import CONFIG, TENSORS, read_adapter, write_adapter
from selfdistill_jax.checkpoints.safetensors import as_float32, read_file
from selfdistill_jax.encoder.apply import Params
from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.encoder.prefix import check_prefix
from selfdistill_jax.errors import InputError

KIND = "PREFIX_TUNING"
_TENSOR = "prompt_embeddings"
# Other keys that change no vector. With `prefix_projection` a network made the keys and values;
# those that it made are what PEFT saves, and the network is not.
_HARMLESS = frozenset(
    (
        "peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path",
        "revision", "inference_mode", "num_virtual_tokens", "encoder_hidden_size",
        "prefix_projection", "init_weights",
    )
)  # fmt: skip


def write_prefix(
    path: Path,
    adapter: Params,
    config: EncoderConfig,
    *,
    base: str,
    card: str,
    settings: Mapping[str, Any] = {},
) -> None:
    """Writes a folder that ``PeftModel.from_pretrained(AutoModel.from_pretrained(base), path)``
    opens; it appears whole or not at all.

    Args:
      path: the new folder; an existing one is replaced.
      adapter: of `init_prefix`.
      config: of the encoder that it belongs to.
      base: that encoder's folder or hub id.
      card: text of ``README.md``.
      settings: as of `write_adapter`.

    Raises:
      InputError: as of `check_prefix`.
    """
    both_2xnxPxD = np.stack([np.asarray(adapter[name], np.float32) for name in ("key", "value")])
    count = both_2xnxPxD.shape[2]
    check_prefix(config, count, where=str(path))
    tensors = {_TENSOR: both_2xnxPxD.transpose(2, 1, 0, 3).reshape(count, -1)}
    written = {
        "num_virtual_tokens": count,
        "prefix_projection": False,
        "encoder_hidden_size": config.hidden_size,
        **_sizes(config),
    }
    options = {"base": base, "card": card, "settings": settings}
    write_adapter(path, tensors, kind=KIND, config=written, **options)


def read_prefix(folder: Path, config: EncoderConfig) -> Params:
    """Reads a prefix for `apply_prefix`.

    Args:
      folder: as PEFT, or `write_prefix`, writes it.
      config: of the encoder that it is for.

    Raises:
      InputError: it is no such folder, another kind of adapter, of another encoder, or of one that
        takes no prefix.
    """
    raw = read_adapter(folder, kinds=(KIND,))
    count, sizes = raw.get("num_virtual_tokens"), _sizes(config)
    if not isinstance(count, int) or count < 1:
        raise InputError(f"{folder / CONFIG}: num_virtual_tokens is {count!r}; expected 1 or more")
    check_prefix(config, count, where=str(folder))
    for key, value in raw.items():
        if key in sizes and value != sizes[key]:
            raise InputError(
                f"{folder / CONFIG}: {key} is {value!r} and {sizes[key]} of this encoder; load "
                "the encoder that the prefix was trained for"
            )
        if value and key not in _HARMLESS and key not in sizes:
            raise InputError(
                f"{folder / CONFIG}: {key} is {value!r}, which is unknown here and may give other "
                "vectors; expected a prefix and nothing else"
            )
    tensors = read_file(folder / TENSORS)
    if tensors.keys() != {_TENSOR}:
        raise InputError(
            f"{folder / TENSORS}: tensors are {', '.join(sorted(tensors)) or 'none'}; expected "
            f"{_TENSOR!r} alone"
        )
    table, layers, size = tensors[_TENSOR], config.num_layers, config.hidden_size
    if table.shape != (count, layers * 2 * size):
        raise InputError(
            f"{folder / TENSORS}: {_TENSOR!r} has shape {list(table.shape)}; expected "
            f"{[count, layers * 2 * size]}, keys and values of {count} tokens in {layers} layers"
        )
    table = as_float32(table, _TENSOR, folder / TENSORS)
    both = table.reshape(count, layers, 2, size).transpose(2, 1, 0, 3)
    return dict(zip(("key", "value"), np.ascontiguousarray(both), strict=True))


def _sizes(config: EncoderConfig) -> dict[str, Any]:
    """What PEFT has to know of the encoder."""
    return {
        "num_layers": config.num_layers,
        "token_dim": config.hidden_size,
        "num_attention_heads": config.num_heads,
        "num_transformer_submodules": 1,
    }
