"""Defines a collection: documents, queries, judgements and triplets.

A row number is a position in `Source.documents` or `Source.queries`; everything refers to rows.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

SPLITS = ("train", "dev", "test")
SAMPLE_NEGATIVE = -1  # a triplet's negative that is drawn anew in training


class Document(NamedTuple):
    id: str
    title: str
    text: str

    @property
    def content(self) -> str:
        """Title and text, joined as BEIR's own tools join them: this is encoded and indexed."""
        return f"{self.title} {self.text}".strip()


class Query(NamedTuple):
    id: str
    text: str


class Judgement(NamedTuple):
    query: int
    document: int | str  # the id of a document that is not in the corpus, which has no row
    relevance: int


class Triplet(NamedTuple):
    query: int
    positive: int
    negative: int = SAMPLE_NEGATIVE
    positive_score: float = float("nan")  # a teacher's, where the file has them
    negative_score: float = float("nan")


class Source(Protocol):
    """Reads one collection; nothing is read before it is asked for."""

    @property
    def name(self) -> str: ...

    @property
    def corpus_size(self) -> int | None:
        """Number of documents in front that evaluation searches; None: all."""

    @property
    def pool_start(self) -> int:
        """First row of the documents that negatives are drawn from."""
        ...

    def fingerprint(self) -> str:
        """Hex digest: changes when the content or this reader's understanding of it changes."""

    def describe(self) -> dict[str, Any]:
        """Where it comes from (files, versions), for the record of a run."""

    def documents(self) -> Iterator[Document]: ...

    def queries(self) -> Iterator[Query]: ...

    def judgements(self, split: str) -> Iterator[Judgement]:
        """The relevance judgements of a split; empty where there is none."""

    def triplets(self) -> Iterator[Triplet]:
        """What is trained on."""
