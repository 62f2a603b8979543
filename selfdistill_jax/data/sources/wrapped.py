"""Defines the base of sources that change a part of another source."""

from collections.abc import Iterator

from selfdistill_jax.data.collection import Document, Example, Judgement, Query, Source


class Wrapped:
    """Passes on the content of another source; subclasses override the parts that they change.

    Args:
      source: the other source.
    """

    def __init__(self, source: Source):
        self._source = source
        self.name = source.name
        self.splits: tuple[str, ...] = source.splits

    @property
    def corpus_size(self) -> int | None:
        return self._source.corpus_size

    @property
    def pool_start(self) -> int:
        return self._source.pool_start

    def documents(self) -> Iterator[Document]:
        return self._source.documents()

    def queries(self) -> Iterator[Query]:
        return self._source.queries()

    def judgements(self, split: str) -> Iterator[Judgement]:
        return self._source.judgements(split)

    def examples(self) -> Iterator[Example]:
        return self._source.examples()
