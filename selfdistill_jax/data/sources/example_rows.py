"""Reads training examples out of the records of data files, with texts or with ids."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from selfdistill_jax.data.files.jsonl import field
from selfdistill_jax.data.files.records import column_noun, is_text_table
from selfdistill_jax.data.sources.example_columns import TEXTS, Columns
from selfdistill_jax.errors import InputError

_LISTS = ("s", "pos", "neg")  # ends of the names of columns that hold lists


class Row(NamedTuple):
    """Holds one training example of a file.

    Attributes:
      where: file and line, for messages.
      query, positive, negatives: texts or ids.
      positive_score, negative_scores: a teacher's scores; NaN and empty without.
    """

    where: str
    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    positive_score: float = math.nan
    negative_scores: tuple[float, ...] = ()


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
        positives = self._texts(record, columns.positive, line) or [
            self._text(record, columns.positive, line)  # raises the error
        ]
        several = len(columns.negatives) > 1
        negatives = [
            text
            for name in columns.negatives
            # In numbered columns, rows with fewer negatives have empty texts.
            if not (several and isinstance(record.get(name), str) and not record[name].strip())
            for text in self._texts(record, name, line)
        ]
        scores = self._scores(record, [columns.positive_score], line)
        others = self._scores(record, columns.negative_scores, line)
        label = record.get(columns.label)
        label = float(label) if isinstance(label, bool) else label
        labels = self._scores({columns.label: label}, [columns.label], line)
        if labels and negatives:
            scores, others = self._from_teacher(columns.label, labels, positives, negatives, where)
            labels = None
        if (scores is None) != (others is None):
            raise InputError(
                f"{where}: only one of positive_score and negative_score is present; expected both "
                "or neither"
            )
        for kind, texts, given in (
            ("positive", positives, scores), ("negative", negatives, others)
        ):  # fmt: skip
            if given and len(given) != max(len(texts), 1):
                raise InputError(
                    f"{where}: {len(given)} scores for {len(texts)} {kind}s; expected one for each"
                )
        for label in labels or ():
            if not 0 <= label <= 1:
                raise InputError(
                    f"{where}: {self.noun} {columns.label!r} is {label:g}; expected 0 to 1, from "
                    "not relevant to relevant; scale the values, or keep only positive pairs and "
                    "remove the column"
                )
        for number, positive in enumerate(positives):
            score = scores[number] if scores else math.nan
            given = tuple(others or ())[: len(negatives)]
            row = Row(where, query, positive, tuple(negatives), score, given)
            yield row, labels[0] if labels else math.nan

    def _from_teacher(
        self,
        name: str,
        labels: list[float],
        positives: list[str],
        negatives: list[str],
        where: str,
    ) -> tuple[list[float], list[float]]:
        """Returns the scores of positive and negatives that the label of a triplet stands for.

        sentence-transformers has a list of all scores there, or the margins between the positive
        and each negative. Losses with a teacher use only differences of scores.
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
        """Returns the texts or ids in a column with one of them or a list; a null has none."""
        value = record.get(name)
        if value is None:
            return []
        if isinstance(value, list):
            items = {f"{name}[{number}]": item for number, item in enumerate(value)}
            return [self._text(items, key, line) for key in items]
        if self._of_text and name.lower().endswith(_LISTS) and _looks_like_list(value):
            raise InputError(
                f"{self._path}:{line}: column {name!r} holds a list written as text; save the data "
                "as JSONL or Parquet, or put each text into a column of its own"
            )
        return [self._text(record, name, line)]

    def _text(self, items: Mapping[str, Any], name: str, line: int) -> str:
        value = items.get(name)
        where: Any = {"path": self._path, "line": line, "noun": self.noun}
        if isinstance(value, dict):
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


def _looks_like_list(text: str) -> bool:
    return text.strip().startswith(("['", '["')) and text.strip().endswith("]")


def without_repetition(row: Row) -> Row:
    """Returns the row without negatives that repeat another one but for white space at the ends."""
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
