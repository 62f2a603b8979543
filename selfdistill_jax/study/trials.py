"""Stores the trials of `selfdistill_jax.choose` in a CSV file."""

import csv
import io
from pathlib import Path
from typing import NamedTuple

from selfdistill_jax.errors import InputError
from selfdistill_jax.io import write_text
from selfdistill_jax.retrieval.evaluation import MEASURES
from selfdistill_jax.retrieval.text_table import format_table
from selfdistill_jax.study.trial import Trial

_COLUMNS = ("recipe", "steps", "dev", "start dev", "step_seconds", "seconds", "error")


class Row(NamedTuple):
    """Holds the result of a trial; ``dev`` is NaN if it failed."""

    recipe: str
    steps: int
    dev: float
    start_dev: float
    step_seconds: float
    seconds: float
    error: str

    @property
    def value(self) -> float:
        """Value by which trials are compared; a failed one is the worst."""
        return self.dev if self.dev == self.dev else -1.0

    @property
    def other_seconds(self) -> float:
        """Time besides the steps."""
        return max(self.seconds - self.steps * self.step_seconds, 0.0)


class Trials:
    """Holds all trials of a choice.

    Args:
      path: the CSV file; it need not exist.

    Raises:
      InputError: the file is damaged.
    """

    def __init__(self, path: Path):
        self._path = path
        self.rows: dict[tuple[str, int], Row] = {}
        if not path.is_file():
            return
        try:
            with path.open(encoding="utf-8", newline="") as file:
                for raw in csv.DictReader(file):
                    numbers = [float(raw[name] or "nan") for name in _COLUMNS[2:6]]
                    row = Row(raw["recipe"], int(raw["steps"]), *numbers, raw["error"])
                    self.rows[row.recipe, row.steps] = row
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(f"{path}: damaged ({error!r}); remove it to start over") from None

    @property
    def seconds(self) -> float:
        """Time of all trials."""
        return sum(row.seconds for row in self.rows.values())

    def find(self, recipe: str, steps: int) -> Row | None:
        """Returns a trial, None if it was not made yet."""
        return self.rows.get((recipe, steps))

    def add(self, recipe: str, steps: int, trial: Trial) -> Row:
        """Adds a trial and writes the file."""
        numbers = [trial.numbers.get(name, float("nan")) for name in _COLUMNS[2:6]]
        row = Row(recipe, steps, *numbers, trial.texts["error"])
        self.rows[recipe, steps] = row
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([_COLUMNS, *self.rows.values()])
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._path, text.getvalue())
        return row

    def table(self) -> str:
        """Returns all trials as text, the longest and best first."""
        rows = sorted(self.rows.values(), key=lambda row: (-row.steps, -row.value))
        cells = [
            [row.recipe, row.steps, row.dev if row.dev == row.dev else None, f"{row.seconds:.0f}"]
            for row in rows
        ]
        start = next((row.start_dev for row in rows if row.start_dev == row.start_dev), None)
        cells.append(["start encoder", 0, start, ""])
        return format_table(cells, ["recipe", "steps", f"{MEASURES[0]} on dev", "seconds"])
