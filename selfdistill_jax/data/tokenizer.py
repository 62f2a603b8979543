"""Text to token ids with an encoder folder's own tokenizer, and none of its hidden limits."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers

from selfdistill_jax.errors import InputError

_OLDER_FILES = ("vocab.txt", "vocab.json", "sentencepiece.bpe.model", "tokenizer_config.json")


class Tokenizer:
    """A folder's ``tokenizer.json`` with the truncation and padding it may carry switched off.

    (all-MiniLM-L6-v2 ships one that pads and cuts every text to 128 tokens.)

    Args:
      folder: holds ``tokenizer.json``, or older files that `transformers` turns into one.

    Raises:
      InputError: there is no tokenizer, or it cannot be read.

    Attributes:
      fingerprint: hex digest of everything that decides how text becomes ids.
    """

    def __init__(self, folder: Path):
        path = folder / "tokenizer.json"
        try:
            if path.is_file():
                self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
            else:
                self._tokenizer = _convert(folder)
        except InputError:
            raise
        except Exception as error:  # the Rust library raises bare Exception
            raise InputError(f"{path}: not a usable tokenizer ({error})") from None
        if _lowers(folder):
            lower, own = tokenizers.normalizers.Lowercase(), self._tokenizer.normalizer
            self._tokenizer.normalizer = (
                tokenizers.normalizers.Sequence([lower, own]) if own else lower
            )
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.fingerprint = hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()

    def encode(self, texts: Sequence[str], *, limit: int, prompt: str = "") -> list[np.ndarray]:
        """Token ids with special tokens, int32, of the prompt and each text, cut at ``limit``."""
        encoded = self._tokenizer.encode_batch_fast([prompt + text for text in texts])
        return [cut(np.array(e.ids, np.int32), limit) for e in encoded]


def cut(ids: np.ndarray, limit: int) -> np.ndarray:
    """Truncates as tokenizers do: the closing special token stays."""
    if len(ids) <= limit:
        return ids
    return np.concatenate([ids[: limit - 1], ids[-1:]])


def _lowers(folder: Path) -> bool:
    """sentence-transformers' own switch, beside what ``tokenizer.json`` does."""
    path = folder / "sentence_bert_config.json"
    return path.is_file() and bool(json.loads(path.read_text()).get("do_lower_case"))


def _convert(folder: Path) -> tokenizers.Tokenizer:
    import transformers  # 0.5 s, and only older folders need it

    if not any(
        (folder / name).is_file() for name in ("vocab.txt", "vocab.json", "tokenizer_config.json")
    ):
        raise InputError(f"{folder}: no tokenizer.json; an encoder's folder holds its tokenizer")
    return transformers.AutoTokenizer.from_pretrained(folder).backend_tokenizer
