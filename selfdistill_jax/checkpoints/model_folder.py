"""Reads an encoder from a sentence-transformers folder, and writes it as one."""

import hashlib
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from selfdistill_jax.checkpoints.hub import locate
from selfdistill_jax.checkpoints.layout import DOCUMENT_ENCODER, ENCODES, QUERIES, read_layout
from selfdistill_jax.checkpoints.parameter_names import to_params, to_tensors
from selfdistill_jax.checkpoints.safetensors import WEIGHTS, as_float32, read_tensors, write_tensors
from selfdistill_jax.checkpoints.sentence_transformers import (
    Modules,
    Prompts,
    lowers,
    read_limit,
    read_modules,
    read_prompts,
    write_modules,
)
from selfdistill_jax.encoder.apply import Params
from selfdistill_jax.encoder.config import EncoderConfig, read_config
from selfdistill_jax.encoder.dense_head import DenseLayer
from selfdistill_jax.encoder.pooling import POOLINGS
from selfdistill_jax.errors import InputError
from selfdistill_jax.io import new_folder, write_json
from selfdistill_jax.json_file import read_json

POOLER = "pooler"  # the first token's state, then a BERT's own pooler: a dense layer with tanh
_POOLER_TENSORS = "pooler.dense"
_POOLER_FROM = "cls"
# Copied unchanged: these files say how text becomes ids.
_COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
    "added_tokens.json",
)
_COPIED_FROM_ROOT = ("LICENSE", "NOTICE")  # the terms of the start encoder's authors


class Pretrained(NamedTuple):
    """Holds a loaded encoder: everything needed to encode with it and to write it back."""

    folder: Path  # has config.json, the weights and the tokenizer's files
    config: EncoderConfig
    raw_config: dict[str, Any]  # content of config.json
    params: Params  # float32 numpy arrays
    extra: dict[str, np.ndarray]  # unused tensors, written back unchanged
    pooling: str
    max_length: int  # tokens at which a text is cut, special tokens included
    dense: tuple[DenseLayer, ...] = ()  # after pooling; their parameters are params["dense"]
    prompts: Prompts = Prompts()
    root: Path | None = None  # has modules.json and the model card; None if it is `folder`

    @property
    def dimensions(self) -> int:
        """Returns the number of dimensions of a vector."""
        return self.dense[-1].size if self.dense else self.config.hidden_size


def read_folder(name: str, *, pooling: str = "source") -> Pretrained:
    """Loads an encoder.

    Args:
      name: a folder or hub id, see `locate`.
      pooling: ``"source"`` for the pooling that the folder names (CLS if it names none), or one of
        `POOLINGS` or ``"pooler"`` instead; ``"pooler"`` is CLS with a dense layer after it.

    Raises:
      InputError: files are missing or damaged, or describe an unsupported encoder.
    """
    if pooling not in ("source", *POOLINGS, POOLER):
        known = ", ".join(("source", *POOLINGS, POOLER))
        raise InputError(f"pooling is {pooling!r}; expected one of {known}")
    layout = read_layout(locate(name))
    folder = layout.transformer
    raw = read_json(folder / "config.json")
    config = read_config(raw, where=str(folder / "config.json"))
    modules = read_modules(layout, pooling=_POOLER_FROM if pooling == POOLER else pooling)
    params, extra = to_params(read_tensors(folder), config, where=str(folder / WEIGHTS))
    if modules.dense and _is_pooler(modules, extra):
        first, *others = modules.dense
        modules = modules._replace(dense=(first._replace(also=_POOLER_TENSORS), *others))
    elif pooling == POOLER:
        modules = _with_pooler(modules, extra, folder)
    _check_sizes(modules, config.hidden_size, folder)
    if modules.dense:
        params["dense"] = modules.params
    return Pretrained(
        folder, config, raw, params, extra, modules.pooling,
        min(config.max_positions, read_limit(folder)), modules.dense,
        read_prompts(layout), layout.root,
    )  # fmt: skip


def fingerprint(encoder: Pretrained, *rest: Any) -> str:
    """Returns a hex digest of all that decides a text's vector, except tokenizer and prompts.

    Args:
      encoder: the encoder.
      rest: further values to include, by their ``repr``.
    """
    total = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(encoder.params):
        total.update(jax.tree_util.keystr(path).encode())
        total.update(np.ascontiguousarray(leaf).data)
    facts = encoder.config, encoder.pooling, encoder.dense, encoder.max_length, *rest
    total.update(repr(facts).encode())
    return total.hexdigest()


def document_encoder(encoder: Pretrained) -> Path | None:
    """Returns the folder of the document encoder, if the given encoder encodes only queries.

    Raises:
      InputError: it encodes only queries, but the folder is missing.
    """
    root = encoder.root or encoder.folder
    if encoder.raw_config.get(ENCODES) != QUERIES:
        return None
    if not (root / DOCUMENT_ENCODER).is_dir():
        raise InputError(
            f"{root}: this model encodes only queries, and its subfolder {DOCUMENT_ENCODER}, the "
            "document encoder, is missing; copy the whole folder again"
        )
    return root / DOCUMENT_ENCODER


def write_folder(
    path: Path, encoder: Pretrained, *, card: str, documents: Pretrained | None = None
) -> None:
    """Writes a folder that sentence-transformers and ``AutoModel`` open.

    The folder appears whole or not at all: it is built beside ``path`` and renamed at the end (a
    crash between two renames leaves the previous one as ``.NAME.old``).

    Args:
      path: the new folder; an existing one is replaced.
      encoder: the encoder; ``encoder.folder`` must still contain the tokenizer's files.
      card: text of the model card, ``README.md``.
      documents: the document encoder, if ``encoder`` encodes only queries; it is written to the
        subfolder ``document_encoder``.

    Raises:
      InputError: a settings file in ``encoder.folder`` is damaged.
    """
    params = {name: value for name, value in encoder.params.items() if name != "dense"}
    modules = Modules(encoder.pooling, encoder.dense, encoder.params.get("dense", {}))
    tensors = to_tensors(params, encoder.config, extra=encoder.extra)
    for number, layer in enumerate(encoder.dense):
        if layer.also:
            own = modules.params[str(number)]
            tensors[f"{layer.also}.weight"] = np.asarray(own["kernel"], np.float32).T
            tensors[f"{layer.also}.bias"] = np.asarray(own["bias"], np.float32)
    # Weights are written as float32; transformers would open them in the source's dtype if named.
    omitted = ("dtype", "torch_dtype", ENCODES)
    config = {k: v for k, v in encoder.raw_config.items() if k not in omitted}
    if documents is not None:
        config[ENCODES] = QUERIES
    limits = {"max_seq_length": encoder.max_length, "do_lower_case": lowers(encoder.folder)}
    if not encoder.folder.is_dir():
        raise InputError(
            f"{encoder.folder}: the folder that the encoder was loaded from no longer exists, but "
            "its tokenizer is needed to save the encoder"
        )
    with new_folder(path, replace=True) as new:
        root = encoder.root or encoder.folder
        for source, names in ((encoder.folder, _COPIED), (root, _COPIED_FROM_ROOT)):
            for name in names:
                if (source / name).is_file():
                    shutil.copyfile(source / name, new / name)
        write_tensors(new / WEIGHTS, tensors)
        write_json(new / "config.json", config)
        write_json(new / "sentence_bert_config.json", limits)
        write_modules(new, modules, encoder.prompts, size=encoder.config.hidden_size)
        (new / "README.md").write_text(card, encoding="utf-8")
        if documents is not None:
            note = "# The document encoder\n\nThe model in the folder above encodes queries.\n"
            write_folder(new / DOCUMENT_ENCODER, documents, card=note)


def _with_pooler(modules: Modules, extra: dict[str, np.ndarray], folder: Path) -> Modules:
    """Returns the modules with the transformer's own pooler before the other layers."""
    names = [f"{_POOLER_TENSORS}.{part}" for part in ("weight", "bias")]
    missing = [name for name in names if name not in extra]
    if missing:
        raise InputError(
            f"{folder}: no tensor {missing[0]!r}, which pooling {POOLER!r} needs; use another "
            f"pooling: {', '.join(POOLINGS)}"
        )
    kernel, bias = (as_float32(extra[name], name, folder / WEIGHTS) for name in names)
    layers = (DenseLayer(len(kernel), "Tanh", also=_POOLER_TENSORS), *modules.dense)
    params = {str(int(number) + 1): value for number, value in modules.params.items()}
    return Modules(modules.pooling, layers, {"0": {"kernel": kernel.T, "bias": bias}, **params})


def _check_sizes(modules: Modules, size: int, folder: Path) -> None:
    for number, layer in enumerate(modules.dense):
        inputs = len(modules.params[str(number)]["kernel"])
        if inputs != size:
            raise InputError(
                f"{folder}: dense layer {number + 1} has {inputs} inputs; expected {size}, the "
                "size of the vector before it"
            )
        size = layer.size


def _is_pooler(modules: Modules, extra: dict[str, np.ndarray]) -> bool:
    """Returns whether the first dense layer is the transformer's own pooler.

    It is one in a folder that `write_folder` wrote for an encoder with the pooling "pooler".
    """
    if modules.pooling != _POOLER_FROM or modules.dense[0].activation != "Tanh":
        return False
    weight: Any = extra.get(f"{_POOLER_TENSORS}.weight")
    bias: Any = extra.get(f"{_POOLER_TENSORS}.bias")
    own: Any = modules.params["0"]
    return np.array_equal(own["kernel"].T, weight) and np.array_equal(own.get("bias"), bias)
