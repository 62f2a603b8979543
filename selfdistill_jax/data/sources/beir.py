"""Reads a collection in BEIR format: corpus.jsonl, queries.jsonl and qrels/<split>.tsv."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfdistill_jax.data.collection import SPLITS, Document, Query
from selfdistill_jax.data.files.jsonl import check_lookalikes, field, read_jsonl
from selfdistill_jax.data.sources.judged_files import JudgedFiles, Placed
from selfdistill_jax.errors import InputError
from selfdistill_jax.io import expand

_VERSION = "beir-2"  # part of the fingerprint: raise it when the same files are read differently
_LAYOUT = "a BEIR folder holds corpus.jsonl, queries.jsonl and qrels/{train,dev,test}.tsv"


class BeirFolder(JudgedFiles):
    """Reads a BEIR folder (https://github.com/beir-cellar/beir/wiki); files may end in ``.gz``.

    A document may have no title, no text, or neither (BEIR's FiQA). For judgements and training
    examples, see `JudgedFiles`.

    Raises:
      InputError: the folder or one of its files is missing. The content is checked when read.

    Example:
      >>> BeirFolder("/no/such/folder")
      Traceback (most recent call last):
      ...
      selfdistill_jax.errors.InputError: /no/such/folder: no such folder; a BEIR folder holds ...
    """

    def __init__(self, path: str | Path):
        folder = expand(path)
        if not folder.is_dir():
            problem = "is a file" if folder.exists() else "no such folder"
            raise InputError(f"{folder}: {problem}; {_LAYOUT}")
        corpus, queries = _find(folder / "corpus.jsonl"), _find(folder / "queries.jsonl")
        qrels = {
            split: [found]
            for split in SPLITS
            if (found := find_packed(folder / "qrels" / f"{split}.tsv"))
        }
        if not qrels:
            raise InputError(f"{folder}/qrels: no train.tsv, dev.tsv or test.tsv; {_LAYOUT}")
        super().__init__(
            folder, corpus=corpus, queries=[queries], qrels=qrels, version=_VERSION, layout=_LAYOUT
        )

    def _read_documents(self) -> Iterator[Placed]:
        for line, row in read_jsonl(self._corpus):
            at: Any = {"path": self._corpus, "line": line}
            yield self._corpus, line, read_document(field(row, "_id", str, **at), row, **at)

    def _read_queries(self) -> Iterator[Placed]:
        for path in self._queries:
            for line, row in read_jsonl(path):
                at: Any = {"path": path, "line": line}
                check_lookalikes(row, ("_id", "text"), **at)
                query = Query(field(row, "_id", str, **at), field(row, "text", str, **at))
                yield path, line, query


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


def find_packed(path: Path) -> Path | None:
    """Returns a file, or the same file packed as ``.gz``; None if there is neither."""
    for candidate in (path, path.with_name(path.name + ".gz")):
        if candidate.is_file():
            return candidate
    return None


def _find(path: Path) -> Path:
    found = find_packed(path)
    if found is None:
        raise InputError(f"{path}: no such file; {_LAYOUT}")
    return found
