"""Defines a collection: documents, queries, judgements and triplets.

A row number is a position in `Source.documents` or `Source.queries`; everything refers to rows.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

SPLITS = ("train", "dev", "test")
SAMPLE_NEGATIVE = -1  # in arrays of negatives: one that is drawn anew in training


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


class Example(NamedTuple):
    """A query, one positive, and the negatives that its source brings.

    Attributes:
      query, positive, negatives: rows. In training, more negatives are drawn where there are too
        few.
      positive_score, negative_scores: a teacher's; NaN and none where the source has no scores.
    """

    query: int
    positive: int
    negatives: tuple[int, ...] = ()
    positive_score: float = float("nan")
    negative_scores: tuple[float, ...] = ()


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

    def examples(self) -> Iterator[Example]:
        """What is trained on."""
