"""Reads a collection from files of documents, queries and relevance judgements, joined by ids."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from selfdistill_jax.data.collection import Document, Example, Judgement, Query
from selfdistill_jax.data.files.jsonl import check_id
from selfdistill_jax.data.files.qrels import QrelsLine, read_qrels_lines
from selfdistill_jax.data.files.text import digest
from selfdistill_jax.data.id_rows import IdRows
from selfdistill_jax.errors import InputError
from selfdistill_jax.progress import LOG

_AT_ONCE = 4096  # judgements whose ids are looked up together
Placed = tuple[Path, int, Any]  # file, line, and the document or query there


class JudgedFiles(ABC):
    """Reads documents, queries and judgements; subclasses know the files and their formats.

    Every judgement of the train split with a relevance above 0 is a training example, without
    negatives. Judgements may name documents that are not in the corpus (BEIR's ArguAna): a warning
    gives their number.

    Args:
      folder: folder of the files.
      corpus: file of the documents.
      queries: files of the queries.
      qrels: files of the judgements by split; one split may have several.
      version: name of the format and the reader.
      layout: sentence that lists the files of such a folder, for messages.

    Raises:
      InputError: an id is empty, repeated or unknown, or a file has no rows.
    """

    corpus_size = None
    pool_start = 0
    _trec_qrels = False

    def __init__(
        self,
        folder: Path,
        *,
        corpus: Path,
        queries: Sequence[Path],
        qrels: Mapping[str, Sequence[Path]],
        version: str,
        layout: str,
    ):
        self.name = folder.resolve().name
        self.splits = tuple(qrels)
        self._folder, self._corpus, self._queries, self._qrels = folder, corpus, queries, qrels
        self._version, self._layout = version, layout
        self._document_rows = IdRows()  # empty until the documents are read
        self._query_rows = IdRows()
        self._warned: set[Path] = set()  # files; each is read several times

    @abstractmethod
    def _read_documents(self) -> Iterator[Placed]: ...

    @abstractmethod
    def _read_queries(self) -> Iterator[Placed]: ...

    def _files(self) -> list[Path]:
        judged = [path for paths in self._qrels.values() for path in paths]
        return list(dict.fromkeys((self._corpus, *self._queries, *judged)))

    def fingerprint(self) -> str:
        # The splits' names are included: the same rows as test.tsv are another collection.
        return digest(" ".join((self._version, *self._qrels)), *self._files())

    def describe(self) -> dict[str, Any]:
        return {
            "format": self._version,
            "folder": str(self._folder.resolve()),
            "files": [str(file.relative_to(self._folder)) for file in self._files()],
        }

    def documents(self) -> Iterator[Document]:
        rows = IdRows()
        yield from with_unique_ids(self._read_documents, rows)
        if not rows:
            raise InputError(f"{self._corpus}: no documents; {self._layout}")
        self._document_rows = rows

    def queries(self) -> Iterator[Query]:
        rows = IdRows()
        yield from with_unique_ids(self._read_queries, rows)
        if not rows:
            raise InputError(f"{self._queries[0]}: no queries; {self._layout}")
        self._query_rows = rows

    def judgements(self, split: str) -> Iterator[Judgement]:
        for rows, read in (("_document_rows", self.documents), ("_query_rows", self.queries)):
            if not getattr(self, rows):
                for _ in read():
                    pass
        for path in self._qrels.get(split, ()):
            yield from self._judgements_of(path, split)

    def _judgements_of(self, path: Path, split: str) -> Iterator[Judgement]:
        total, unknown, absent = 0, [], []
        lines = read_qrels_lines(path, trec=self._trec_qrels)
        while part := list(islice(lines, _AT_ONCE)):
            total += len(part)
            queries = self._query_rows.find([line.query for line in part]).tolist()
            documents = self._document_rows.find([line.document for line in part]).tolist()
            for line, query, document in zip(part, queries, documents, strict=True):
                if query < 0:
                    unknown.append(line)
                    continue
                if document < 0:
                    absent.append(line)
                # A document outside the corpus has no row and is given by its id.
                row = line.document if document < 0 else document
                yield Judgement(query, row, line.relevance)
        if unknown:
            line, id_ = unknown[0][:2]
            files = " or ".join(file.name for file in self._queries)
            raise InputError(
                f"{path}: {len(unknown):,} of {total:,} judgements name queries that are not in "
                f"{files} (first: line {line}, {id_!r}); remove them or add the queries"
            )
        if absent:
            self._check_absent(path, split, absent, total)

    def _check_absent(self, path: Path, split: str, absent: list[QrelsLine], total: int) -> None:
        """Warns of judged documents outside the corpus; refuses a file that has no others."""
        first = f"(first: line {absent[0].line}, {absent[0].document!r})"
        if len(absent) == total:
            raise InputError(
                f"{path}: no judged document is in {self._corpus.name} {first}; "
                "give the corpus that the judgements refer to"
            )
        if path in self._warned:
            return
        self._warned.add(path)
        skipped = sum(line.relevance > 0 for line in absent) if split == "train" else 0
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


def with_unique_ids(read: Callable[[], Iterator[Placed]], rows: IdRows) -> Iterator[Any]:
    """Yields documents or queries, and adds their ids to ``rows``.

    Args:
      read: function that reads the rows from the start; called again to describe an error.
      rows: receives the ids.

    Raises:
      InputError: an id is empty or has white space, or, after the last row, an id occurs twice.
    """
    for path, line, row in read():
        check_id(row.id, path=path, line=line)
        rows.add(row.id)
        yield row
    if repetition := rows.first_repetition():
        (first, first_line, _), (path, line, row) = (
            next(islice(read(), number, None)) for number in repetition
        )
        raise InputError(
            f"{path}:{line}: _id {row.id!r} occurs twice (first in {first.name}:{first_line}); "
            "ids must be unique"
        )
