"""Training triplets of one's own: JSONL or TSV rows of query, positive and negative texts."""

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from selfdistill_jax.data.jsonl import digest, field, read_jsonl, read_lines
from selfdistill_jax.data.source import DRAWN, Document, Judgement, Query, Source, Triplet
from selfdistill_jax.errors import InputError

_VERSION = "triplets-1"  # part of the fingerprint: raise it when the same file is read differently
_COLUMNS = ["query", "positive", "negative"]
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
        self._path = Path(path).expanduser()
        self._held_out = held_out
        suffixes = [s for s in self._path.suffixes if s != ".gz"]
        self._kind = suffixes[-1] if suffixes else ""
        if self._path.is_dir():
            raise InputError(f"{path}: is a folder; expected a .jsonl or .tsv file of triplets")
        if self._kind not in (".jsonl", ".json", ".tsv"):
            raise InputError(
                f"{path}: unknown suffix {self._kind!r}; expected .jsonl, .json or .tsv, "
                "or these with .gz"
            )
        if not self._path.is_file():
            raise InputError(f"{path}: no such file; expected a .jsonl or .tsv file of triplets")
        self.name = self._path.name.split(".")[0]
        self._read: tuple[dict[str, int], dict[str, int], list[Triplet]] | None = None

    def fingerprint(self) -> str:
        return digest(f"{_VERSION} held_out={self._held_out}", self._path)

    def describe(self) -> dict[str, Any]:
        return {"format": _VERSION, "file": str(self._path.resolve()), "held_out": self._held_out}

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
            rows = self._tsv() if self._kind == ".tsv" else self._jsonl()
            for line, query, positive, negative, *scores in rows:
                if negative is not None and positive.strip() == negative.strip():
                    raise InputError(
                        f"{self._path}:{line}: positive and negative are the same text; "
                        "remove the row"
                    )
                q = queries.setdefault(query, len(queries))
                p = documents.setdefault(positive, len(documents))
                n = DRAWN if negative is None else documents.setdefault(negative, len(documents))
                triplets.append(Triplet(q, p, n, *scores))
            if not triplets:
                raise InputError(
                    f"{self._path}: no triplets; expected rows of query, positive and negative"
                )
            self._read = documents, queries, triplets
        return self._read

    def _jsonl(self) -> Iterator[tuple]:
        for line, row in read_jsonl(self._path):
            at = {"path": self._path, "line": line}
            texts = (
                field(row, "query", str, **at),
                field(row, "positive", str, **at),
                field(row, "negative", str, **at) if row.get("negative") is not None else None,
            )
            scores = [
                field(row, f"{kind}_score", float, default=float("nan"), **at)
                for kind in ("positive", "negative")
            ]
            if (scores[0] == scores[0]) != (scores[1] == scores[1]):
                raise InputError(
                    f"{self._path}:{line}: only one of positive_score and negative_score is there; "
                    "expected both or none"
                )
            yield line, *texts, *scores

    def _tsv(self) -> Iterator[tuple]:
        width = None
        for line, text in read_lines(self._path):
            columns = text.split("\t")
            if width is None:
                width = len(columns)
                if [column.strip().lower() for column in columns] == _COLUMNS[:width]:
                    continue
            if len(columns) != width or width not in (2, 3):
                raise InputError(
                    f"{self._path}:{line}: {len(columns)} columns; expected "
                    f"{width if width in (2, 3) else '3 (or 2, without the negative)'}, "
                    "separated by tabs"
                )
            if not all(column.strip() for column in columns):
                raise InputError(f"{self._path}:{line}: an empty column; remove the row or fill it")
            yield line, *columns, *([None] * (3 - width))


class TripletsOver:
    """Trains on a triplet file, evaluates on a collection.

    The file's texts follow the collection's, so that rows stay valid; `corpus_size` documents in
    front are the collection's own, and only those are searched. Open the file with
    ``held_out=False``: none of it is evaluated on.

    Example:
      >>> TripletsOver(PyDocs(), TripletFile("mine.jsonl", held_out=False))  # doctest: +SKIP
    """

    def __init__(self, collection: Source, triplets: TripletFile):
        self._collection, self._triplets = collection, triplets
        self.name = f"{collection.name}+{triplets.name}"

    @property
    def pool_start(self) -> int:
        """Behind the collection: what only evaluation knows is never a negative."""
        return self.corpus_size

    @cached_property
    def corpus_size(self) -> int:
        return sum(1 for _ in self._collection.documents())

    def fingerprint(self) -> str:
        parts = f"{self._collection.fingerprint()} {self._triplets.fingerprint()}"
        return hashlib.sha256(parts.encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        return {
            "evaluation": self._collection.describe(),
            "training": self._triplets.describe(),
        }

    def documents(self) -> Iterator[Document]:
        yield from self._collection.documents()
        for document in self._triplets.documents():
            yield document._replace(id=f"triplets:{document.id}")

    def queries(self) -> Iterator[Query]:
        yield from self._collection.queries()
        for query in self._triplets.queries():
            yield query._replace(id=f"triplets:{query.id}")

    def judgements(self, split: str) -> Iterator[Judgement]:
        return iter(()) if split == "train" else self._collection.judgements(split)

    def triplets(self) -> Iterator[Triplet]:
        queries = sum(1 for _ in self._collection.queries())
        for t in self._triplets.triplets():
            yield t._replace(
                query=t.query + queries,
                positive=t.positive + self.corpus_size,
                negative=t.negative if t.negative == DRAWN else t.negative + self.corpus_size,
            )


def _split(query: str) -> str:
    at = int.from_bytes(hashlib.sha256(query.encode()).digest()[:8], "big") % 1000
    return "dev" if at < _DEV else "test" if at < _DEV + _TEST else "train"
