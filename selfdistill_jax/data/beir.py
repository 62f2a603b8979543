"""A collection in BEIR format: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/<split>.tsv``."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfdistill_jax.data.jsonl import check_id, digest, field, read_jsonl, read_lines
from selfdistill_jax.data.source import SPLITS, Document, Judgement, Query, Triplet
from selfdistill_jax.errors import InputError

_VERSION = "beir-1"  # part of the fingerprint: raise it when the same files are read differently
_LAYOUT = "a BEIR folder holds corpus.jsonl, queries.jsonl and qrels/{train,dev,test}.tsv"
_HEADER = ["query-id", "corpus-id", "score"]
_WHOLE_NUMBER = re.compile(r"[+-]?\d{1,9}", re.ASCII)  # fits the tables' int32


class BeirFolder:
    """Reads a BEIR folder (https://github.com/beir-cellar/beir/wiki); files may end in ``.gz``.

    Every judgement of the train split with a relevance above 0 is trained on, its negative drawn.
    A document may lack a title; with one, its text may be empty.

    Raises:
      InputError: the folder or a file of it is missing. The content is checked while it is read.

    Example:
      >>> BeirFolder("/no/such/folder")
      Traceback (most recent call last):
      ...
      selfdistill_jax.errors.InputError: /no/such/folder: no such folder; a BEIR folder holds ...
    """

    corpus_size = None
    pool_start = 0

    def __init__(self, path: str | Path):
        folder = Path(path).expanduser()
        if not folder.is_dir():
            problem = "is a file" if folder.exists() else "no such folder"
            raise InputError(f"{folder}: {problem}; {_LAYOUT}")
        self.name = folder.resolve().name
        self._corpus = _find(folder / "corpus.jsonl")
        self._queries = _find(folder / "queries.jsonl")
        self._qrels = {
            split: found
            for split in SPLITS
            if (found := _find(folder / "qrels" / f"{split}.tsv", required=False))
        }
        if not self._qrels:
            raise InputError(f"{folder}/qrels: no train.tsv, dev.tsv or test.tsv; {_LAYOUT}")
        self._document_rows: dict[str, int] | None = None
        self._query_rows: dict[str, int] | None = None

    def fingerprint(self) -> str:
        # With the names of the splits: the same rows are another collection as test.tsv.
        version = " ".join((_VERSION, *self._qrels))
        return digest(version, self._corpus, self._queries, *self._qrels.values())

    def describe(self) -> dict[str, Any]:
        folder = self._corpus.parent
        files = (self._corpus, self._queries, *self._qrels.values())
        return {
            "format": _VERSION,
            "folder": str(folder.resolve()),
            "files": [str(file.relative_to(folder)) for file in files],
        }

    def documents(self) -> Iterator[Document]:
        rows: dict[str, int] = {}
        for line, row in read_jsonl(self._corpus):
            at = {"path": self._corpus, "line": line}
            id_ = check_id(field(row, "_id", str, **at), rows, **at)
            rows[id_] = len(rows)
            yield read_document(id_, row, **at)
        if not rows:
            raise InputError(f"{self._corpus}: no documents; {_LAYOUT}")
        self._document_rows = rows

    def queries(self) -> Iterator[Query]:
        rows: dict[str, int] = {}
        for line, row in read_jsonl(self._queries):
            at = {"path": self._queries, "line": line}
            id_ = check_id(field(row, "_id", str, **at), rows, **at)
            rows[id_] = len(rows)
            yield Query(id_, field(row, "text", str, **at))
        if not rows:
            raise InputError(f"{self._queries}: no queries; {_LAYOUT}")
        self._query_rows = rows

    def judgements(self, split: str) -> Iterator[Judgement]:
        path = self._qrels.get(split)
        if path is None:
            return
        for rows, read in (("_document_rows", self.documents), ("_query_rows", self.queries)):
            if getattr(self, rows) is None:
                for _ in read():
                    pass
        total, unknown = 0, {"documents": [], "queries": []}
        for line, text in read_lines(path):
            columns = text.split("\t")
            if not total and [column.strip().lower() for column in columns] == _HEADER:
                continue
            if len(columns) != 3:
                raise InputError(
                    f"{path}:{line}: {len(columns)} columns; expected query-id, corpus-id and "
                    "score, separated by tabs"
                )
            query, document, score = columns
            total += 1
            if not _WHOLE_NUMBER.fullmatch(score.strip()):
                raise InputError(
                    f"{path}:{line}: score is {score!r}; expected a whole number "
                    "(only the first line may be a header: query-id, corpus-id, score)"
                )
            if document not in self._document_rows:
                unknown["documents"].append((line, document))
            elif query not in self._query_rows:
                unknown["queries"].append((line, query))
            else:
                yield Judgement(self._query_rows[query], self._document_rows[document], int(score))
        for kind, rows in unknown.items():
            if rows:
                file = self._corpus if kind == "documents" else self._queries
                raise InputError(
                    f"{path}: {len(rows)} of {total} rows name {kind} that are not in {file.name} "
                    f"(first: line {rows[0][0]}, {rows[0][1]!r}); remove the rows or add the {kind}"
                )

    def triplets(self) -> Iterator[Triplet]:
        for judgement in self.judgements("train"):
            if judgement.relevance > 0:
                yield Triplet(judgement.query, judgement.document)


def read_document(id_: str, row: dict[str, Any], *, path: Path, line: int) -> Document:
    """A row of a corpus: its title may be missing or, beside one, its text empty.

    Raises:
      InputError: a field is missing, empty or no string.
    """
    at = {"path": path, "line": line}
    title = field(row, "title", str, default="", **at)
    optional = {"default": ""} if title.strip() and "text" in row else {}
    return Document(id_, title, field(row, "text", str, **optional, **at))


def _find(path: Path, *, required: bool = True) -> Path | None:
    for candidate in (path, path.with_name(path.name + ".gz")):
        if candidate.is_file():
            return candidate
    if required:
        raise InputError(f"{path}: no such file; {_LAYOUT}")
    return None
