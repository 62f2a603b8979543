"""Safetensors files in and out, whole or in shards."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from selfdistill_jax.errors import InputError

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """Reads a folder's tensors, of one file or of all that its index names.

    Raises:
      InputError: a file is missing, truncated or no safetensors file.
    """
    if (folder / WEIGHTS).is_file():
        return read_file(folder / WEIGHTS)
    if not (folder / INDEX).is_file():
        reason = ""
        if (folder / "pytorch_model.bin").is_file():
            reason = (
                "; pytorch_model.bin is a pickle, which can run anything when it is read, and is "
                "not opened; convert it with "
                "AutoModel.from_pretrained(folder).save_pretrained(new_folder), or a folder of "
                "sentence-transformers with SentenceTransformer(folder).save_pretrained(new_folder)"
            )
        raise InputError(f"{folder}: no {WEIGHTS}{reason}")
    try:
        of_tensor = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / INDEX}: no index of safetensors files ({error!r})") from None
    tensors: dict[str, np.ndarray] = {}
    for shard in sorted(set(of_tensor.values())):
        tensors |= read_file(folder / shard)
    missing = sorted(of_tensor.keys() - tensors.keys())
    if missing:
        raise InputError(
            f"{folder / of_tensor[missing[0]]}: no tensor {missing[0]!r}, which {INDEX} says is "
            "there; fetch the files again"
        )
    return tensors


def read_file(path: Path) -> dict[str, np.ndarray]:
    """Reads one file.

    Raises:
      InputError: it is missing, truncated or no safetensors file.
    """
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; fetch the folder again") from None
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: not a whole safetensors file ({error}); fetch it again"
        ) from None


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a safetensors file marked as PyTorch's layout, as `transformers` insists on."""
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path, {"format": "pt"})
    path.chmod(0o644)  # the library makes it readable by its owner alone
