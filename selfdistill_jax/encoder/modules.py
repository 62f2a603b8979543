"""What a sentence-transformers folder says besides the transformer: pooling, layers, prompts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from selfdistill_jax.encoder.encode import Params
from selfdistill_jax.encoder.head import ACTIVATIONS, DenseLayer
from selfdistill_jax.encoder.pooling import POOLINGS
from selfdistill_jax.encoder.tensors import WEIGHTS, read_tensors, write_tensors
from selfdistill_jax.errors import InputError
from selfdistill_jax.progress import LOG

_LIMITS = (
    ("sentence_bert_config.json", "max_seq_length"),
    ("tokenizer_config.json", "model_max_length"),
)
_PROMPTS = "config_sentence_transformers.json"
# A flag in folders of versions before 6, and the one word of later ones.
_POOLING_NAMES = {
    "cls": ("pooling_mode_cls_token", "cls"),
    "mean": ("pooling_mode_mean_tokens", "mean"),
    "max": ("pooling_mode_max_tokens", "max"),
    "last": ("pooling_mode_lasttoken", "lasttoken"),
}
_KNOWN = ("Transformer", "Pooling", "Dense", "Normalize")
# Of what is put before a document, as sentence-transformers looks for it.
_OF_DOCUMENTS = ("document", "passage", "corpus")


class Prompts(NamedTuple):
    """What is put before a text.

    Attributes:
      named: name -> prompt, as the folder has them.
      default: the name of that for texts of no kind, or None.
    """

    named: Mapping[str, str] = {}
    default: str | None = None

    def of(self, kind: str) -> str:
        """The prompt of a "query", a "document" or of texts of no kind (""); empty for none."""
        names = {"query": ("query",), "document": _OF_DOCUMENTS, "": (self.default or "",)}[kind]
        return next((self.named[name] for name in names if name in self.named), "")

    def replaced(self, **prompts: str) -> "Prompts":
        """With other prompts of these names, which come first."""
        return self._replace(
            named={**prompts, **{k: v for k, v in self.named.items() if k not in prompts}}
        )


class Modules(NamedTuple):
    """Behind the transformer.

    Attributes:
      pooling: of `POOLINGS`.
      dense: layers behind it.
      params: of these, see `apply_head`.
    """

    pooling: str
    dense: tuple[DenseLayer, ...]
    params: Params


def read_modules(folder: Path, *, pooling: str) -> Modules:
    """Reads ``modules.json`` and what it names.

    Args:
      folder: without that file, pooling is CLS, as in the paper, and nothing follows.
      pooling: ``"source"``, or what overrules the folder.

    Raises:
      InputError: a module or a setting that is not computed here, or a damaged file.
    """
    path = folder / "modules.json"
    modules = read_json(path) if path.is_file() else []
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    for kind in kinds:
        if kind not in _KNOWN:
            raise InputError(
                f"{path}: has a module {kind}, without which the vectors would be others; "
                f"supported: {', '.join(_KNOWN)}"
            )
    if kinds != sorted(kinds, key=_KNOWN.index):
        raise InputError(
            f"{path}: modules are {', '.join(kinds)}; expected the order {', '.join(_KNOWN)}"
        )
    places = [folder / module["path"] for module in modules]
    if pooling == "source":
        pooling = _read_pooling(_pooling_file(folder))
    layers, params = [], {}
    for kind, place in zip(kinds, places, strict=True):
        if kind == "Dense":
            layer, own = _read_dense(place)
            params[str(len(layers))] = own
            layers.append(layer)
    return Modules(pooling, tuple(layers), params)


def write_modules(folder: Path, modules: Modules, prompts: Prompts, *, size: int) -> None:
    """Writes ``modules.json``, the modules' folders and the prompts.

    Args:
      folder: of the transformer's files.
      modules: behind it.
      prompts: of queries, documents and others.
      size: of hidden states.
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
            # sentence-transformers looks for a document's under this name alone in such a file.
            "prompts": {
                "query": prompts.of("query"),
                "document": prompts.of("document"),
                **prompts.named,
            },
            "default_prompt_name": prompts.default,
            "similarity_fn_name": "cosine",
        },
    )


def read_prompts(folder: Path) -> Prompts:
    """The prompts of a folder; none where it has none.

    Raises:
      InputError: the default has no prompt, or vectors are to be made of the text alone.
    """
    path = folder / _PROMPTS
    raw = read_json(path) if path.is_file() else {}
    named = {name: prompt or "" for name, prompt in (raw.get("prompts") or {}).items()}
    prompts = Prompts(named, raw.get("default_prompt_name"))
    if raw.get("similarity_fn_name") not in (None, "cosine"):
        LOG.warning(
            "%s: similarity_fn_name is %r; here vectors are of unit length, compared by cosine",
            path, raw["similarity_fn_name"],
        )  # fmt: skip
    if prompts.default is not None and prompts.default not in prompts.named:
        raise InputError(
            f"{path}: default_prompt_name is {prompts.default!r}, of which it has no prompt (it "
            f"has {', '.join(prompts.named) or 'none'})"
        )
    pooling = _pooling_file(folder)
    raw = read_json(pooling) if pooling.is_file() else {}
    if any(prompts.named.values()) and not raw.get("include_prompt", True):
        raise InputError(
            f"{pooling}: include_prompt is false; only vectors that are made of the prompt too are "
            "supported"
        )
    return prompts


def read_limit(folder: Path) -> int:
    """Tokens that a folder says its texts are cut at; far too many where it says nothing.

    Versions before 6 have it in a file of their own, later ones among the tokenizer's settings.
    (What ``tokenizer.json`` itself says of truncation is what somebody last used it with.)
    """
    for file, key in _LIMITS:
        path = folder / file
        found = read_json(path).get(key) if path.is_file() else None
        if found:
            return int(found)
    return 1 << 62


def lowers(folder: Path) -> bool:
    """Whether texts are made lower case before the tokenizer's own rules."""
    path = folder / _LIMITS[0][0]
    return path.is_file() and bool(read_json(path).get("do_lower_case"))


def _pooling_file(folder: Path) -> Path:
    path = folder / "modules.json"
    modules = read_json(path) if path.is_file() else []
    found = [module["path"] for module in modules if module["type"].endswith("Pooling")]
    return folder / (found or ["1_Pooling"])[0] / "config.json"


def _read_pooling(path: Path) -> str:
    if not path.is_file():
        return "cls"  # a plain BERT folder: the paper takes the first token's vector
    raw = read_json(path)
    set_ = [key for key, value in raw.items() if key.startswith("pooling_mode_") and value is True]
    for name, (flag, word) in _POOLING_NAMES.items():
        if set_ == [flag] or raw.get("pooling_mode") == word:
            return name
    raise InputError(
        f"{path}: pooling is {set_ or raw.get('pooling_mode')}; supported: {', '.join(POOLINGS)}; "
        "set config.encoder.pooling to overrule it"
    )


def _read_dense(folder: Path) -> tuple[DenseLayer, Params]:
    path = folder / "config.json"
    raw = read_json(path)
    activation = raw.get("activation_function", "Tanh").rpartition(".")[2]
    if activation not in ACTIVATIONS:
        raise InputError(
            f"{path}: activation_function is {raw['activation_function']!r}; supported: "
            f"{', '.join(ACTIVATIONS)}"
        )
    if raw.get("use_residual"):
        raise InputError(
            f"{path}: use_residual is true; a layer that adds its input is not supported"
        )
    for key in ("module_input_name", "module_output_name"):
        if raw.get(key) not in (None, "sentence_embedding"):
            raise InputError(
                f"{path}: {key} is {raw[key]!r}; only layers of the text's vector are supported "
                "('sentence_embedding')"
            )
    tensors = read_tensors(folder)
    shapes = {"linear.weight": (raw["out_features"], raw["in_features"])}
    if raw.get("bias", True):
        shapes["linear.bias"] = (raw["out_features"],)
    for name, shape in shapes.items():
        if name not in tensors or tensors[name].shape != shape:
            found = list(tensors[name].shape) if name in tensors else "missing"
            raise InputError(
                f"{folder / WEIGHTS}: tensor {name!r} is {found}; config.json asks for "
                f"{list(shape)}"
            )
    params = {"kernel": tensors["linear.weight"].T.astype(np.float32)}
    if "linear.bias" in shapes:
        params["bias"] = tensors["linear.bias"].astype(np.float32)
    return DenseLayer(raw["out_features"], activation), params


def _write_dense(folder: Path, layer: DenseLayer, params: Params, size: int) -> int:
    """Returns the size of the layer's result."""
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


def read_json(path: Path) -> Any:
    """The content of a file of a model's folder.

    Raises:
      InputError: it is not there, or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; an encoder's folder holds config.json, tokenizer.json "
            f"and {WEIGHTS}"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
