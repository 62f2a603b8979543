"""Reads and writes safetensors files, whole or in shards."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from selfdistill_jax.errors import InputError
from selfdistill_jax.io import reason

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """Returns a folder's tensors, from one file or from all files that its index names.

    Raises:
      InputError: a file is missing, truncated or not a safetensors file.
    """
    if (folder / WEIGHTS).exists():
        return read_file(folder / WEIGHTS)
    if not (folder / INDEX).exists():
        reason = "; a model's folder holds its weights there; fetch the folder again"
        if (folder / "pytorch_model.bin").is_file():
            reason = (
                "; pytorch_model.bin is a pickle, which can run any code when it is read, and is "
                "not opened; convert the folder with "
                "AutoModel.from_pretrained(folder).save_pretrained(new_folder), or, if it is one "
                "of sentence-transformers, with "
                "SentenceTransformer(folder).save_pretrained(new_folder)"
            )
        raise InputError(f"{folder}: no {WEIGHTS}{reason}")
    try:
        of_tensor = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(of_tensor.values()))
        if not all(isinstance(shard, str) and shard for shard in shards):
            raise TypeError("a file name is not a string")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{folder / INDEX}: not an index of safetensors files ({error!r}); fetch it again"
        ) from None
    tensors: dict[str, np.ndarray] = {}
    for shard in shards:
        tensors |= read_file(folder / shard)
    missing = sorted(of_tensor.keys() - tensors.keys())
    if missing:
        raise InputError(
            f"{folder / of_tensor[missing[0]]}: no tensor {missing[0]!r}, but {INDEX} says that "
            "it is there; fetch the files again"
        )
    return tensors


def read_file(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of one file.

    Raises:
      InputError: the file is missing, truncated or not a safetensors file.
    """
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; fetch the folder again") from None
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read ({reason(error)})") from None
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: not a whole safetensors file ({error}); fetch it again"
        ) from None


def as_float32(tensor: np.ndarray, name: str, where: Path | str) -> np.ndarray:
    """Returns a tensor of weights as float32.

    Args:
      tensor: the tensor as read.
      name: its name, for the message.
      where: the file, for the message.

    Raises:
      InputError: the tensor has NaN or infinity, or whole numbers (a quantised model's).
    """
    if not (tensor.dtype.kind == "f" or tensor.dtype.name == "bfloat16"):
        raise InputError(
            f"{where}: tensor {name!r} is of type {tensor.dtype.name}; expected floating-point "
            "weights (a quantised model is not supported)"
        )
    value = tensor.astype(np.float32, copy=False)
    wrong = value.size - int(np.isfinite(value).sum())
    if wrong:
        raise InputError(
            f"{where}: {wrong:,} of {value.size:,} numbers of tensor {name!r} are not finite (NaN "
            "or infinity), so no vector would be either; use an earlier checkpoint of the model"
        )
    return value


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a safetensors file marked as PyTorch's layout, as `transformers` requires.

    Raises:
      OSError: the file cannot be written.
    """
    try:
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path, {"format": "pt"})
    except SafetensorError as error:
        # The Rust library gives the operating system's error number only within its message.
        if number := re.search(r"os error (\d+)", str(error)):
            code = int(number[1])
            raise OSError(code, os.strerror(code), str(path)) from None
        raise
    path.chmod(0o644)  # the library makes the file readable by its owner alone
