"""Combines a triplet file for training with a collection for evaluation."""

import hashlib
from collections.abc import Container, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

from selfdistill_jax.data.collection import Document, Example, Judgement, Query, Source
from selfdistill_jax.data.examples.columns import IDS
from selfdistill_jax.data.examples.file import ExampleFile
from selfdistill_jax.data.examples.mixed import MixedFiles
from selfdistill_jax.data.examples.rows import Row
from selfdistill_jax.data.id_rows import IdRows
from selfdistill_jax.data.sources.triplet_file import TripletFile
from selfdistill_jax.data.sources.wrapped import Wrapped
from selfdistill_jax.errors import InputError

_VERSION = "id-triplets-4"  # part of the fingerprint: raise it when a file is read differently
_AT_ONCE = 4096  # examples whose ids are looked up together


class TripletsOver:
    """Combines a triplet file of texts, for training, with a collection, for evaluation.

    The file's texts follow the collection's, so that the collection's rows stay valid. Evaluation
    searches only the first `corpus_size` documents, which are the collection's own. Open the file
    with ``held_out=False``, since evaluation uses no part of it.

    Example:
      >>> triplets = TripletFile(ExampleFile("mine.jsonl"), held_out=False)  # doctest: +SKIP
      >>> TripletsOver(PyDocs(), triplets)  # doctest: +SKIP
    """

    def __init__(self, collection: Source, triplets: TripletFile):
        self._collection, self._triplets = collection, triplets
        self.name = f"{collection.name}+{triplets.name}"
        self.splits = collection.splits

    @property
    def pool_start(self) -> int:
        """Returns the first row after the collection, whose documents only evaluation may see."""
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

    def examples(self) -> Iterator[Example]:
        ids = [query.id for query in self._collection.queries()]
        first = next(self._triplets.queries(), None)
        if first is not None and first.text.strip() in ids:
            raise InputError(
                f"{self._triplets.path}: the first query is {first.text!r}, the id of a query of "
                f"{self._collection.name}; if the file has ids, name its columns {', '.join(IDS)}"
            )
        queries, documents = len(ids), self.corpus_size
        for example in self._triplets.examples():
            yield example._replace(
                query=example.query + queries,
                positive=example.positive + documents,
                negatives=tuple(row + documents for row in example.negatives),
            )


class TripletsOf(Wrapped):
    """Combines a collection with training triplets of the ids of its queries and documents.

    The collection's judgements stay in use. The file is refused if it has queries that are judged
    in dev or test, or documents before `pool_start`, which only evaluation may see. Training leaves
    out a negative that is a positive of the same query in any row or in train's judgements.

    The file's columns are ``query_id``, ``positive_id`` and ``negative_id`` or a list
    ``negative_ids``, optionally with scores. Missing negatives are drawn.

    Args:
      collection: collection with the queries and documents.
      file: the file.

    Example:
      >>> TripletsOf(BeirFolder("msmarco"), ExampleFile("triplets.tsv"))  # doctest: +SKIP
    """

    def __init__(self, collection: Source, file: ExampleFile | MixedFiles):
        super().__init__(collection)
        self._file = file
        self.name = f"{collection.name}+{file.name}"
        self._document_rows = IdRows()  # empty until the documents are read
        self._query_rows = IdRows()

    def documents(self) -> Iterator[Document]:
        rows = IdRows()
        for document in self._source.documents():
            rows.add(document.id)
            yield document
        self._document_rows = rows

    def queries(self) -> Iterator[Query]:
        rows = IdRows()
        for query in self._source.queries():
            rows.add(query.id)
            yield query
        self._query_rows = rows

    def fingerprint(self) -> str:
        return self._file.fingerprint(f"{_VERSION} {self._source.fingerprint()}")

    def describe(self) -> dict[str, Any]:
        training = {**self._file.describe(), "format": _VERSION}
        return {"evaluation": self._source.describe(), "training": training}

    def examples(self) -> Iterator[Example]:
        for rows, read in (("_document_rows", self.documents), ("_query_rows", self.queries)):
            if not getattr(self, rows):
                for _ in read():
                    pass
        evaluated = {j.query for s in self.splits if s != "train" for j in self.judgements(s)}
        first = self.pool_start  # pydocs counts its documents at each access
        wrong: dict[str, list[Any]] = {}  # problem -> number of rows, line and id of the first
        total = 0
        examples = self._file.rows(IDS)
        while part := list(islice(examples, _AT_ONCE)):
            total += len(part)
            queries = self._query_rows.find([row.query for row in part]).tolist()
            ids = [id_ for row in part for id_ in (row.positive, *row.negatives)]
            documents = iter(self._document_rows.find(ids).tolist())
            for row, query in zip(part, queries, strict=True):
                positive = next(documents)
                negatives = tuple(islice(documents, len(row.negatives)))
                problem = self._problem(row, (query, positive, *negatives), evaluated, first)
                if problem:
                    kind, id_ = problem
                    wrong.setdefault(kind, [0, row.where, id_])[0] += 1
                elif not wrong:
                    others = row.positive_score, row.negative_scores, row.source
                    yield Example(query, positive, negatives, *others)
        for kind, (count, where, id_) in wrong.items():
            raise InputError(
                f"{self._file.path}: {count:,} of {total:,} examples name {kind} (first: {id_!r} "
                f"at {where}); remove them"
            )
        if not total:
            raise InputError(f"{self._file.path}: no triplets; expected rows of {', '.join(IDS)}")

    def _problem(
        self,
        example: Row,
        rows: Sequence[int],
        evaluated: Container[int],
        first: int,
    ) -> tuple[str, str] | None:
        """Returns a row's first problem and the id that causes it, or None."""
        ids = (example.query, example.positive, *example.negatives)
        kinds = ("queries", *["documents"] * (len(ids) - 1))
        for kind, id_, row in zip(kinds, ids, rows, strict=True):
            if row < 0:
                return f"{kind} that are not in {self._source.name}", id_
            if kind == "queries" and row in evaluated:
                return "queries that are judged in dev or test", id_
            if kind == "documents" and row < first:
                return "documents that only evaluation may see", id_
        return None
