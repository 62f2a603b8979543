"""Reads a file of training triplets: JSONL or TSV rows of query, positive and negative texts."""

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selfdistill_jax.data.collection import SAMPLE_NEGATIVE, Document, Judgement, Query, Triplet
from selfdistill_jax.data.jsonl import digest
from selfdistill_jax.data.triplet_rows import TEXTS, check_file, read_rows
from selfdistill_jax.errors import InputError

_VERSION = "triplets-2"  # part of the fingerprint: raise it when the same file is read differently
_DEV, _TEST = 50, 50  # per mille of the queries
_SHOWN = 60  # characters of a text in a message


class TripletFile:
    """Reads a triplet file; its distinct texts are the collection.

    JSONL rows are ``{"query": str, "positive": str, "negative": str}``, optionally with the numbers
    ``positive_score`` and ``negative_score``. TSV files have a header of these names, or none and
    the three texts in this order. Where there is no negative, it is drawn from the other documents.
    The suffixes ``.jsonl`` and ``.json`` (both one object a line), ``.tsv`` and these with ``.gz``
    are known. See `read_rows` for other fields and columns.

    Texts that differ only in white space at their ends are one text, spelt as in the first row.
    A file is refused if it has a document as positive and as negative of the same query.

    Args:
      path: the file.
      held_out: keep 5 % of the queries for dev and 5 % for test, chosen by a hash of the query's
        text, so that adding rows moves no query to another split.

    Attributes:
      path: the file.
      name: the file's name without suffixes.

    Raises:
      InputError: the file is missing or has an unknown suffix. Rows are checked while read.

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
        self._read: tuple[list[str], list[str], list[Triplet]] | None = None

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
        _, queries, triplets = self._content()
        splits = self._splits(queries)
        pairs = dict.fromkeys((t.query, t.positive) for t in triplets)
        for query, positive in pairs:
            if splits[query] == split:
                yield Judgement(query, positive, 1)

    def triplets(self) -> Iterator[Triplet]:
        _, queries, triplets = self._content()
        splits = self._splits(queries)
        return (t for t in triplets if splits[t.query] == "train")

    def _splits(self, queries: list[str]) -> list[str]:
        if not self._held_out:
            return ["train"] * len(queries)
        return [_split(text.strip()) for text in queries]

    def _content(self) -> tuple[list[str], list[str], list[Triplet]]:
        """Returns distinct documents, distinct queries, both in first-seen order, and triplets."""
        if self._read is None:
            documents, queries = _Texts(), _Texts()
            triplets, lines = [], array("q")
            for line, query, positive, negative, *scores in read_rows(self.path, TEXTS):
                q, p = queries.add(query), documents.add(positive)
                n = SAMPLE_NEGATIVE if negative is None else documents.add(negative)
                if p == n:
                    raise InputError(
                        f"{self.path}:{line}: positive and negative are the same text; "
                        "remove the row"
                    )
                triplets.append(Triplet(q, p, n, *scores))
                lines.append(line)
            if not triplets:
                raise InputError(
                    f"{self.path}: no triplets; expected rows of query, positive and negative"
                )
            columns = (np.array([t[i] for t in triplets], np.int64) for i in range(3))
            check_contradictions(
                self.path, *columns, lines=lines, name=lambda row: documents.texts[row]
            )
            self._read = documents.texts, queries.texts, triplets
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


def check_contradictions(
    path: Path,
    queries: np.ndarray,
    positives: np.ndarray,
    negatives: np.ndarray,
    *,
    lines: Sequence[int],
    name: Callable[[int], str],
) -> None:
    """Refuses triplets with a document as positive and as negative of the same query.

    Args:
      path: the file, for the message.
      queries: ``[N]``, int64 rows of the queries.
      positives: ``[N]``, rows of the documents.
      negatives: ``[N]``, rows of the documents, or `SAMPLE_NEGATIVE`.
      lines: of the triplets.
      name: returns the text or id of a document, for the message.

    Raises:
      InputError: counts the negatives, and names the first one and the line of the positive.
    """
    documents = 1 + max(positives.max(initial=0), negatives.max(initial=0))
    known = queries * documents + positives
    given = np.where(negatives == SAMPLE_NEGATIVE, -1, queries * documents + negatives)
    wrong = np.flatnonzero(np.isin(given, known))
    if not len(wrong):
        return
    first = wrong[0]
    text = name(negatives[first])
    shown = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
    positive = np.flatnonzero(known == given[first])[0]
    raise InputError(
        f"{path}: {len(wrong):,} of {len(queries):,} rows have a negative that is a positive of "
        f"the same query in another row (first: line {lines[first]}, {shown!r}, positive in line "
        f"{lines[positive]}); remove the wrong rows"
    )


def _split(query: str) -> str:
    at = int.from_bytes(hashlib.sha256(query.encode()).digest()[:8], "big") % 1000
    return "dev" if at < _DEV else "test" if at < _DEV + _TEST else "train"
