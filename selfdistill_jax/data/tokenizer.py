"""Turns text into token ids, exactly as `transformers.AutoTokenizer` does for the same folder."""

import contextlib
import hashlib
import importlib
import json
import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers

from selfdistill_jax import io
from selfdistill_jax.data.cache import cache_folder
from selfdistill_jax.errors import InputError

_VERSION = "1"  # version of the cached format
_READ_BY_TRANSFORMERS = (".json", ".txt", ".model")
_SIDES = ("right", "left")
# Tokenised once to count the special tokens around a text: every tokenizer knows one of these.
_PROBES = ("a", "the", "1", ".", "x y z")


class Edges(NamedTuple):
    """Describes the special tokens around a text, and the end at which long texts are cut.

    Attributes:
      head: number of special tokens before the text.
      tail: number of special tokens after the text.
      cut_front: whether long texts lose their beginning instead of their end.
    """

    head: int = 1
    tail: int = 1
    cut_front: bool = False

    def kept_in_front(self, limit: int) -> int:
        """Returns how many of the ``limit`` tokens of a cut text come from its start.

        The rest comes from its end.

        >>> Edges().kept_in_front(8), Edges(cut_front=True).kept_in_front(8)
        (7, 1)
        """
        return self.head if self.cut_front else limit - self.tail

    def cut(self, ids: np.ndarray, limit: int) -> np.ndarray:
        """Returns token ids truncated as tokenizers do it, with the special tokens preserved.

        >>> Edges(1, 1).cut(np.arange(6), 4).tolist()
        [0, 1, 2, 5]
        """
        if len(ids) <= limit:
            return ids
        front = self.kept_in_front(limit)
        return np.concatenate([ids[:front], ids[len(ids) - limit + front :]])


class Tokenizer:
    """Tokenises texts with a model's tokenizer, without its padding and length limit.

    The ids equal those of ``AutoTokenizer``, and thus of sentence-transformers: where the folder's
    files contradict each other (``tokenizer.json`` lower-cases, ``tokenizer_config.json`` says not
    to), transformers' rules decide. The tokenizer that transformers builds is cached, since
    importing transformers adds 0.5 to 2.6 s to each start.

    Args:
      folder: folder with the tokenizer's files and ``config.json``.
      table_rows: number of rows of the embedding table; a text with an id beyond it is refused.
      lower: whether to lower-case texts first, a setting of sentence-transformers.

    Raises:
      InputError: there is no tokenizer, or it cannot be read.

    Attributes:
      edges: special tokens around a text, and the end at which long texts are cut.
      pads_left: whether sentence-transformers pads batches on the left.
      fingerprint: hex digest of everything that determines the ids of a text.
    """

    def __init__(self, folder: Path, *, table_rows: int | None = None, lower: bool = False):
        self._folder = folder
        read = _read(folder)
        self._tokenizer = tokenizers.Tokenizer.from_str(read["tokenizer"])
        if lower:
            first, own = tokenizers.normalizers.Lowercase(), self._tokenizer.normalizer
            both = tokenizers.normalizers.Sequence([first, own]) if own else first
            self._tokenizer.normalizer = both
        self.edges = _edges(self._tokenizer, cut_front=read["truncation_side"] == "left")
        self.pads_left = read["padding_side"] == "left"
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        # Ids need a check only if some are beyond the table.
        self._rows = table_rows if table_rows is not None and max(ids) >= table_rows else None
        facts = [self._tokenizer.to_str()]
        if self.edges.cut_front:
            facts.append("left")
        if self._rows is not None:
            facts.append(f"rows {table_rows}")
        self.fingerprint = hashlib.sha256("\n".join(facts).encode()).hexdigest()

    def encode(self, texts: Sequence[str], *, limit: int, prompt: str = "") -> list[np.ndarray]:
        """Returns the int32 token ids of each text, with special tokens.

        Args:
          texts: texts to tokenise.
          limit: maximum number of tokens; longer texts are cut.
          prompt: string to prepend to each text.

        Raises:
          InputError: a text has a token for which the model has no embedding.
        """
        encoded = self._tokenizer.encode_batch_fast([prompt + text for text in texts])
        rows = [self.edges.cut(np.array(e.ids, np.int32), limit) for e in encoded]
        if self._rows is not None:
            for text, ids in zip(texts, rows, strict=True):
                self._check(prompt + text, ids)
        return rows

    def _check(self, text: str, ids: np.ndarray) -> None:
        beyond = ids[ids >= self._rows]
        if len(beyond):
            token = self._tokenizer.id_to_token(int(beyond[0]))
            shown = text if len(text) <= 60 else f"{text[:60]}…"
            raise InputError(
                f"{self._folder}: the tokenizer gives token {token!r} the id {beyond[0]}, but the "
                f"embedding table has {self._rows} rows (text: {shown!r}); resize the model's "
                "embeddings to its tokenizer (model.resize_token_embeddings(len(tokenizer)))"
            )


def _read(folder: Path) -> dict[str, str]:
    """Returns the tokenizer's JSON and its two sides, from the cache or from transformers."""
    place = None
    with contextlib.suppress(InputError, OSError):  # the cache only saves time
        place = cache_folder() / "tokenizers" / f"{_digest(folder)}.json"
        read = json.loads(place.read_text(encoding="utf-8"))
        if _is_whole(read):
            return read
    read = _by_transformers(folder)
    if place is not None:
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            io.write_text(place, json.dumps(read))
    return read


def _digest(folder: Path) -> str:
    from importlib.metadata import version

    total = hashlib.sha256(
        " ".join((_VERSION, *map(version, ("transformers", "tokenizers")))).encode()
    )
    for path in sorted(folder.iterdir()):
        if path.suffix in _READ_BY_TRANSFORMERS and path.is_file():
            total.update(f"\0{path.name}\0".encode())
            total.update(path.read_bytes())
    return total.hexdigest()


def _is_whole(read: Any) -> bool:
    keys = {"tokenizer", "truncation_side", "padding_side"}
    return isinstance(read, dict) and read.keys() == keys


def _by_transformers(folder: Path) -> dict[str, str]:
    names = {path.name for path in folder.iterdir() if path.is_file()}
    # Without any of these files, transformers makes a tokenizer with an empty vocabulary.
    if not names & {"tokenizer.json", "vocab.txt", "vocab.json"} and not (
        any(name.endswith(".model") for name in names)
    ):
        raise InputError(f"{folder}: no tokenizer.json; save the model's tokenizer there")
    with _quiet_transformers() as transformers:
        try:
            # Code in the folder is never run.
            found = transformers.AutoTokenizer.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
            tokenizer, sides = found.backend_tokenizer, (found.truncation_side, found.padding_side)
        except Exception as error:  # of many types; the Rust library raises bare Exception
            raise InputError(_why_unreadable(folder, names, error)) from None
    if not isinstance(tokenizer, tokenizers.Tokenizer) or not tokenizer.get_vocab_size():
        raise InputError(f"{folder}: the tokenizer has no vocabulary; fetch the folder again")
    for side in sides:
        if side not in _SIDES:
            raise InputError(
                f"{folder / 'tokenizer_config.json'}: truncation_side or padding_side is "
                f"{side!r}; expected 'right' or 'left'"
            )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return dict(zip(("truncation_side", "padding_side"), sides, strict=True)) | {
        "tokenizer": tokenizer.to_str()
    }


def _why_unreadable(folder: Path, names: set[str], error: Exception) -> str:
    pieces = sorted(name for name in names if name.endswith(".model"))
    if pieces and "tokenizer.json" not in names:
        # In both cases transformers mistakes the file for tiktoken's and asks for that package.
        if _is_installed("sentencepiece"):
            return f"{folder / pieces[0]}: not a usable sentencepiece model; fetch it again"
        return (
            f"{folder / pieces[0]}: a sentencepiece model without tokenizer.json beside it; "
            "run `pip install sentencepiece`, or make tokenizer.json where it is installed: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    said = " ".join(str(error).split())[:200]
    return f"{folder}: not a usable tokenizer ({type(error).__name__}: {said}); fetch it again"


def _is_installed(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


@contextlib.contextmanager
def _quiet_transformers() -> Generator[Any]:
    """Imports transformers without its advice on PyTorch, and silences its log for the block."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    try:
        yield transformers
    finally:
        transformers.logging.set_verbosity(before)


def _edges(tokenizer: tokenizers.Tokenizer, *, cut_front: bool) -> Edges:
    for probe in _PROBES:
        special = tokenizer.encode(probe).special_tokens_mask
        if 0 in special:
            return Edges(special.index(0), special[::-1].index(0), cut_front)
    return Edges(cut_front=cut_front)
