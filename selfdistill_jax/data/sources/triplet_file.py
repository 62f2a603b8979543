"""Makes a collection of a file of training examples: texts of queries, positives, negatives."""

import hashlib
from collections.abc import Iterator
from typing import Any

from selfdistill_jax.data.collection import SPLITS, Document, Example, Judgement, Query
from selfdistill_jax.data.sources.example_columns import TEXTS
from selfdistill_jax.data.sources.example_file import ExampleFile
from selfdistill_jax.errors import InputError

_VERSION = "triplets-5"  # part of the fingerprint: raise it when the same file is read differently
_DEV, _TEST = 50, 50  # per mille of the queries


class TripletFile:
    """Reads training examples of texts; the distinct texts are the collection.

    Texts that differ only in white space at their ends are one text, spelt as in the first row.
    Training leaves out a negative that is a positive of the same query in any row. Missing
    negatives are drawn from the other documents.

    Args:
      file: the file or folder.
      held_out: whether to hold out 5 % of the queries for dev and 5 % for test. A hash of the
        query's text chooses them, so that adding rows moves no query to another split.

    Attributes:
      path: path of the file.
      name: the file's name without suffixes.

    Example:
      >>> TripletFile(ExampleFile("mine.csv"))  # doctest: +SKIP
    """

    splits = SPLITS
    corpus_size = None
    pool_start = 0

    def __init__(self, file: ExampleFile, *, held_out: bool = True):
        self._file = file
        self._held_out = held_out
        self.path, self.name = file.path, file.name
        self._read: tuple[list[str], list[str], list[Example]] | None = None

    def fingerprint(self) -> str:
        return self._file.fingerprint(f"{_VERSION} held_out={self._held_out}")

    def describe(self) -> dict[str, Any]:
        return {**self._file.describe(), "format": _VERSION, "held_out": self._held_out}

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
            for row in self._file.rows(TEXTS):
                q, p = queries.add(row.query), documents.add(row.positive)
                n = tuple(map(documents.add, row.negatives))
                examples.append(Example(q, p, n, row.positive_score, row.negative_scores))
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
