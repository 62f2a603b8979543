"""An encoder as a sentence-transformers folder: what is read from one, and how one is written."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from selfdistill_jax.encoder.config import EncoderConfig, read_config
from selfdistill_jax.encoder.encode import Params
from selfdistill_jax.encoder.locate import locate
from selfdistill_jax.encoder.pooling import POOLINGS
from selfdistill_jax.encoder.weights import read_tensors, to_params, to_tensors, write_tensors
from selfdistill_jax.errors import InputError

WEIGHTS = "model.safetensors"
# Copied as they are: they say how text becomes ids, and whose work the start encoder is.
_COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "added_tokens.json",
    "LICENSE",
    "NOTICE",
)
# By sentence-transformers: a flag in folders of versions before 6, and the one word of later ones.
_POOLING_NAMES = {
    "cls": ("pooling_mode_cls_token", "cls"),
    "mean": ("pooling_mode_mean_tokens", "mean"),
    "max": ("pooling_mode_max_tokens", "max"),
    "last": ("pooling_mode_lasttoken", "lasttoken"),
}


class Encoder(NamedTuple):
    """A loaded encoder: everything needed to encode with it and to write it back."""

    folder: Path  # where it was read; the tokenizer's files are there
    config: EncoderConfig
    raw_config: dict[str, Any]  # config.json as it was
    params: Params  # float32 numpy arrays
    extra: dict[str, np.ndarray]  # tensors that are carried along unused
    pooling: str
    max_length: int  # tokens a text is cut at, special tokens included


def read_folder(name: str, *, pooling: str = "source") -> Encoder:
    """Loads an encoder.

    Args:
      name: a folder or hub id, see `locate`.
      pooling: ``"source"`` takes what the folder says (CLS where it says nothing), one of
        `POOLINGS` overrules it.

    Raises:
      InputError: files are missing, damaged or describe something this encoder is not.
    """
    folder = locate(name)
    raw = _read_json(folder / "config.json")
    config = read_config(raw, where=str(folder / "config.json"))
    _check_modules(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise InputError(
            f"{folder}: no {WEIGHTS}; a folder with pytorch_model.bin alone can be converted with "
            "AutoModel.from_pretrained(folder).save_pretrained(new_folder)"
        )
    params, extra = to_params(read_tensors(weights), config, where=str(weights))
    limit = config.max_positions
    sentence = folder / "sentence_bert_config.json"
    if sentence.is_file():
        limit = min(limit, _read_json(sentence).get("max_seq_length") or limit)
    if pooling == "source":
        pooling = _read_pooling(folder)
    elif pooling not in POOLINGS:
        raise InputError(f"pooling is {pooling!r}; expected source, {', '.join(POOLINGS)}")
    return Encoder(folder, config, raw, params, extra, pooling, limit)


def write_folder(path: Path, encoder: Encoder, *, card: str) -> None:
    """Writes a folder that sentence-transformers and ``AutoModel`` open.

    The folder appears whole or not at all: it is built beside ``path`` and takes its place at the
    end, so that a crash leaves the previous one.

    Args:
      path: the new folder; an existing one is replaced.
      encoder: what to write; ``encoder.folder`` must still hold the tokenizer's files.
      card: text of the model card, ``README.md``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    new.chmod(0o755)  # mkdtemp's 0700 would hide the model from other users
    for name in _COPIED:
        if (encoder.folder / name).is_file():
            shutil.copyfile(encoder.folder / name, new / name)
    tensors = to_tensors(encoder.params, encoder.config, extra=encoder.extra)
    write_tensors(new / WEIGHTS, tensors)
    # The weights are float32; a source's own dtype would have transformers open them in that.
    kept = {k: v for k, v in encoder.raw_config.items() if k not in ("dtype", "torch_dtype")}
    _write_json(new / "config.json", kept)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    _write_json(
        new / "modules.json",
        [
            {"idx": i, "name": str(i), "path": at, "type": f"sentence_transformers.models.{kind}"}
            for i, (at, kind) in enumerate(modules)
        ],
    )
    limits = {"max_seq_length": encoder.max_length, "do_lower_case": False}
    _write_json(new / "sentence_bert_config.json", limits)
    _write_json(new / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})
    (new / "1_Pooling").mkdir()
    (new / "2_Normalize").mkdir()
    pooling = {flag: name == encoder.pooling for name, (flag, _) in _POOLING_NAMES.items()}
    size = {"word_embedding_dimension": encoder.config.hidden_size}
    _write_json(new / "1_Pooling" / "config.json", size | pooling)
    (new / "README.md").write_text(card, encoding="utf-8")
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.rename(path, old)
    os.rename(new, path)
    shutil.rmtree(old, ignore_errors=True)


def _check_modules(folder: Path) -> None:
    path = folder / "modules.json"
    if not path.is_file():
        return
    for module in _read_json(path):
        kind = module["type"].rpartition(".")[2]
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise InputError(
                f"{path}: has a module {kind}, without which the vectors would be others; "
                "supported: Transformer, Pooling, Normalize"
            )


def _read_pooling(folder: Path) -> str:
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return "cls"  # a plain BERT folder: the paper takes the first token's vector
    raw = _read_json(path)
    set_ = [key for key, value in raw.items() if key.startswith("pooling_mode_") and value is True]
    for name, (flag, word) in _POOLING_NAMES.items():
        if set_ == [flag] or raw.get("pooling_mode") == word:
            return name
    raise InputError(
        f"{path}: pooling is {set_ or raw.get('pooling_mode')}; supported: {', '.join(POOLINGS)}; "
        "set config.encoder.pooling to overrule it"
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; an encoder's folder holds config.json, tokenizer.json "
            f"and {WEIGHTS}"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
