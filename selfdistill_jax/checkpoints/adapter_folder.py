"""Reads and writes the folder in which Hugging Face's PEFT stores an adapter of any kind."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from selfdistill_jax.checkpoints.safetensors import write_tensors
from selfdistill_jax.errors import InputError
from selfdistill_jax.io import new_folder, write_json
from selfdistill_jax.json_file import read_json

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
# Our own file beside PEFT's: settings whose values in training differed from the base's.
SETTINGS = "selfdistill_jax.json"


def write_adapter(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    *,
    kind: str,
    config: Mapping[str, Any],
    base: str,
    card: str,
    settings: Mapping[str, Any],
) -> None:
    """Writes an adapter's folder, which appears whole or not at all.

    ``PeftModel.from_pretrained(AutoModel.from_pretrained(base), path)`` opens it.

    Args:
      path: the new folder; an existing one is replaced.
      tensors: tensors by PEFT's names.
      kind: the ``peft_type``.
      config: the keys of ``adapter_config.json`` for that kind.
      base: folder or hub id of the encoder that the adapter belongs to.
      card: text of ``README.md``.
      settings: settings that `read_settings` shall return.
    """
    written = {
        "peft_type": kind,
        "task_type": "FEATURE_EXTRACTION",
        "base_model_name_or_path": base,
        "inference_mode": True,
        **config,
    }
    with new_folder(path, replace=True) as new:
        write_tensors(new / TENSORS, dict(tensors))
        write_json(new / CONFIG, written)
        if settings:
            write_json(new / SETTINGS, dict(settings))
        (new / "README.md").write_text(card, encoding="utf-8")


def read_adapter(folder: Path, *, kind: str) -> dict[str, Any]:
    """Returns the content of ``adapter_config.json``.

    Args:
      folder: the adapter's folder.
      kind: the expected ``peft_type``.

    Raises:
      InputError: the file is missing or damaged, or the adapter is of another kind.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected an adapter's folder as PEFT writes it")
    raw = read_json(path)
    if raw.get("peft_type") != kind:
        raise InputError(f"{path}: peft_type is {raw.get('peft_type')!r}; expected {kind}")
    return raw


def read_settings(folder: Path) -> dict[str, Any]:
    """Returns the settings that an adapter needs instead of its base's own.

    They are some of ``pooling``, ``max_length``, ``query_prompt`` and ``document_prompt``, and
    ``side`` with the value "query" for an adapter that is only for queries; none in a folder that
    PEFT wrote, because PEFT does not store them.

    Raises:
      InputError: the file is damaged.
    """
    path = folder / SETTINGS
    return read_json(path) if path.exists() else {}
