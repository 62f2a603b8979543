"""Hugging Face tensors in and out of the parameter tree, by the names in `architectures`."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from selfdistill_jax.encoder.architectures import ARCHITECTURES
from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.encoder.encode import Params
from selfdistill_jax.errors import InputError

# A kernel [in, out] is stored transposed there.
_NORM = {"scale": "weight", "bias": "bias"}
_PROJECT = "embeddings_project"  # of embeddings that are smaller than hidden states

_RELATIVE = "encoder.relative_attention_bias.weight"


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
      tensors: Hugging Face names, with or without the architecture's prefix.
      config: the sizes that the tensors must have.
      where: the file's name, for error messages.

    Returns:
      The parameters (float32), and the tensors that this encoder does not use (a pooler,
      position ids) under their own names, so that they can be written back.

    Raises:
      InputError: a tensor is missing or of another shape.
    """
    names = ARCHITECTURES[config.architecture]
    prefix = names.prefix if any(name.startswith(names.prefix) for name in tensors) else ""
    used: set[str] = set()

    def take(name: str, shape: tuple[int, ...]) -> np.ndarray:
        name = prefix + name
        if name not in tensors:
            raise InputError(
                f"{where}: tensor {name!r} is missing; a {names.name} of this size has it"
            )
        if tensors[name].shape != shape:
            raise InputError(
                f"{where}: tensor {name!r} has shape {list(tensors[name].shape)}; "
                f"config.json asks for {list(shape)}"
            )
        used.add(name)
        return tensors[name].astype(np.float32)

    def norm(name: str, size: int) -> Params:
        return {ours: take(f"{name}.{theirs}", (size,)) for ours, theirs in _NORM.items()}

    def dense(parts: tuple[str, ...], d_in: int, d_out: int) -> Params:
        kernels = [take(f"{name}.weight", (d_out, d_in)).T for name in parts]
        biases = [take(f"{name}.bias", (d_out,)) for name in parts]
        return {"kernel": np.concatenate(kernels, axis=1), "bias": np.concatenate(biases)}

    d, f = config.hidden_size, config.intermediate_size
    e = config.embedding_size or d
    rows = {
        "word": config.vocab_size,
        "position": config.max_positions + config.position_offset,
        "token_type": config.type_vocab_size,
    }
    sizes = {("inner",): (d, f), ("outer",): (f, d)}
    layers = []
    for i in range(config.num_layers):
        at = names.layer.format(i)
        layer: Params = {ours: norm(at + theirs, d) for ours, theirs in names.norms.items()}
        for path, parts in names.dense.items():
            value = dense(tuple(at + name for name in parts), *sizes.get(path, (d, d)))
            _put(layer, path, value)
        layers.append(layer)
    embeddings = {ours: take(theirs, (rows[ours], e)) for ours, theirs in names.embeddings.items()}
    embeddings["norm"] = norm(names.embeddings_norm, e)
    if config.embedding_size:
        embeddings["project"] = dense((_PROJECT,), e, d)
    params = {"embeddings": embeddings, "layers": _stack(layers)}
    if config.relative_buckets:
        params["relative"] = take(_RELATIVE, (config.relative_buckets, config.num_heads))
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
    names, embeddings = ARCHITECTURES[config.architecture], params["embeddings"]

    def norm(name: str, value: Params, at=...) -> None:
        for ours, theirs in _NORM.items():
            tensors[f"{name}.{theirs}"] = np.asarray(value[ours], np.float32)[at]

    def dense(parts: tuple[str, ...], value: Params, at=...) -> None:
        kernels = np.split(np.asarray(value["kernel"], np.float32)[at], len(parts), axis=1)
        biases = np.split(np.asarray(value["bias"], np.float32)[at], len(parts))
        for name, kernel, bias in zip(parts, kernels, biases, strict=True):
            tensors[f"{name}.weight"] = kernel.T
            tensors[f"{name}.bias"] = bias

    for ours, theirs in names.embeddings.items():
        tensors[theirs] = np.asarray(embeddings[ours], np.float32)
    norm(names.embeddings_norm, embeddings["norm"])
    if config.embedding_size:
        dense((_PROJECT,), embeddings["project"])
    if config.relative_buckets:
        tensors[_RELATIVE] = np.asarray(params["relative"], np.float32)
    for i in range(config.num_layers):
        at = names.layer.format(i)
        for ours, theirs in names.norms.items():
            norm(at + theirs, params["layers"][ours], i)
        for path, parts in names.dense.items():
            value = params["layers"]
            for key in path:
                value = value[key]
            dense(tuple(at + name for name in parts), value, i)
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
