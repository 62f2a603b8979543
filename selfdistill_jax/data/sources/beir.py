"""Reads a collection in BEIR format: corpus.jsonl, queries.jsonl and qrels/<split>.tsv."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfdistill_jax.data.collection import SPLITS, Document, Example, Judgement, Query
from selfdistill_jax.data.files.jsonl import check_id, check_lookalikes, field, read_jsonl
from selfdistill_jax.data.files.text import digest
from selfdistill_jax.data.sources.qrels import read_qrels_lines
from selfdistill_jax.errors import InputError
from selfdistill_jax.io import expand
from selfdistill_jax.progress import LOG

_VERSION = "beir-2"  # part of the fingerprint: raise it when the same files are read differently
_LAYOUT = "a BEIR folder holds corpus.jsonl, queries.jsonl and qrels/{train,dev,test}.tsv"


class BeirFolder:
    """Reads a BEIR folder (https://github.com/beir-cellar/beir/wiki); files may end in ``.gz``.

    Every judgement of the train split with a relevance above 0 is a training example, without
    negatives of its own. A document may have no title, no text, or neither (BEIR's FiQA).
    Judgements may name documents that are not in the corpus (BEIR's ArguAna): a warning gives their
    number.

    Raises:
      InputError: the folder or one of its files is missing. The content is checked when read.

    Example:
      >>> BeirFolder("/no/such/folder")
      Traceback (most recent call last):
      ...
      selfdistill_jax.errors.InputError: /no/such/folder: no such folder; a BEIR folder holds ...
    """

    corpus_size = None
    pool_start = 0

    def __init__(self, path: str | Path):
        folder = expand(path)
        if not folder.is_dir():
            problem = "is a file" if folder.exists() else "no such folder"
            raise InputError(f"{folder}: {problem}; {_LAYOUT}")
        self.name = folder.resolve().name
        self._corpus = _find(folder / "corpus.jsonl")
        self._queries = _find(folder / "queries.jsonl")
        self._qrels = {
            split: found
            for split in SPLITS
            if (found := _find_optional(folder / "qrels" / f"{split}.tsv"))
        }
        if not self._qrels:
            raise InputError(f"{folder}/qrels: no train.tsv, dev.tsv or test.tsv; {_LAYOUT}")
        self.splits = tuple(self._qrels)
        self._document_rows: dict[str, int] = {}  # empty until the documents are read
        self._query_rows: dict[str, int] = {}
        self._warned: set[str] = set()  # splits; each is read several times

    def fingerprint(self) -> str:
        # The splits' names are included: the same rows as test.tsv are another collection.
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
            at: Any = {"path": self._corpus, "line": line}
            id_ = check_id(field(row, "_id", str, **at), rows, **at)
            rows[id_] = len(rows)
            yield read_document(id_, row, **at)
        if not rows:
            raise InputError(f"{self._corpus}: no documents; {_LAYOUT}")
        self._document_rows = rows

    def queries(self) -> Iterator[Query]:
        rows: dict[str, int] = {}
        for line, row in read_jsonl(self._queries):
            at: Any = {"path": self._queries, "line": line}
            id_ = check_id(field(row, "_id", str, **at), rows, **at)
            check_lookalikes(row, ("_id", "text"), **at)
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
            if not getattr(self, rows):
                for _ in read():
                    pass
        total, unknown, absent = 0, [], []
        for line, query, document, relevance in read_qrels_lines(path):
            total += 1
            if query not in self._query_rows:
                unknown.append((line, query))
                continue
            if document not in self._document_rows:
                absent.append((line, document, relevance))
            # A document outside the corpus has no row and is given by its id.
            row = self._document_rows.get(document, document)
            yield Judgement(self._query_rows[query], row, relevance)
        if unknown:
            line, id_ = unknown[0]
            raise InputError(
                f"{path}: {len(unknown):,} of {total:,} judgements name queries that are not in "
                f"{self._queries.name} (first: line {line}, {id_!r}); remove them or add the "
                "queries"
            )
        if absent:
            self._check_absent(split, absent, total)

    def _check_absent(self, split: str, absent: list[tuple[int, str, int]], total: int) -> None:
        """Warns of judged documents outside the corpus; refuses a split that has no others."""
        path, (line, id_, _) = self._qrels[split], absent[0]
        first = f"(first: line {line}, {id_!r})"
        if len(absent) == total:
            raise InputError(
                f"{path}: no judged document is in {self._corpus.name} {first}; "
                "give the corpus that the judgements refer to"
            )
        if split in self._warned:
            return
        self._warned.add(split)
        skipped = sum(relevance > 0 for _, _, relevance in absent) if split == "train" else 0
        LOG.warning(
            "%s: %s of %s judgements name documents that are not in %s %s; measures count them as "
            "never found, as BEIR does%s",
            path, f"{len(absent):,}", f"{total:,}", self._corpus.name, first,
            f", and training skips {skipped:,} of them" if skipped else "",
        )  # fmt: skip

    def examples(self) -> Iterator[Example]:
        for judgement in self.judgements("train"):
            if judgement.relevance > 0 and not isinstance(judgement.document, str):
                yield Example(judgement.query, judgement.document)


def read_document(id_: str, row: dict[str, Any], *, path: Path, line: int) -> Document:
    """Returns the document of a corpus row after checking it.

    Title and text may be empty or null, and the title may be missing.

    Raises:
      InputError: the text is missing, title or text is not a string, or a field is misspelt.
    """
    at: Any = {"path": path, "line": line}
    check_lookalikes(row, ("_id", "title", "text"), **at)
    title = field(row, "title", str, default="", **at)
    # A missing text is more often a misspelt field than an empty document.
    if "text" not in row:
        field(row, "text", str, **at)
    return Document(id_, title, field(row, "text", str, default="", **at))


def _find(path: Path) -> Path:
    found = _find_optional(path)
    if found is None:
        raise InputError(f"{path}: no such file; {_LAYOUT}")
    return found


def _find_optional(path: Path) -> Path | None:
    for candidate in (path, path.with_name(path.name + ".gz")):
        if candidate.is_file():
            return candidate
    return None
