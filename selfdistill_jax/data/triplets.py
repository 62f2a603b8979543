"""Training triplets of one's own: JSONL or TSV rows of query, positive and negative texts."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfdistill_jax.data.jsonl import digest
from selfdistill_jax.data.source import DRAWN, Document, Judgement, Query, Triplet
from selfdistill_jax.data.triplet_rows import TEXTS, check_file, read_rows
from selfdistill_jax.errors import InputError

_VERSION = "triplets-1"  # part of the fingerprint: raise it when the same file is read differently
_DEV, _TEST = 50, 50  # per mille of the queries


class TripletFile:
    """Reads a triplet file; its distinct texts are the collection.

    JSONL rows are ``{"query": str, "positive": str, "negative": str}``, optionally with the numbers
    ``positive_score`` and ``negative_score``; TSV rows are the three texts. Without a negative (a
    JSONL row without the field, a TSV of two columns) it is drawn from the other documents. The
    suffixes ``.jsonl`` and ``.json`` (both one object a line), ``.tsv`` and these with ``.gz`` are
    known. A first TSV line that names the columns so is a header.

    Args:
      path: the file.
      held_out: keep 5 % of the queries for dev and 5 % for test, chosen by a hash of the query's
        text, so that a row added later moves no other.

    Attributes:
      path: the file.
      name: without suffixes.

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
        self._read: tuple[dict[str, int], dict[str, int], list[Triplet]] | None = None

    def fingerprint(self) -> str:
        return digest(f"{_VERSION} held_out={self._held_out}", self.path)

    def describe(self) -> dict[str, Any]:
        return {"format": _VERSION, "file": str(self.path.resolve()), "held_out": self._held_out}

    def documents(self) -> Iterator[Document]:
        for text, row in self._content()[0].items():
            yield Document(f"d{row}", "", text)

    def queries(self) -> Iterator[Query]:
        for text, row in self._content()[1].items():
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

    def _splits(self, queries: dict[str, int]) -> list[str]:
        if not self._held_out:
            return ["train"] * len(queries)
        return [_split(text) for text in queries]

    def _content(self) -> tuple[dict[str, int], dict[str, int], list[Triplet]]:
        """Distinct documents and queries with their rows, in first-seen order, and the triplets."""
        if self._read is None:
            documents: dict[str, int] = {}
            queries: dict[str, int] = {}
            triplets = []
            for line, query, positive, negative, *scores in read_rows(self.path, TEXTS):
                if negative is not None and positive.strip() == negative.strip():
                    raise InputError(
                        f"{self.path}:{line}: positive and negative are the same text; "
                        "remove the row"
                    )
                q = queries.setdefault(query, len(queries))
                p = documents.setdefault(positive, len(documents))
                n = DRAWN if negative is None else documents.setdefault(negative, len(documents))
                triplets.append(Triplet(q, p, n, *scores))
            if not triplets:
                raise InputError(
                    f"{self.path}: no triplets; expected rows of query, positive and negative"
                )
            self._read = documents, queries, triplets
        return self._read


def _split(query: str) -> str:
    at = int.from_bytes(hashlib.sha256(query.encode()).digest()[:8], "big") % 1000
    return "dev" if at < _DEV else "test" if at < _DEV + _TEST else "train"
