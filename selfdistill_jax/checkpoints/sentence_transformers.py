"""Reads and writes a sentence-transformers folder's pooling, dense layers, limits and prompts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from selfdistill_jax.checkpoints.layout import Layout
from selfdistill_jax.checkpoints.safetensors import WEIGHTS, as_float32, read_tensors, write_tensors
from selfdistill_jax.encoder.apply import Params
from selfdistill_jax.encoder.dense_head import ACTIVATIONS, DenseLayer
from selfdistill_jax.encoder.pooling import POOLINGS
from selfdistill_jax.errors import InputError
from selfdistill_jax.io import write_json
from selfdistill_jax.json_file import entry, read_json
from selfdistill_jax.progress import LOG

_NO_LIMIT = 10**9  # tokens; texts are then cut at the model's number of positions
_SENTENCE_KINDS = ("bert", "roberta", "distilbert", "camembert", "xlm-roberta")
# Arguments that sentence-transformers passes to transformers when it opens the folder.
_HIDDEN_SETTINGS = ("tokenizer_args", "processor_kwargs", "config_args", "config_kwargs")
_PROMPTS = "config_sentence_transformers.json"
# Pooling -> its flag in folders of versions before 6, and its word in those of later ones.
_POOLING_NAMES = {
    "cls": ("pooling_mode_cls_token", "cls"),
    "mean": ("pooling_mode_mean_tokens", "mean"),
    "max": ("pooling_mode_max_tokens", "max"),
    "last": ("pooling_mode_lasttoken", "lasttoken"),
}
# Names of a document's prompt, in the order in which sentence-transformers looks for them.
_OF_DOCUMENTS = ("document", "passage", "corpus")


class Prompts(NamedTuple):
    """Holds the prompts that are put before texts.

    Attributes:
      named: name -> prompt, as in the folder.
      default: name of the prompt for texts that are neither query nor document, or None.
    """

    named: Mapping[str, str] = {}
    default: str | None = None

    def of(self, kind: str) -> str:
        """Returns the prompt of a "query", a "document" or another text (""); empty if none."""
        names = {"query": ("query",), "document": _OF_DOCUMENTS, "": (self.default or "",)}[kind]
        return next((self.named[name] for name in names if name in self.named), "")

    def replaced(self, **prompts: str) -> "Prompts":
        """Returns prompts with these names replaced or added; they come first."""
        return self._replace(
            named={**prompts, **{k: v for k, v in self.named.items() if k not in prompts}}
        )


class Modules(NamedTuple):
    """Holds the modules after the transformer.

    Attributes:
      pooling: one of `POOLINGS`.
      dense: dense layers after pooling.
      params: the dense layers' parameters, see `apply_head`.
    """

    pooling: str
    dense: tuple[DenseLayer, ...]
    params: Params


def read_modules(layout: Layout, *, pooling: str) -> Modules:
    """Reads the modules after the transformer.

    Args:
      layout: the folder's layout; in a plain transformer's folder, pooling is CLS, as in the paper,
        and nothing follows.
      pooling: ``"source"`` for the folder's pooling, or the pooling to use instead.

    Raises:
      InputError: a setting is not supported, or a file is damaged.
    """
    if pooling == "source":
        pooling = _read_pooling(layout.pooling) if layout.pooling else "cls"
    read = [_read_dense(place) for place in layout.dense]
    params = {str(number): own for number, (_, own) in enumerate(read)}
    return Modules(pooling, tuple(layer for layer, _ in read), params)


def write_modules(folder: Path, modules: Modules, prompts: Prompts, *, size: int) -> None:
    """Writes ``modules.json``, the modules' folders and the prompts.

    Args:
      folder: the folder of the transformer's files.
      modules: the modules after the transformer.
      prompts: prompts of queries, documents and other texts.
      size: size of hidden states.
    """
    numbers = range(len(modules.dense))
    list_ = [
        ("", "Transformer"),
        ("1_Pooling", "Pooling"),
        *((f"{2 + i}_Dense", "Dense") for i in numbers),
        (f"{2 + len(numbers)}_Normalize", "Normalize"),
    ]
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": at, "type": f"sentence_transformers.models.{kind}"}
            for i, (at, kind) in enumerate(list_)
        ],
    )
    for place, _ in list_[1:]:
        (folder / place).mkdir()
    flags = {flag: name == modules.pooling for name, (flag, _) in _POOLING_NAMES.items()}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": size} | flags)
    for i, layer in enumerate(modules.dense):
        size = _write_dense(folder / f"{2 + i}_Dense", layer, modules.params[str(i)], size)
    write_json(
        folder / _PROMPTS,
        {
            # In such a file sentence-transformers knows a document's prompt by this name only.
            "prompts": {
                "query": prompts.of("query"),
                "document": prompts.of("document"),
                **prompts.named,
            },
            "default_prompt_name": prompts.default,
            "similarity_fn_name": "cosine",
        },
    )


def read_prompts(layout: Layout) -> Prompts:
    """Returns the prompts of a folder, empty if it has none.

    Raises:
      InputError: the default prompt does not exist, or pooling excludes the prompt's tokens.
    """
    path = layout.root / _PROMPTS
    raw = read_json(path) if path.exists() else {}
    given = entry(raw, "prompts", dict, where=path, default={})
    named = {name: entry(given, name, str, where=path, default="") for name in given}
    prompts = Prompts(named, entry(raw, "default_prompt_name", str, where=path, default=None))
    if raw.get("similarity_fn_name") not in (None, "cosine"):
        LOG.warning(
            "%s: ignoring similarity_fn_name %r; vectors have unit length, compared by cosine",
            path, raw["similarity_fn_name"],
        )  # fmt: skip
    if prompts.default is not None and prompts.default not in prompts.named:
        raise InputError(
            f"{path}: default_prompt_name is {prompts.default!r}, but there is no such prompt "
            f"(prompts: {', '.join(prompts.named) or 'none'})"
        )
    pools = read_json(layout.pooling) if layout.pooling else {}
    if any(prompts.named.values()) and not pools.get("include_prompt", True):
        raise InputError(
            f"{layout.pooling}: include_prompt is false; only vectors that include the prompt's "
            "tokens are supported"
        )
    return prompts


def read_limit(folder: Path) -> int:
    """Returns the number of tokens at which a transformer's folder says texts are cut.

    The result is huge if the folder sets no limit. sentence-transformers before 6 keeps it in
    ``sentence_bert_config.json``, later versions in ``tokenizer_config.json``. The truncation in
    ``tokenizer.json`` is ignored: it is left over from the last use of the tokenizer.

    Raises:
      InputError: a limit is not a positive number, or an unsupported setting may change vectors.
    """
    own = read_sentence_config(folder)
    for path, raw in own:
        for key in _HIDDEN_SETTINGS:
            if raw.get(key):
                raise InputError(
                    f"{path}: {key} is {raw[key]!r}; this setting is not supported and may change "
                    "the vectors; remove the key, or save the model again without it"
                )
    path = folder / "tokenizer_config.json"
    found = [(path, "max_seq_length", raw) for path, raw in own]
    if path.exists():
        found.append((path, "model_max_length", read_json(path)))
    for path, key, raw in found:
        limit = entry(raw, key, float, where=path, default=None)
        if limit is None:
            continue
        if not limit > 0:
            raise InputError(f"{path}: {key} is {limit}; expected a number of tokens above 0")
        if limit < _NO_LIMIT:  # transformers writes 1e30 or Infinity if it knows no limit
            return int(limit)
    return _NO_LIMIT


def lowers(folder: Path) -> bool:
    """Returns whether texts are lower-cased before the tokenizer's own rules."""
    return any(bool(raw.get("do_lower_case")) for _, raw in read_sentence_config(folder))


def read_sentence_config(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Returns path and content of the first sentence-transformers config, or an empty list."""
    for kind in _SENTENCE_KINDS:
        path = folder / f"sentence_{kind}_config.json"
        if path.exists():
            return [(path, read_json(path))]
    return []


def _read_pooling(path: Path) -> str:
    raw = read_json(path)
    set_ = [key for key, value in raw.items() if key.startswith("pooling_mode_") and value is True]
    for name, (flag, word) in _POOLING_NAMES.items():
        if set_ == [flag] or raw.get("pooling_mode") == word:
            return name
    raise InputError(
        f"{path}: pooling is {' + '.join(set_) or raw.get('pooling_mode')}; supported: "
        f"{', '.join(POOLINGS)}"
    )


def _read_dense(folder: Path) -> tuple[DenseLayer, Params]:
    path = folder / "config.json"
    raw = read_json(path)
    name = entry(raw, "activation_function", str, where=path, default="Tanh")
    activation = name.rpartition(".")[2]
    if activation not in ACTIVATIONS:
        raise InputError(
            f"{path}: activation_function is {name!r}; supported: {', '.join(ACTIVATIONS)}"
        )
    if raw.get("use_residual"):
        raise InputError(
            f"{path}: use_residual is true; a layer that adds its input is not supported"
        )
    for key in ("module_input_name", "module_output_name"):
        if raw.get(key) not in (None, "sentence_embedding"):
            raise InputError(
                f"{path}: {key} is {raw[key]!r}; only 'sentence_embedding', the text's vector, is "
                "supported"
            )
    inputs, outputs = (entry(raw, f"{end}_features", int, where=path) for end in ("in", "out"))
    tensors = read_tensors(folder)
    shapes = {"linear.weight": (outputs, inputs)}
    if raw.get("bias", True):
        shapes["linear.bias"] = (outputs,)
    for name, shape in shapes.items():
        if name not in tensors or tensors[name].shape != shape:
            found = list(tensors[name].shape) if name in tensors else "missing"
            raise InputError(
                f"{folder / WEIGHTS}: tensor {name!r} is {found}; config.json asks for "
                f"{list(shape)}"
            )
    read = {name: as_float32(tensors[name], name, folder / WEIGHTS) for name in shapes}
    params = {"kernel": read["linear.weight"].T}
    if "linear.bias" in read:
        params["bias"] = read["linear.bias"]
    return DenseLayer(outputs, activation), params


def _write_dense(folder: Path, layer: DenseLayer, params: Params, size: int) -> int:
    """Writes a dense layer's folder and returns the size of the layer's result."""
    kind = f"torch.nn.modules.{'linear' if layer.activation == 'Identity' else 'activation'}"
    write_json(
        folder / "config.json",
        {
            "in_features": size,
            "out_features": layer.size,
            "bias": "bias" in params,
            "activation_function": f"{kind}.{layer.activation}",
        },
    )
    tensors = {"linear.weight": np.asarray(params["kernel"], np.float32).T}
    if "bias" in params:
        tensors["linear.bias"] = np.asarray(params["bias"], np.float32)
    write_tensors(folder / WEIGHTS, tensors)
    return layer.size
