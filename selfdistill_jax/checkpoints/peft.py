"""Reads and writes LoRA adapters as folders of Hugging Face's PEFT.

    adapter_config.json          rank, alpha, which modules
    adapter_model.safetensors    base_model.model.encoder.layer.0.output.dense.lora_A.weight …

ModernBERT has one tensor, ``Wqkv``, for queries, keys and values, so PEFT has one adapter for all
three. `write_lora` combines our adapters into it: it stacks their A and puts their B on the block
diagonal. The rank of the combined adapter is the sum of the ranks.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from selfdistill_jax.checkpoints.adapter_folder import (
    CONFIG,
    TENSORS,
    read_adapter,
    read_settings,
    write_adapter,
)
from selfdistill_jax.checkpoints.model_folder import Pretrained
from selfdistill_jax.checkpoints.safetensors import as_float32, read_file, write_tensors
from selfdistill_jax.encoder.apply import Params
from selfdistill_jax.encoder.architectures import ARCHITECTURES, Architecture
from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.encoder.lora import TARGETS, Target, apply_lora, at
from selfdistill_jax.errors import InputError

Pair = tuple[np.ndarray, np.ndarray]
KIND = "LORA"
_PREFIX = "base_model.model."
# Config keys that do not change kernel + scale A B; tensors other than A and B are refused later.
_HARMLESS = frozenset(
    (
        "peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path",
        "revision", "inference_mode", "r", "lora_alpha", "alpha_pattern", "rank_pattern",
        "use_rslora", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
        "lora_dropout", "bias", "fan_in_fan_out", "init_lora_weights", "eva_config",
        "modules_to_save", "megatron_core", "qalora_group_size",
    )
)  # fmt: skip
# Others (pissa, olora, corda, loftq …) change the base's own weights before training.
_BEGINNINGS = (True, False, None, "gaussian", "orthogonal", "eva")


def write_lora(
    path: Path,
    adapter: Params,
    config: EncoderConfig,
    *,
    alpha: int,
    base: str,
    card: str,
    settings: Mapping[str, Any] = {},
) -> None:
    """Writes a LoRA adapter's folder, which appears whole or not at all.

    ``PeftModel.from_pretrained(AutoModel.from_pretrained(base), path)`` opens it.

    Args:
      path: the new folder; an existing one is replaced.
      adapter: an adapter as `init_lora` returns it, all targets of one rank.
      config: sizes of the encoder that the adapter belongs to.
      alpha: numerator of the scale, alpha / rank.
      base: the encoder's folder or hub id.
      card: text of ``README.md``.
      settings: see `write_adapter`.
    """
    names = ARCHITECTURES[config.architecture]
    modules = _to_modules(adapter, names)
    rank = next(iter(adapter.values()))["a"].shape[-1]
    times = {m: a.shape[-1] // rank for m, (a, _) in modules.items() if a.shape[-1] != rank}
    tensors = {}
    for module, pair in modules.items():
        for number in range(config.num_layers):
            for letter, value in zip("AB", pair, strict=True):
                name = f"{_PREFIX}{names.layer.format(number)}{module}.lora_{letter}.weight"
                tensors[name] = value[number].T
    written = {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {module: n * rank for module, n in times.items()},
        "alpha_pattern": {module: n * alpha for module, n in times.items()},
        "target_modules": _expression(names, modules),
        "lora_dropout": 0.0,
        "bias": "none",
    }
    options = {"base": base, "card": card, "settings": settings}
    write_adapter(path, tensors, kind=KIND, config=written, **options)


def scale_lora(path: Path, factor: float) -> None:
    """Multiplies the change that an adapter makes, in its file of tensors."""
    tensors = read_file(path / TENSORS)
    scaled = {
        name: value * np.float32(factor) if name.endswith(".lora_B.weight") else value
        for name, value in tensors.items()
    }
    new = path / f".new-{TENSORS}"
    write_tensors(new, scaled)
    new.replace(path / TENSORS)


def with_adapter(encoder: Pretrained, folder: Path) -> Pretrained:
    """Returns the encoder with a folder's LoRA adapter added to its weights.

    Prompts and maximum length become those of the adapter's training. Pooling stays that of
    ``encoder``, because it decides which parameters there are: read the encoder with the adapter's
    pooling.

    Raises:
      InputError: see `read_lora`.
    """
    encoder = with_settings(encoder, folder)
    return encoder._replace(params=apply_lora(encoder.params, read_lora(folder, encoder)))


def with_settings(encoder: Pretrained, folder: Path) -> Pretrained:
    """Returns an encoder with the prompts and the maximum length of an adapter's folder."""
    settings = read_settings(folder)
    prompts = {of: settings.get(f"{of}_prompt") for of in ("query", "document")}
    return encoder._replace(
        max_length=settings.get("max_length", encoder.max_length),
        prompts=encoder.prompts.replaced(**{k: v for k, v in prompts.items() if v is not None}),
    )


def read_lora(folder: Path, encoder: Pretrained) -> Params:
    """Reads an adapter for `apply_lora` with scale 1: each module's scale is multiplied into its B.

    Layers without an adapter get zeros, and adapters below the highest rank are padded with zeros.

    Args:
      folder: an adapter's folder as PEFT or `write_lora` writes it.
      encoder: the encoder that the adapter belongs to.

    Raises:
      InputError: the folder is not an adapter's, the adapter is of another kind than LoRA, or it
        belongs to another encoder.
    """
    raw = _read_config(folder)
    names = ARCHITECTURES[encoder.config.architecture]
    found = _read_modules(folder / TENSORS, raw, encoder)
    adapter: Params = {}
    for role, target in TARGETS.items():
        theirs = names.dense[target.path]
        fused = len(theirs) < target.parts
        module = theirs[0 if fused else target.part]
        layers = [
            found.get(f"{names.layer.format(number)}{module}")
            for number in range(encoder.config.num_layers)
        ]
        if fused:
            layers = [pair and _share(pair, target) for pair in layers]
        if any(layers):
            adapter[role] = _stack(layers)
    return adapter


def _share(pair: Pair, target: Target) -> Pair:
    """Returns a target's share of the adapter of several fused targets."""
    a, b = pair
    return a, np.split(b, target.parts, axis=1)[target.part]


def _to_modules(adapter: Params, names: Architecture) -> dict[str, Pair]:
    """Returns PEFT's module name in a layer -> stacked A ``[n, D, R]`` and B ``[n, R, F]``."""
    modules = {}
    for path, theirs in names.dense.items():
        own = {role: adapter[role] for role in adapter if TARGETS[role].path == path}
        pairs = {
            TARGETS[role].part: (np.asarray(pair["a"]), np.asarray(pair["b"]))
            for role, pair in own.items()
        }
        parts = max(target.part + 1 for target in TARGETS.values() if target.path == path)
        if len(theirs) == parts:
            modules |= {theirs[part]: pair for part, pair in pairs.items()}
        elif pairs:
            blocks = []
            for part, (_, b) in pairs.items():
                block = np.zeros((*b.shape[:2], parts * b.shape[2]), b.dtype)
                block[..., part * b.shape[2] : (part + 1) * b.shape[2]] = b
                blocks.append(block)
            both = [a for a, _ in pairs.values()]
            modules[theirs[0]] = np.concatenate(both, axis=2), np.concatenate(blocks, axis=1)
    return modules


def _expression(names: Architecture, modules: Mapping[str, Any]) -> str:
    """Returns a regular expression that matches full names of modules.

    In a list of names, BERT's ``output.dense`` would match ``attention.output.dense`` too.
    """
    layer = re.escape(names.layer).replace(r"\{\}", r"\d+")
    return rf"(.*\.)?{layer}({'|'.join(re.escape(module) for module in modules)})"


def _read_config(folder: Path) -> Mapping[str, Any]:
    path, raw = folder / CONFIG, read_adapter(folder, kind=KIND)
    unknown = [key for key, value in raw.items() if value and key not in _HARMLESS]
    if raw.get("init_lora_weights") not in _BEGINNINGS:
        unknown.append("init_lora_weights")
    if unknown:
        raise InputError(
            f"{path}: {unknown[0]} is {raw[unknown[0]]!r}, which is not supported: only kernel + "
            "scale A B is computed; merge the adapter with PEFT (model.merge_and_unload()) and "
            "load the result"
        )
    return raw


def _scale(raw: Mapping[str, Any], module: str, *, rank: int) -> float:
    """Returns a module's scale.

    ``module`` is the full name with the prefix; a key of ``alpha_pattern`` matches it or its end.
    """
    patterns = raw.get("alpha_pattern") or {}
    matching = (v for key, v in patterns.items() if re.match(rf"(.*\.)?({key})$", module))
    alpha = next(matching, raw.get("lora_alpha", 8))
    return alpha / (rank**0.5 if raw.get("use_rslora") else rank)


def _read_modules(path: Path, raw: Mapping[str, Any], encoder: Pretrained) -> dict[str, Pair]:
    """Returns a module's full name -> its A ``[D, R]`` and its B ``[R, F]`` times its scale."""
    names = ARCHITECTURES[encoder.config.architecture]
    sizes = _sizes(names, encoder.params)
    # No vector depends on these modules, except on a pooler that the encoder pools with.
    unused = () if any(layer.also for layer in encoder.dense) else names.unused
    pattern = rf"{re.escape(_PREFIX)}(?:{re.escape(names.prefix)})?(.+)\.lora_([AB])\.weight"
    halves: dict[str, dict[str, np.ndarray]] = {}
    for name, value in read_file(path).items():
        match = re.fullmatch(pattern, name)
        if match and match[1] in sizes:
            halves.setdefault(match[1], {})[match[2]] = as_float32(value, name, path).T
        elif not (match and match[1].startswith(unused)):
            raise InputError(
                f"{path}: tensor {name!r} is not an adapter of a layer of a {names.name} with "
                f"{encoder.config.num_layers} layers; ignoring it would change the vectors"
            )
    if not halves:
        raise InputError(
            f"{path}: no adapter of any layer; expected tensors lora_A.weight and lora_B.weight"
        )
    modules = {}
    for module, half in halves.items():
        a, b = (half.get(letter, np.zeros((0, 0))) for letter in "AB")
        inputs, outputs = sizes[module]
        if a.shape[0] != inputs or b.shape != (a.shape[1], outputs):
            raise InputError(
                f"{path}: A of {module} has shape {list(a.T.shape)} and B {list(b.T.shape)}; "
                f"expected [rank, {inputs}] and [{outputs}, rank] for this encoder"
            )
        modules[module] = a, b * np.float32(_scale(raw, names.prefix + module, rank=a.shape[1]))
    return modules


def _sizes(names: Architecture, params: Params) -> dict[str, tuple[int, int]]:
    """Returns the full name of each module that can have an adapter -> its inputs and outputs."""
    sizes = {}
    for path, theirs in names.dense.items():
        layers, inputs, outputs = at(params["layers"], path)["kernel"].shape
        for number in range(layers):
            for module in theirs:
                full = f"{names.layer.format(number)}{module}"
                sizes[full] = inputs, outputs // len(theirs)
    return sizes


def _stack(layers: list[Pair | None]) -> Params:
    some = [pair for pair in layers if pair is not None]
    rank = max(a.shape[1] for a, _ in some)
    (inputs, _), (_, outputs) = (value.shape for value in some[0])
    a = np.zeros((len(layers), inputs, rank), np.float32)
    b = np.zeros((len(layers), rank, outputs), np.float32)
    for number, pair in enumerate(layers):
        if pair is not None:
            own = pair[0].shape[1]
            a[number, :, :own], b[number, :own] = pair
    return {"a": a, "b": b}
