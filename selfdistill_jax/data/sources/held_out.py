"""Holds out training queries as the dev split of a collection that has none."""

import hashlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from selfdistill_jax.data.collection import Example, Judgement, Source
from selfdistill_jax.data.sources.wrapped import Wrapped
from selfdistill_jax.progress import LOG

_VERSION = "held-out-dev-1"  # part of the fingerprint: raise it when others are held out
_SHARE = 0.1  # of the training queries


class HeldOutDev(Wrapped):
    """Makes a tenth of a collection's training queries its dev split.

    A hash of a query's text decides, so that copies of a query are on the same side, and the same
    queries are held out in every run. What answers them stays in the corpus.

    Args:
      source: a collection with training examples and without a dev split.
      most: number of queries to hold out at most.

    Example:
      >>> HeldOutDev(BeirFolder("scifact"), most=300)  # doctest: +SKIP
    """

    def __init__(self, source: Source, most: int):
        super().__init__(source)
        self._most = most
        self.splits = (*source.splits, "dev")

    def fingerprint(self) -> str:
        parts = f"{_VERSION} {self._most} {self._source.fingerprint()}"
        return hashlib.sha256(parts.encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        return {**self._source.describe(), "dev": f"{_VERSION}, at most {self._most} queries"}

    def judgements(self, split: str) -> Iterator[Judgement]:
        if split == "dev":
            yield from self._dev()
        elif split == "train":
            held = self._held
            yield from (j for j in self._source.judgements(split) if j.query not in held)
        else:
            yield from self._source.judgements(split)

    def examples(self) -> Iterator[Example]:
        held = self._held
        return (example for example in self._source.examples() if example.query not in held)

    def _dev(self) -> Iterator[Judgement]:
        """Yields the judgements of held-out queries; positives of examples count without one."""
        held, judged = self._held, set()
        for judgement in self._source.judgements("train"):
            if judgement.query in held:
                judged.add((judgement.query, judgement.document))
                yield judgement
        for query, positive, *_ in self._source.examples():
            if query in held and (query, positive) not in judged:
                judged.add((query, positive))
                yield Judgement(query, positive, 1)

    @cached_property
    def _held(self) -> set[int]:
        """Returns the rows of the queries that are held out."""
        trained = {example.query for example in self._source.examples()}
        most = min(int(_SHARE * len(trained)), self._most)
        by_text: dict[bytes, list[int]] = {}
        for row, query in enumerate(self._source.queries()):
            if row in trained:
                hashed = hashlib.sha256(query.text.strip().encode()).digest()
                by_text.setdefault(hashed, []).append(row)
        held: set[int] = set()
        for hashed in sorted(by_text):
            if len(held) + len(by_text[hashed]) > most:
                break
            held.update(by_text[hashed])
        LOG.info(
            "%s has no dev split: %s of its %s training queries are held out as dev "
            "(config.data.dev_queries)", self.name, f"{len(held):,}", f"{len(trained):,}",
        )  # fmt: skip
        return held
