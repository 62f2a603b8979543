"""Reads training examples from the records of data files, with texts or with ids."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from selfdistill_jax.data.examples.columns import TEXTS, Columns
from selfdistill_jax.data.files.jsonl import field
from selfdistill_jax.data.files.records import column_noun, is_text_table
from selfdistill_jax.errors import InputError

_LIST = re.compile(r"""\s*\[(\s*|\s*['"{].*)\]\s*""", re.DOTALL)  # a list written as text


class Row(NamedTuple):
    """Holds one training example of a file.

    Attributes:
      where: file and line, for messages.
      query, positive, negatives: texts or ids.
      positive_score, negative_scores: a teacher's scores; NaN and empty without.
      source: number of the file among several, see `MixedFiles`.
    """

    where: str
    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    positive_score: float = math.nan
    negative_scores: tuple[float, ...] = ()
    source: int = 0


class RowReader:
    """Reads the values of one file's records.

    Args:
      path: the file.
      names: `TEXTS` or `IDS`.
    """

    def __init__(self, path: Path, names: tuple[str, str, str]):
        self.noun = column_noun(path)
        self._path = path
        self._ids = names != TEXTS
        self._of_text = is_text_table(path)

    def read(
        self, line: int, record: Mapping[str, Any], columns: Columns
    ) -> Iterator[tuple[Row, float]]:
        """Yields the examples of a record, each with its label, or NaN if it has none."""
        where = f"{self._path}:{line}"
        query = self._text(record, columns.query, line)
        positives = self._texts(record, columns.positive, line)
        if not positives and record.get(columns.positive) == []:
            raise InputError(f"{where}: {self.noun} {columns.positive!r} has no items")
        if not positives:
            self._text(record, columns.positive, line)  # raises the error
        scores = self._scores(record, [columns.positive_score], line)
        negatives, others = self._negatives(record, columns, line)
        label = record.get(columns.label)
        label = float(label) if isinstance(label, bool) else label
        labels = self._scores({columns.label: label}, [columns.label], line)
        if labels is not None and (scores or others):
            raise InputError(
                f"{where}: both {columns.label!r} and scores are present; remove one of them"
            )
        if labels and negatives:
            scores, others = self._from_teacher(columns.label, labels, positives, negatives, where)
            labels = None
        if (scores and others is None) or (others and not scores):
            raise InputError(
                f"{where}: only one of positive_score and negative_score is present; expected both "
                "or neither"
            )
        self._check_number("scores", scores, positives, "positives", where)
        self._check_number("scores", others, negatives, "negatives", where)
        self._check_number("labels", labels, positives, "positives", where)
        for value in labels or ():
            if not 0 <= value <= 1:
                raise InputError(
                    f"{where}: {self.noun} {columns.label!r} is {value:g}; expected 0 to 1, from "
                    "not relevant to relevant; scale the values, or keep only positive pairs and "
                    "remove the column"
                )
        given = tuple(others or ())[: len(negatives)]
        for number, positive in enumerate(positives):
            score = scores[number] if scores else math.nan
            row = Row(where, query, positive, tuple(negatives), score, given)
            yield row, labels[number] if labels else math.nan

    def _check_number(
        self, kind: str, values: list[float] | None, texts: list[str], noun: str, where: str
    ) -> None:
        if values and len(values) != max(len(texts), 1):
            raise InputError(
                f"{where}: {len(values)} {kind} for {len(texts)} {noun}; expected one for each"
            )

    def _negatives(
        self, record: Mapping[str, Any], columns: Columns, line: int
    ) -> tuple[list[str], list[float] | None]:
        """Returns the negatives and their scores; None without columns of scores."""
        names, of_scores = columns.negatives, columns.negative_scores
        # Rows with fewer negatives have nulls or, as files of texts have no null, empty texts.
        empty_is_none = self._of_text or len(names) > 1
        used = [
            name
            for name in names
            if not (
                empty_is_none and isinstance(record.get(name), str) and not record[name].strip()
            )
        ]
        if len(names) > 1 and len(of_scores) > 1:
            if len(names) != len(of_scores):
                raise InputError(
                    f"{self._path}:{line}: {len(of_scores)} {self.noun}s of scores for "
                    f"{len(names)} {self.noun}s of negatives; expected one for each"
                )
            pairs = zip(names, of_scores, strict=True)
            of_scores = [score for name, score in pairs if name in used and record.get(name)]
        negatives = [text for name in used for text in self._texts(record, name, line)]
        return negatives, self._scores(record, of_scores, line)

    def _from_teacher(
        self,
        name: str,
        labels: list[float],
        positives: list[str],
        negatives: list[str],
        where: str,
    ) -> tuple[list[float], list[float]]:
        """Converts the label of a triplet to scores of its positive and its negatives.

        In sentence-transformers, such a label is a list of all scores, or of the margins between
        the positive and each negative. Losses with a teacher use only differences of scores.
        """
        if len(positives) == 1 and len(labels) == 1 + len(negatives):
            return labels[:1], labels[1:]
        if len(positives) == 1 and len(labels) == len(negatives):
            return [0.0], [-label for label in labels]
        raise InputError(
            f"{where}: {self.noun} {name!r} has {len(labels)} numbers for {len(positives)} "
            f"positives and {len(negatives)} negatives; expected the margin to each negative, or "
            "the score of the positive and then of each negative"
        )

    def _texts(self, record: Mapping[str, Any], name: str, line: int) -> list[str]:
        """Returns the texts or ids of a column that holds one or a list; none for a null."""
        value = record.get(name)
        if value is None:
            return []
        if isinstance(value, list):
            items = {f"{name}[{number}]": item for number, item in enumerate(value)}
            return [self._text(items, key, line) for key in items]
        if self._of_text and _LIST.fullmatch(value):
            raise InputError(
                f"{self._path}:{line}: column {name!r} holds a list written as text; save the data "
                "as JSONL or Parquet, or give each text its own column"
            )
        return [self._text(record, name, line)]

    def _text(self, items: Mapping[str, Any], name: str, line: int) -> str:
        value = items.get(name)
        where: Any = {"path": self._path, "line": line, "noun": self.noun}
        if isinstance(value, dict):
            if "text" not in value:
                raise InputError(
                    f"{self._path}:{line}: {self.noun} {name!r} is an object without 'text' "
                    f"(it has {', '.join(map(repr, value)) or 'nothing'}); rename its text"
                )
            title, text = (
                field({f"{name}.{key}": value.get(key)}, f"{name}.{key}", str, default="", **where)
                for key in ("title", "text")
            )
            return field({name: f"{title} {text}".strip()}, name, str, **where)
        if self._ids and isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return field(items, name, str, **where)

    def _scores(
        self, record: Mapping[str, Any], names: Sequence[str], line: int
    ) -> list[float] | None:
        """Returns the numbers in columns with one number or a list; None if there are none."""
        given = {name: record[name] for name in names if record.get(name) is not None}
        found: list[float] = []
        for name, value in given.items():
            where: Any = {"path": self._path, "line": line, "noun": self.noun}
            if self._of_text:
                found.append(_number(value, name, self._path, line))
            elif isinstance(value, list):
                items = {f"{name}[{number}]": item for number, item in enumerate(value)}
                found += [field(items, key, float, **where) for key in items]
            else:
                found.append(field(given, name, float, **where))
        return found if given else None


def without_repetition(row: Row) -> Row:
    """Returns the row without repeated negatives; white space at the ends is ignored."""
    texts = [text.strip() for text in row.negatives]
    first = [i for i, text in enumerate(texts) if texts.index(text) == i]
    if len(first) == len(texts):
        return row
    scores = row.negative_scores
    return row._replace(
        negatives=tuple(row.negatives[i] for i in first),
        negative_scores=tuple(scores[i] for i in first) if scores else (),
    )


def _number(text: str, name: str, path: Path, line: int) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{path}:{line}: column {name!r} is {text!r}; expected a finite number")
    return number
