"""Makes a collection of a file of training examples: texts of queries, positives, negatives."""

import hashlib
import math
from array import array
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from selfdistill_jax.data.collection import SPLITS, Document, Example, Judgement, Query
from selfdistill_jax.data.examples.columns import TEXTS
from selfdistill_jax.data.examples.file import ExampleFile
from selfdistill_jax.data.examples.mixed import MixedFiles
from selfdistill_jax.data.examples.rows import Row
from selfdistill_jax.data.id_rows import hash_text
from selfdistill_jax.errors import InputError

_VERSION = "triplets-5"  # part of the fingerprint: raise it when the same file is read differently
_DEV, _TEST = 50, 50  # per mille of the queries


class TripletFile:
    """Reads training examples of texts; the distinct texts are the collection.

    Texts that differ only in white space at their ends are one text, spelt as in the first row.
    Training leaves out a negative that is a positive of the same query in any row. Missing
    negatives are drawn from the other documents. The file is read several times; memory holds 20
    bytes for each of its texts.

    Args:
      file: the file or folder, or several.
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

    def __init__(self, file: ExampleFile | MixedFiles, *, held_out: bool = True):
        self._file = file
        self._held_out = held_out
        self.path, self.name = file.path, file.name

    def fingerprint(self) -> str:
        return self._file.fingerprint(f"{_VERSION} held_out={self._held_out}")

    def describe(self) -> dict[str, Any]:
        return {**self._file.describe(), "format": _VERSION, "held_out": self._held_out}

    def documents(self) -> Iterator[Document]:
        texts = (text for row in self._rows() for text in (row.positive, *row.negatives))
        is_first = self._scan.documents.is_first
        first = (text for text, new in zip(texts, is_first, strict=True) if new)
        for number, text in enumerate(first):
            yield Document(f"d{number}", "", text)

    def queries(self) -> Iterator[Query]:
        is_first = self._scan.queries.is_first
        first = (row.query for row, new in zip(self._rows(), is_first, strict=True) if new)
        for number, text in enumerate(first):
            yield Query(f"q{number}", text)

    def judgements(self, split: str) -> Iterator[Judgement]:
        found = self._scan
        chosen = found.split == self.splits.index(split)
        pairs = np.stack([found.queries.rows, found.documents.rows[found.begin[:-1]]], axis=1)
        for query, positive in dict.fromkeys(map(tuple, pairs[chosen].tolist())):
            yield Judgement(query, positive, 1)

    def examples(self) -> Iterator[Example]:
        found = self._scan
        for i in np.flatnonzero(found.split == self.splits.index("train")):
            of_example = slice(found.begin[i], found.begin[i + 1])
            positive, *negatives = found.documents.rows[of_example].tolist()
            scores = found.scores[of_example].tolist()
            scored = not math.isnan(scores[0])
            yield Example(
                int(found.queries.rows[i]),
                positive,
                tuple(negatives),
                scores[0],
                tuple(scores[1:]) if scored else (),
                int(found.source[i]),
            )

    def _rows(self, *, log: bool = False) -> Iterator[Row]:
        return self._file.rows(TEXTS, log=log)

    @cached_property
    def _scan(self) -> "_Scan":
        """Reads the file once, without the texts themselves."""
        queries, documents = array("Q"), array("Q")
        begin, scores, split = array("q", [0]), array("d"), array("b")
        source = array("b")
        for row in self._rows(log=True):
            queries.append(hash_text(row.query.strip()))
            documents.extend(hash_text(text.strip()) for text in (row.positive, *row.negatives))
            begin.append(len(documents))
            source.append(row.source)
            scores.append(row.positive_score)
            scores.extend(row.negative_scores or [math.nan] * len(row.negatives))
            split.append(self.splits.index(_split(row.query.strip())) if self._held_out else 0)
        if not queries:
            raise InputError(
                f"{self.path}: no triplets; expected rows of query, positive and negative"
            )
        return _Scan(
            _distinct(queries),
            _distinct(documents),
            np.frombuffer(begin, np.int64),
            np.frombuffer(scores, np.float64),
            np.frombuffer(split, np.int8),
            np.frombuffer(source, np.int8),
        )


class _Distinct(NamedTuple):
    """Holds the row of each text of a file, and whether it is the first with that row."""

    rows: np.ndarray
    is_first: np.ndarray


class _Scan(NamedTuple):
    """Holds the examples of a file without their texts.

    Attributes:
      queries: ``[n]``, the query of each example.
      documents: ``[m]``, positive and negatives of each example, one example after the other.
      begin: ``[n + 1]`` where the documents of each example begin.
      scores: ``[m]`` teacher's scores, or NaN.
      split: ``[n]`` positions in `SPLITS`.
      source: ``[n]`` number of the file among several.
    """

    queries: _Distinct
    documents: _Distinct
    begin: np.ndarray
    scores: np.ndarray
    split: np.ndarray
    source: np.ndarray


def _distinct(hashes: array) -> _Distinct:
    """Numbers distinct texts in the order in which they first occur."""
    _, first, inverse = np.unique(
        np.frombuffer(hashes, np.uint64), return_index=True, return_inverse=True
    )
    order = np.argsort(first)
    rows = np.empty(len(first), np.int32)
    rows[order] = np.arange(len(first))
    is_first = np.zeros(len(hashes), bool)
    is_first[first] = True
    return _Distinct(rows[inverse], is_first)


def _split(query: str) -> str:
    at = int.from_bytes(hashlib.sha256(query.encode()).digest()[:8], "big") % 1000
    return "dev" if at < _DEV else "test" if at < _DEV + _TEST else "train"
