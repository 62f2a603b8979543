"""Reads a file of training triplets: JSONL or TSV rows of query, positive and negative texts."""

import hashlib
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from selfdistill_jax.data.collection import Document, Example, Judgement, Query
from selfdistill_jax.data.sources.jsonl import digest
from selfdistill_jax.data.sources.triplet_rows import TEXTS, check_file, read_rows
from selfdistill_jax.errors import InputError

_VERSION = "triplets-3"  # part of the fingerprint: raise it when the same file is read differently
_DEV, _TEST = 50, 50  # per mille of the queries
_SHOWN = 60  # characters of a text in a message


class TripletFile:
    """Reads a triplet file; its distinct texts are the collection.

    JSONL rows are ``{"query": str, "positive": str, "negative": str}``, optionally with the numbers
    ``positive_score`` and ``negative_score``. The lists ``negatives`` and ``negative_scores`` may
    replace the negative and its score. A TSV file has a header of these names, or no header and the
    three texts in this order. Missing negatives are drawn from the other documents. The suffix is
    ``.jsonl`` or ``.json`` (both with one object a line) or ``.tsv``, optionally followed by
    ``.gz``. See `read_rows` for other fields and columns.

    Texts that differ only in white space at their ends are one text, spelt as in the first row.
    A file is refused if a document is a positive and a negative of the same query.

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
            examples, seen = [], Seen()
            for line, query, positive, negatives, *scores in read_rows(self.path, TEXTS):
                q, p = queries.add(query), documents.add(positive)
                n = tuple(map(documents.add, negatives))
                if p in n:
                    raise InputError(
                        f"{self.path}:{line}: positive and negative are the same text; "
                        "remove the row"
                    )
                if len(set(n)) < len(n):
                    raise InputError(
                        f"{self.path}:{line}: the same negative occurs twice in the row; remove one"
                    )
                examples.append(Example(q, p, n, *scores))
                seen.add(examples[-1], line)
            if not examples:
                raise InputError(
                    f"{self.path}: no triplets; expected rows of query, positive and negative"
                )
            seen.check_contradictions(self.path, name=lambda row: documents.texts[row])
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


class Seen:
    """Stores the rows of a file compactly, as there may be millions, to find contradictions."""

    def __init__(self):
        self._queries, self._positives, self._lines = array("q"), array("q"), array("q")
        self._negatives, self._of = array("q"), array("q")

    def add(self, example: Example, line: int) -> None:
        """Adds the next row of the file."""
        self._negatives.extend(example.negatives)
        self._of.extend([len(self._queries)] * len(example.negatives))
        self._queries.append(example.query)
        self._positives.append(example.positive)
        self._lines.append(line)

    def check_contradictions(self, path: Path, *, name: Callable[[int], str]) -> None:
        """Refuses a file in which a document is a positive and a negative of the same query.

        Args:
          path: path of the file, for the message.
          name: function that returns the text or id of a document, for the message.

        Raises:
          InputError: there are such rows; the message has their number, the line of the first one
            and the line of the positive.
        """
        columns = self._queries, self._positives, self._negatives, self._of
        queries, positives, negatives, of = (np.array(column, np.int64) for column in columns)
        documents = 1 + max(positives.max(initial=0), negatives.max(initial=0))
        known = queries * documents + positives
        given = queries[of] * documents + negatives
        wrong = np.flatnonzero(np.isin(given, known))
        if not len(wrong):
            return
        first = wrong[0]
        text = name(negatives[first])
        shown = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
        positive = np.flatnonzero(known == given[first])[0]
        line, other = self._lines[of[first]], self._lines[positive]
        raise InputError(
            f"{path}: {len(np.unique(of[wrong])):,} of {len(queries):,} rows have a negative that "
            f"is a positive of the same query in another row (first: line {line}, {shown!r}, "
            f"positive in line {other}); remove the wrong rows"
        )


def _split(query: str) -> str:
    at = int.from_bytes(hashlib.sha256(query.encode()).digest()[:8], "big") % 1000
    return "dev" if at < _DEV else "test" if at < _DEV + _TEST else "train"
