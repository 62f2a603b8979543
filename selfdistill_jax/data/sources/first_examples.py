"""Limits a collection's training examples to the first few of each query."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from selfdistill_jax.data.collection import Example, Source
from selfdistill_jax.data.sources.wrapped import Wrapped
from selfdistill_jax.errors import InputError

_VERSION = "first-examples-1"  # part of the fingerprint: raise it when others are chosen


class FirstExamples(Wrapped):
    """Takes the first n training examples of each query that has at least n.

    The paper's authors train on MS MARCO's triples in this way, with n = 128.

    Args:
      source: the collection.
      count: n.

    Raises:
      InputError: no query has n examples; raised when the examples are read.

    Example:
      >>> FirstExamples(MsMarcoFolder("msmarco"), 128)  # doctest: +SKIP
    """

    def __init__(self, source: Source, count: int):
        super().__init__(source)
        self._count = count

    def fingerprint(self) -> str:
        parts = f"{_VERSION} {self._count} {self._source.fingerprint()}"
        return hashlib.sha256(parts.encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        return {**self._source.describe(), "first_examples": self._count}

    def examples(self) -> Iterator[Example]:
        """Yields the examples; reads the source's twice, since a query's number is needed first."""
        counts = Counter(example.query for example in self._source.examples())
        if not counts:
            return
        if max(counts.values()) < self._count:
            raise InputError(
                f"{self.name}: no query has {self._count} training examples (the most is "
                f"{max(counts.values())}); lower config.data.first_examples, or set it to 0"
            )
        taken: Counter[int] = Counter()
        for example in self._source.examples():
            if counts[example.query] >= self._count and taken[example.query] < self._count:
                taken[example.query] += 1
                yield example
