"""Stores the results of a study's runs as CSV files that are small enough to commit."""

import contextlib
import csv
import io
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from selfdistill_jax.errors import InputError
from selfdistill_jax.io import write_text
from selfdistill_jax.locks import lock
from selfdistill_jax.retrieval.evaluation import MEASURES
from selfdistill_jax.study.definition import Run

RUNS, QUERIES = "runs.csv", "queries.csv"
KEY = ("collection", "method", "phase", "seed", "tuned")
NUMBERS = (
    "start dev", "dev", "best_step", *MEASURES, *(f"start {m}" for m in MEASURES),
    "step_seconds", "train_seconds", "seconds",
)  # fmt: skip
TEXTS = ("dtype", "commit", "date", "error", "retention")
_ATTEMPTS = 300  # every 0.1 s, to write the file while another process writes it
_SCALE = 10_000  # a query's value is stored as a whole number of this many parts


class Result(NamedTuple):
    """Holds the result of a run.

    Attributes:
      key: values of the columns `KEY`, see `Run.key`.
      numbers: column of `NUMBERS` -> value; columns that do not apply are missing.
      texts: column of `TEXTS` -> text.
      values: ``[queries]``, the first of `MEASURES` for each test query, in the order of their ids;
        empty if test was not evaluated.
    """

    key: tuple[str, ...]
    numbers: Mapping[str, float]
    texts: Mapping[str, str]
    values: np.ndarray


class Table:
    """Holds the results of many runs; several processes can add to the same file.

    Args:
      path: CSV file of the results; it need not exist. The values of test queries are in
        ``queries.csv`` beside it.

    Attributes:
      results: key -> result, in the order in which the runs ended.

    Raises:
      InputError: a file is not one that this class wrote.
    """

    def __init__(self, path: Path):
        self._path, self._queries = path, path.with_name(QUERIES)
        self.results: dict[tuple[str, ...], Result] = {}
        try:
            # Before QUERIES, which is written first: each row found here has its values there.
            rows = _read(path)
            values = {
                tuple(row[name] for name in KEY): np.array(row["values"].split(), float) / _SCALE
                for row in _read(self._queries)
            }
            for row in rows:
                key = tuple(row[name] for name in KEY)
                numbers = {name: float(row[name]) for name in NUMBERS if row.get(name)}
                texts = {name: row.get(name) or "" for name in TEXTS}
                self.results[key] = Result(key, numbers, texts, values.get(key, np.zeros(0)))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}: damaged, or {QUERIES} beside it is ({type(error).__name__}: {error}); "
                "restore or remove both"
            ) from None

    def find(self, run: Run) -> Result | None:
        """Returns a run's result, None if there is none yet."""
        return self.results.get(run.key())

    def add(self, result: Result) -> None:
        """Adds a result, and writes it together with those that other processes added."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self.results = Table(self._path).results | {result.key: result}
            self._write()
            # As rounded in the file, so that a resumed study or choice sees the same numbers.
            self.results = Table(self._path).results

    @contextlib.contextmanager
    def _locked(self) -> Generator[None]:
        """Waits until no other process writes the file, and keeps others from it."""
        path = self._path.with_name(f".{self._path.name}.lock")
        with contextlib.ExitStack() as held:
            for attempt in range(_ATTEMPTS):
                try:
                    held.enter_context(lock(path, str(self._path)))
                    break
                except InputError:
                    if attempt == _ATTEMPTS - 1:
                        raise
                    time.sleep(0.1)
            yield

    def _write(self) -> None:
        rows, queries = [], []
        for one in self.results.values():
            numbers = [f"{one.numbers[n]:.6g}" if n in one.numbers else "" for n in NUMBERS]
            rows.append([*one.key, *numbers, *(one.texts.get(name, "") for name in TEXTS)])
            if len(one.values):
                whole = np.rint(_SCALE * one.values).astype(int)
                queries.append([*one.key, " ".join(map(str, whole))])
        if queries:
            _write(self._queries, [*KEY, "values"], queries)
        _write(self._path, [*KEY, *NUMBERS, *TEXTS], rows)


def _read(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    csv.field_size_limit(2**24)  # a line of queries.csv holds the values of all queries
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _write(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    write_text(path, text.getvalue())
