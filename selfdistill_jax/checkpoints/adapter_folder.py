"""The folder that Hugging Face's PEFT keeps an adapter of any kind in."""

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
# Ours, beside PEFT's: what of the base an adapter was trained with another value of.
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
    """Writes a folder that ``PeftModel.from_pretrained(AutoModel.from_pretrained(base), path)``
    opens; it appears whole or not at all.

    Args:
      path: the new folder; an existing one is replaced.
      tensors: by PEFT's names.
      kind: its ``peft_type``.
      config: keys of that kind.
      base: folder or hub id of the encoder that it is for.
      card: text of ``README.md``.
      settings: for `read_settings`.
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
    """Reads ``adapter_config.json``.

    Args:
      folder: of an adapter.
      kind: the ``peft_type`` that it must have.

    Raises:
      InputError: it is no such folder, or of another kind.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected an adapter's folder as PEFT writes it")
    raw = read_json(path)
    if raw.get("peft_type") != kind:
        raise InputError(f"{path}: peft_type is {raw.get('peft_type')!r}; expected {kind}")
    return raw


def read_settings(folder: Path) -> dict[str, Any]:
    """What a folder's adapter is to be computed with instead of the base's own: some of
    ``pooling``, ``max_length``, ``query_prompt`` and ``document_prompt``.

    None of them in a folder of PEFT's, which says nothing of that.

    Raises:
      InputError: the file is damaged.
    """
    path = folder / SETTINGS
    return read_json(path) if path.exists() else {}
