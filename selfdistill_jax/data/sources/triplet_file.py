"""Reads a file of training triplets: JSONL or TSV rows of query, positive and negative texts."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfdistill_jax.data.collection import Document, Example, Judgement, Query
from selfdistill_jax.data.files.text import digest
from selfdistill_jax.data.sources.triplet_rows import TEXTS, check_file, read_rows
from selfdistill_jax.errors import InputError

_VERSION = "triplets-4"  # part of the fingerprint: raise it when the same file is read differently
_DEV, _TEST = 50, 50  # per mille of the queries


class TripletFile:
    """Reads a triplet file; its distinct texts are the collection.

    JSONL rows are ``{"query": str, "positive": str, "negative": str}``, optionally with the numbers
    ``positive_score`` and ``negative_score``. The lists ``negatives`` and ``negative_scores`` may
    replace the negative and its score. A TSV file has a header of these names, or no header and the
    three texts in this order. Missing negatives are drawn from the other documents. The suffix is
    ``.jsonl`` or ``.json`` (both with one object a line) or ``.tsv``, optionally followed by
    ``.gz``. See `read_rows` for other fields and columns.

    Texts that differ only in white space at their ends are one text, spelt as in the first row.
    Training leaves out a negative that is a positive of the same query in any row.

    Args:
      path: path of the file.
      held_out: whether to hold out 5 % of the queries for dev and 5 % for test. A hash of the
        query's text chooses them, so that adding rows moves no query to another split.

    Attributes:
      path: path of the file.
      name: the file's name without suffixes.

    Raises:
      InputError: the file is missing or has an unknown suffix. Rows are checked when read.

    Example:
      >>> TripletFile("mine.csv")
      Traceback (most recent call last):
      ...
      selfdistill_jax.errors.InputError: mine.csv: unknown suffix '.csv'; expected .jsonl, ...
    """

    corpus_size = None
    pool_start = 0

    def __init__(self, path: str | Path, *, held_out: bool = True):
        self.path = check_file(path)
        self._held_out = held_out
        self.name = self.path.name.split(".")[0]
        self._read: tuple[list[str], list[str], list[Example]] | None = None

    def fingerprint(self) -> str:
        return digest(f"{_VERSION} held_out={self._held_out}", self.path)

    def describe(self) -> dict[str, Any]:
        return {"format": _VERSION, "file": str(self.path.resolve()), "held_out": self._held_out}

    def documents(self) -> Iterator[Document]:
        for row, text in enumerate(self._content()[0]):
            yield Document(f"d{row}", "", text)

    def queries(self) -> Iterator[Query]:
        for row, text in enumerate(self._content()[1]):
            yield Query(f"q{row}", text)

    def judgements(self, split: str) -> Iterator[Judgement]:
        _, queries, examples = self._content()
        splits = self._splits(queries)
        pairs = dict.fromkeys((e.query, e.positive) for e in examples)
        for query, positive in pairs:
            if splits[query] == split:
                yield Judgement(query, positive, 1)

    def examples(self) -> Iterator[Example]:
        _, queries, examples = self._content()
        splits = self._splits(queries)
        return (e for e in examples if splits[e.query] == "train")

    def _splits(self, queries: list[str]) -> list[str]:
        if not self._held_out:
            return ["train"] * len(queries)
        return [_split(text.strip()) for text in queries]

    def _content(self) -> tuple[list[str], list[str], list[Example]]:
        """Returns distinct documents, distinct queries, both in first-seen order, and examples."""
        if self._read is None:
            documents, queries = _Texts(), _Texts()
            examples = []
            for line, query, positive, negatives, *scores in read_rows(self.path, TEXTS):
                q, p = queries.add(query), documents.add(positive)
                n = tuple(map(documents.add, negatives))
                if len(set(n)) < len(n):
                    raise InputError(
                        f"{self.path}:{line}: the same negative occurs twice in the row; remove one"
                    )
                examples.append(Example(q, p, n, *scores))
            if not examples:
                raise InputError(
                    f"{self.path}: no triplets; expected rows of query, positive and negative"
                )
            self._read = documents.texts, queries.texts, examples
        return self._read


class _Texts:
    """Numbers distinct texts in the order in which they are added."""

    def __init__(self):
        self.texts: list[str] = []
        self._rows: dict[str, int] = {}

    def add(self, text: str) -> int:
        row = self._rows.setdefault(text.strip(), len(self.texts))
        if row == len(self.texts):
            self.texts.append(text)
        return row


def _split(query: str) -> str:
    at = int.from_bytes(hashlib.sha256(query.encode()).digest()[:8], "big") % 1000
    return "dev" if at < _DEV else "test" if at < _DEV + _TEST else "train"
