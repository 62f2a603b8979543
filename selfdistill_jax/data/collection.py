"""Defines a collection: documents, queries, judgements and training examples.

A row is a position in `Source.documents` or `Source.queries`; all references are by row.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

SPLITS = ("train", "dev", "test")
SAMPLE_NEGATIVE = -1  # in arrays of negatives: a missing one, drawn in training


class Document(NamedTuple):
    id: str
    title: str
    text: str

    @property
    def content(self) -> str:
        """Returns title and text, joined as BEIR's own tools join them, to encode and index."""
        return f"{self.title} {self.text}".strip()


class Query(NamedTuple):
    id: str
    text: str


class Judgement(NamedTuple):
    query: int
    document: int | str  # a row, or the id of a document that is not in the corpus
    relevance: int


class Example(NamedTuple):
    """Holds a query, one positive, and the negatives that the source gives.

    Attributes:
      query, positive, negatives: rows; training draws more negatives if there are too few.
      positive_score, negative_scores: a teacher's scores; NaN and empty if the source has none.
      source: number of its file among several; 0 for a single one.
    """

    query: int
    positive: int
    negatives: tuple[int, ...] = ()
    positive_score: float = float("nan")
    negative_scores: tuple[float, ...] = ()
    source: int = 0


class Source(Protocol):
    """Reads one collection; each method reads only the data that it returns."""

    @property
    def name(self) -> str: ...

    @property
    def splits(self) -> tuple[str, ...]:
        """Returns the splits that may have judgements."""
        ...

    @property
    def corpus_size(self) -> int | None:
        """Returns the number of leading documents that evaluation searches; None means all."""

    @property
    def pool_start(self) -> int:
        """Returns the first row of the documents that negatives are drawn from."""
        ...

    def fingerprint(self) -> str:
        """Returns a hex digest that changes with the content and with the way it is read."""

    def describe(self) -> dict[str, Any]:
        """Returns the origin of the collection (files, versions), for the record of a run."""

    def documents(self) -> Iterator[Document]: ...

    def queries(self) -> Iterator[Query]: ...

    def judgements(self, split: str) -> Iterator[Judgement]:
        """Yields the relevance judgements of a split; none if there is no such split."""

    def examples(self) -> Iterator[Example]:
        """Yields the training examples."""
