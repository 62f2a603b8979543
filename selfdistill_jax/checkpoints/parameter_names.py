"""Converts Hugging Face tensors to parameters and back, by the names in `architectures`."""

from collections.abc import Mapping

import numpy as np

from selfdistill_jax.checkpoints.safetensors import as_float32
from selfdistill_jax.encoder.apply import Params
from selfdistill_jax.encoder.architectures import ARCHITECTURES
from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.errors import InputError

# Hugging Face stores a kernel [in, out] transposed.
_NORM = {"scale": "weight", "bias": "bias"}
_PROJECT = "embeddings_project"  # projects embeddings that are smaller than hidden states
# Names of norms' parameters in the first BERTs on the hub -> their present names.
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}

_RELATIVE = "encoder.relative_attention_bias.weight"


def to_params(
    tensors: Mapping[str, np.ndarray], config: EncoderConfig, *, where: str
) -> tuple[Params, dict[str, np.ndarray]]:
    """Converts named tensors to parameters.

    Args:
      tensors: tensors by Hugging Face names, with or without the architecture's prefix.
      config: the sizes that the tensors must have.
      where: the file's name, for error messages.

    Returns:
      The parameters (float32), and the tensors that this encoder does not use (a pooler,
      position ids) under their own names, so that they can be written back.

    Raises:
      InputError: a tensor is missing, has another shape, or belongs to no part of such an encoder.
    """
    tensors = {_renamed(name): value for name, value in tensors.items()}
    names = ARCHITECTURES[config.architecture]
    prefix = names.prefix if any(name.startswith(names.prefix) for name in tensors) else ""
    used: set[str] = set()

    def take(name: str, shape: tuple[int, ...]) -> np.ndarray:
        name = prefix + name
        if name not in tensors:
            raise InputError(
                f"{where}: tensor {name!r} is missing; a {names.name} of the sizes in config.json "
                "must have it"
            )
        if tensors[name].shape != shape:
            raise InputError(
                f"{where}: tensor {name!r} has shape {list(tensors[name].shape)}; "
                f"config.json asks for {list(shape)}"
            )
        used.add(name)
        return as_float32(tensors[name], name, where)

    def norm(name: str, size: int) -> Params:
        return {ours: take(f"{name}.{theirs}", (size,)) for ours, theirs in parts.items()}

    def dense(names: tuple[str, ...], d_in: int, d_out: int) -> Params:
        size = d_out // len(names)
        value = {
            "kernel": np.concatenate([take(f"{n}.weight", (size, d_in)).T for n in names], axis=1)
        }
        if config.biases:
            value["bias"] = np.concatenate([take(f"{name}.bias", (size,)) for name in names])
        return value

    parts = _norm_parts(config)
    d, f = config.hidden_size, config.intermediate_size
    e = config.embedding_size or d
    rows = {
        "word": config.vocab_size,
        "position": config.max_positions + config.position_offset,
        "token_type": config.type_vocab_size,
    }
    sizes = {
        ("attention", "qkv"): (d, 3 * d),
        ("attention", "output"): (d, d),
        ("inner",): (d, 2 * f if config.gated else f),
        ("outer",): (f, d),
    }
    layers = []
    for i in range(config.num_layers):
        at = names.layer.format(i)
        layer: Params = {
            ours: {"scale": np.ones(d, np.float32)}
            if _absent(config, i, ours)
            else norm(at + theirs, d)
            for ours, theirs in names.norms.items()
        }
        for path, theirs in names.dense.items():
            _put(layer, path, dense(tuple(at + name for name in theirs), *sizes[path]))
        layers.append(layer)
    embeddings: Params = {
        ours: take(theirs, (rows[ours], e)) for ours, theirs in names.embeddings.items()
    }
    embeddings["norm"] = norm(names.embeddings_norm, e)
    if config.embedding_size:
        embeddings["project"] = dense((_PROJECT,), e, d)
    params = {"embeddings": embeddings, "layers": _stack(layers)}
    if config.relative_buckets:
        params["relative"] = take(_RELATIVE, (config.relative_buckets, config.num_heads))
    if names.last_norm:
        params["last_norm"] = norm(names.last_norm, d)
    # If names have the prefix, tensors without it belong to a head for another task.
    rest = {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name not in used and name.startswith(prefix)
    }
    for name in rest:
        if not name.startswith(names.unused):
            raise InputError(
                f"{where}: tensor {prefix + name!r} does not belong to a {names.name} of this size "
                f"({config.num_layers} layers by config.json); ignoring it would change the vectors"
            )
    return params, rest


def to_tensors(
    params: Params, config: EncoderConfig, *, extra: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Returns the inverse of `to_params`: names without the architecture's prefix, float32."""
    tensors = dict(extra or {})
    names, embeddings = ARCHITECTURES[config.architecture], params["embeddings"]

    def norm(name: str, value: Params, at=...) -> None:
        for ours, theirs in _norm_parts(config).items():
            tensors[f"{name}.{theirs}"] = np.asarray(value[ours], np.float32)[at]

    def dense(parts: tuple[str, ...], value: Params, at=...) -> None:
        kernels = np.split(np.asarray(value["kernel"], np.float32)[at], len(parts), axis=1)
        tensors.update((f"{n}.weight", k.T) for n, k in zip(parts, kernels, strict=True))
        if config.biases:
            biases = np.split(np.asarray(value["bias"], np.float32)[at], len(parts))
            tensors.update((f"{n}.bias", b) for n, b in zip(parts, biases, strict=True))

    for ours, theirs in names.embeddings.items():
        tensors[theirs] = np.asarray(embeddings[ours], np.float32)
    norm(names.embeddings_norm, embeddings["norm"])
    if config.embedding_size:
        dense((_PROJECT,), embeddings["project"])
    if config.relative_buckets:
        tensors[_RELATIVE] = np.asarray(params["relative"], np.float32)
    if names.last_norm:
        norm(names.last_norm, params["last_norm"])
    for i in range(config.num_layers):
        at = names.layer.format(i)
        for ours, theirs in names.norms.items():
            if not _absent(config, i, ours):
                norm(at + theirs, params["layers"][ours], i)
        for path, parts in names.dense.items():
            value = params["layers"]
            for key in path:
                value = value[key]
            dense(tuple(at + name for name in parts), value, i)
    return tensors


def _renamed(name: str) -> str:
    for old, new in _OLD_NAMES.items():
        name = name.replace(old, new)
    return name


def _norm_parts(config: EncoderConfig) -> Mapping[str, str]:
    return _NORM if config.biases else {"scale": "weight"}


def _absent(config: EncoderConfig, layer: int, norm: str) -> bool:
    """Returns whether a checkpoint lacks this norm.

    The first layer's input is already normed with the embeddings; our parameters have unused ones
    there.
    """
    return config.pre_norm and layer == 0 and norm == "attention_norm"


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
