"""Opens a file or folder of training examples in the formats of several libraries."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from selfdistill_jax.data.examples.columns import (
    Columns,
    find_columns,
    holds_ids,
    is_required,
    parse_columns,
)
from selfdistill_jax.data.examples.header import is_header, names_without_header
from selfdistill_jax.data.examples.rows import Row, RowReader, without_repetition
from selfdistill_jax.data.files.records import column_noun, data_files, read_records
from selfdistill_jax.data.files.text import digest
from selfdistill_jax.errors import InputError
from selfdistill_jax.io import expand
from selfdistill_jax.progress import LOG

_VERSION = "rows-1"  # part of the fingerprint: raise it when the same file is read differently


class ExampleFile:
    """Reads training examples from a file, or from a folder of files.

    Columns are found by their names, in any order and case, see `columns.py`. Columns that do
    not concern an example, such as ``url``, are ignored; any other column is an error that names
    it. The log says how the columns are read.

    A row has a query, a positive or a list of them, and any number of negatives: in one column, in
    numbered columns, or in a list. Items of a list are texts, or objects with ``text`` and
    ``title``. Each positive becomes an example with all negatives of the row. Rows with a label or
    score, from 0 to 1, and no negatives are labelled pairs. Those of at least ``positive_from`` are
    positive pairs. In every other pair, the document becomes a negative of the query.

    Args:
      path: the file, folder or dataset of the hub, see `data_files`.
      columns: value of ``config.data.columns``, see `parse_columns`.
      positive_from: smallest label or score of a positive pair.

    Attributes:
      path: the path.
      files: the files to read.
      name: name without suffixes.

    Raises:
      InputError: as for `data_files` and `parse_columns`. Rows are checked when read.

    Example:
      >>> ExampleFile("mine.xlsx")
      Traceback (most recent call last):
      ...
      selfdistill_jax.errors.InputError: mine.xlsx: unknown suffix '.xlsx'; expected .jsonl, ...
    """

    def __init__(self, path: str | Path, *, columns: str = "", positive_from: float = 0.5):
        self.files = data_files(path)
        self.path = str(path) if "://" in str(path) else expand(path)
        self.name = Path(path).name.split(".")[0].split(":")[0]
        self._columns, self._positive_from = columns, positive_from
        self._by_hand = parse_columns(columns)

    def fingerprint(self, version: str) -> str:
        """Returns a hex digest of a reader's version, the settings and the content."""
        settings = f"{version} {_VERSION} {self._columns!r} {self._positive_from}"
        return digest(settings, *self.files)

    def describe(self) -> dict[str, Any]:
        """Returns the origin of the rows, for the record of a run."""
        where = self.path.resolve() if isinstance(self.path, Path) else self.path
        found: dict[str, Any] = {"format": _VERSION, "file": str(where)}
        if self._columns:
            found["columns"] = self._columns
        return found

    @property
    def has_ids(self) -> bool:
        """Whether the first row has ids of queries and documents instead of texts.

        Nothing else is checked; `rows` does that.
        """
        try:
            first = next(self._records(self.files[0]), None)
        except InputError:
            return False  # `rows` raises the same error
        return bool(first) and holds_ids(list(first[1]), self._by_hand)

    def rows(self, names: tuple[str, str, str], *, log: bool = True) -> Iterator[Row]:
        """Yields the training examples.

        Args:
          names: `TEXTS` or `IDS`.
          log: whether to log how the columns are read.

        Raises:
          InputError: a row is invalid; the message names the file, the line and the column.
        """
        labelled: dict[str, list[tuple[Row, float]]] = {}  # by query; pairs with a label
        repeated, first, unlabelled = 0, "", ""
        for row, label in self._all_rows(names, log=log):
            unique = without_repetition(row)
            if len(unique.negatives) < len(row.negatives):
                repeated += len(row.negatives) - len(unique.negatives)
                first = first or row.where
            if math.isnan(label):
                unlabelled = unlabelled or ("" if row.negatives else row.where)
                yield unique
            else:
                labelled.setdefault(row.query.strip(), []).append((row, label))
        if labelled and unlabelled:
            raise InputError(
                f"{unlabelled}: a pair without a label, but other pairs of the file have one; fill "
                "in the label, or remove the pair"
            )
        if repeated and log:
            LOG.warning(
                "%s: %s negatives that repeat another one of their row are used once (first: %s)",
                self.path, f"{repeated:,}", first,
            )  # fmt: skip
        if labelled:
            yield from self._from_labels(labelled, log=log)

    def _from_labels(
        self, labelled: Mapping[str, list[tuple[Row, float]]], *, log: bool
    ) -> Iterator[Row]:
        """Yields the positive pairs, each with the negative ones of its query as negatives."""
        positive, used, unused = 0, 0, 0  # numbers of pairs
        for pairs in labelled.values():
            negatives = [row.positive for row, label in pairs if label < self._positive_from]
            positives = [row for row, label in pairs if label >= self._positive_from]
            positive += len(positives)
            used += len(negatives) * bool(positives)
            unused += len(negatives) * (not positives)
            for row in positives:
                yield without_repetition(row._replace(negatives=tuple(negatives)))
        if not positive:
            raise InputError(
                f"{self.path}: no pair has a label of at least {self._positive_from:g}; lower "
                "config.data.positive_from"
            )
        if log:
            LOG.info(
                "%s: %s pairs with a label of at least %g (config.data.positive_from) are "
                "positive, %s others are negatives of their query, %s are not used since their "
                "query has no positive",
                self.path, f"{positive:,}", self._positive_from, f"{used:,}", f"{unused:,}",
            )  # fmt: skip

    def _records(self, file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        named = {column for columns in self._by_hand.values() for column in columns}
        return read_records(
            file,
            is_header=lambda cells: is_header(cells) or not named.isdisjoint(cells),
            default_names=names_without_header,
        )

    def _all_rows(self, names: tuple[str, str, str], *, log: bool) -> Iterator[tuple[Row, float]]:
        """Yields the rows, each with its label, or NaN if it has none."""
        found: dict[tuple[str, ...], Columns] = {}  # by a record's columns; few in any file
        told: dict[str, None] = {}
        ignored: dict[str, None] = {}
        unseen = {column for columns in self._by_hand.values() for column in columns}
        for file in self.files:
            reader = RowReader(file, names)
            for line, record in self._records(file):
                columns = found.get(tuple(record))
                if columns is None:
                    # A null is no value, so a field that is always null may have any name.
                    given = [
                        name
                        for name, value in record.items()
                        if value is not None or reader.noun == "column" or is_required(name, names)
                    ]
                    where = f"{file}:{line}" if reader.noun == "field" else str(file)
                    columns = find_columns(given, names, reader.noun, where, by_hand=self._by_hand)
                    ignored |= dict.fromkeys(columns.ignored)
                    unseen -= record.keys()
                    if len(given) == len(record):  # else another record may have no null there
                        found[tuple(record)] = columns
                    told[columns.describe()] = None
                yield from reader.read(line, record, columns)
        if unseen and told:
            raise InputError(
                f"{self.path}: no row has {', '.join(map(repr, sorted(unseen)))}, which "
                "config.data.columns names"
            )
        for described in list(told)[:3] if log else ():
            LOG.info("%s: read as %s", self.path, described)
        if ignored and log:
            nouns = f"{column_noun(self.files[0])}s"
            LOG.info("%s: %s that are not used: %s", self.path, nouns, ", ".join(ignored))
