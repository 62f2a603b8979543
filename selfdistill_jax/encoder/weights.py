"""Hugging Face BERT tensors in and out of the parameter tree, by one explicit table of names."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.encoder.encode import Params
from selfdistill_jax.errors import InputError

# Our path -> the name there. A kernel [in, out] is stored transposed there.
_EMBEDDINGS = {
    "word": "embeddings.word_embeddings.weight",
    "position": "embeddings.position_embeddings.weight",
    "token_type": "embeddings.token_type_embeddings.weight",
}
_NORM = {"scale": "weight", "bias": "bias"}
_LAYER_NORMS = {
    "attention_norm": "attention.output.LayerNorm",
    "output_norm": "output.LayerNorm",
}
# Several names: their outputs lie side by side in ours.
_LAYER_DENSE = {
    ("attention", "qkv"): tuple(f"attention.self.{x}" for x in ("query", "key", "value")),
    ("attention", "output"): ("attention.output.dense",),
    ("inner",): ("intermediate.dense",),
    ("outer",): ("output.dense",),
}
_PREFIX = "bert."  # of a checkpoint with a head, such as BertForMaskedLM


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Reads a safetensors file.

    Raises:
      InputError: the file is missing, truncated or no safetensors file.
    """
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: not a whole safetensors file ({error}); fetch it again"
        ) from None


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a safetensors file marked as PyTorch's layout, as `transformers` insists on."""
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path, {"format": "pt"})
    path.chmod(0o644)  # the library makes it readable by its owner alone


def to_params(
    tensors: Mapping[str, np.ndarray], config: EncoderConfig, *, where: str
) -> tuple[Params, dict[str, np.ndarray]]:
    """Turns named tensors into parameters.

    Args:
      tensors: Hugging Face names, with or without the prefix ``bert.``.
      config: the sizes that the tensors must have.
      where: the file's name, for error messages.

    Returns:
      The parameters (float32), and the BERT tensors that this encoder does not use (a pooler,
      position ids) under their own names, so that they can be written back.

    Raises:
      InputError: a tensor is missing or of another shape.
    """
    prefix = _PREFIX if any(name.startswith(_PREFIX) for name in tensors) else ""
    used: set[str] = set()

    def take(name: str, shape: tuple[int, ...]) -> np.ndarray:
        name = prefix + name
        if name not in tensors:
            raise InputError(f"{where}: tensor {name!r} is missing; a BERT of this size has it")
        if tensors[name].shape != shape:
            raise InputError(
                f"{where}: tensor {name!r} has shape {list(tensors[name].shape)}; "
                f"config.json asks for {list(shape)}"
            )
        used.add(name)
        return tensors[name].astype(np.float32)

    def norm(name: str) -> Params:
        return {ours: take(f"{name}.{theirs}", (d,)) for ours, theirs in _NORM.items()}

    def dense(names: tuple[str, ...], d_in: int, d_out: int) -> Params:
        kernels = [take(f"{name}.weight", (d_out, d_in)).T for name in names]
        biases = [take(f"{name}.bias", (d_out,)) for name in names]
        return {"kernel": np.concatenate(kernels, axis=1), "bias": np.concatenate(biases)}

    d, f = config.hidden_size, config.intermediate_size
    rows = {
        "word": config.vocab_size,
        "position": config.max_positions,
        "token_type": config.type_vocab_size,
    }
    sizes = {("inner",): (d, f), ("outer",): (f, d)}
    layers = []
    for i in range(config.num_layers):
        at = f"encoder.layer.{i}."
        layer: Params = {ours: norm(at + theirs) for ours, theirs in _LAYER_NORMS.items()}
        for path, names in _LAYER_DENSE.items():
            value = dense(tuple(at + name for name in names), *sizes.get(path, (d, d)))
            _put(layer, path, value)
        layers.append(layer)
    params = {
        "embeddings": {
            **{ours: take(theirs, (rows[ours], d)) for ours, theirs in _EMBEDDINGS.items()},
            "norm": norm("embeddings.LayerNorm"),
        },
        "layers": _stack(layers),
    }
    unused = {name: value for name, value in tensors.items() if name not in used}
    # With a prefix, what stands outside of it is a head for another task.
    return params, {
        name.removeprefix(prefix): value
        for name, value in unused.items()
        if name.startswith(prefix)
    }


def to_tensors(
    params: Params, config: EncoderConfig, *, extra: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """The inverse of `to_params`: Hugging Face names without prefix, float32, plus ``extra``."""
    tensors = dict(extra or {})

    def norm(name: str, value: Params, at=...) -> None:
        for ours, theirs in _NORM.items():
            tensors[f"{name}.{theirs}"] = np.asarray(value[ours], np.float32)[at]

    for ours, theirs in _EMBEDDINGS.items():
        tensors[theirs] = np.asarray(params["embeddings"][ours], np.float32)
    norm("embeddings.LayerNorm", params["embeddings"]["norm"])
    for i in range(config.num_layers):
        at = f"encoder.layer.{i}."
        for ours, theirs in _LAYER_NORMS.items():
            norm(at + theirs, params["layers"][ours], i)
        for path, names in _LAYER_DENSE.items():
            value = params["layers"]
            for key in path:
                value = value[key]
            kernels = np.split(np.asarray(value["kernel"], np.float32)[i], len(names), axis=1)
            biases = np.split(np.asarray(value["bias"], np.float32)[i], len(names))
            for name, kernel, bias in zip(names, kernels, biases, strict=True):
                tensors[f"{at}{name}.weight"] = kernel.T
                tensors[f"{at}{name}.bias"] = bias
    return tensors


def _put(tree: Params, path: tuple[str, ...], value: Params) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def _stack(trees: list[Params]) -> Params:
    return {
        key: _stack([tree[key] for tree in trees])
        if isinstance(trees[0][key], dict)
        else np.stack([tree[key] for tree in trees])
        for key in trees[0]
    }
