"""Reads the results of a finished run from its folder."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from selfdistill_jax.errors import InputError
from selfdistill_jax.json_file import entry, read_json
from selfdistill_jax.retrieval.evaluation import MEASURES
from selfdistill_jax.train.evaluation.final_choice import CHOICE
from selfdistill_jax.train.evaluation.retention import RETENTION
from selfdistill_jax.train.monitoring.run_log import read_metrics
from selfdistill_jax.train.run_folder import FINISHED

Values = Mapping[str, Mapping[str, Mapping[str, float]]]  # system -> measure -> query id -> value


class FinishedRun(NamedTuple):
    """Settings and results of a finished run.

    Attributes:
      folder: the run's folder.
      config: the run's settings, ``{"train": {"steps": …}, …}``.
      records: records of ``metrics.jsonl``.
      collection: name of the collection that the run was trained and evaluated on.
      num_documents: number of documents searched.
      split: evaluated split; empty if nothing was evaluated.
      ended: reason why training ended early; empty if it did not.
      diverged: whether it ended because a value was not finite.
      values: values of the evaluation; empty without a split.
      queries: query id -> text.
      choice: content of ``choice.json``, how the final weights were chosen; empty if they were not.
      retention: content of ``retention.json``, an entry for each collection on which it was
        measured.
    """

    folder: Path
    config: dict[str, Any]
    records: list[dict[str, Any]]
    collection: str
    num_documents: int
    split: str
    ended: str
    diverged: bool
    values: Values
    queries: dict[str, str]
    choice: dict[str, Any]
    retention: list[dict[str, Any]]

    @property
    def best_step(self) -> int | None:
        """Step of the best evaluation on dev; None if dev was not evaluated."""
        dev = [record for record in self.records if record["kind"] == "dev"]
        return max(dev, key=lambda record: record[MEASURES[0]])["step"] if dev else None


def read_finished_run(folder: Path) -> FinishedRun:
    """Reads a run's folder.

    Raises:
      InputError: the folder does not hold a run, or the run is not finished.
    """
    path = folder / FINISHED
    if not path.is_file():
        raise InputError(
            f"{folder}: no {FINISHED} in this folder; expected the --workdir of a finished run "
            "(the training command finishes an unfinished run; older versions' runs cannot be read)"
        )
    facts, config = read_json(path), read_json(folder / "config.json")
    split = entry(facts, "split", str, where=path)
    return FinishedRun(
        folder,
        config,
        read_metrics(folder),
        entry(facts, "collection", str, where=path),
        entry(facts, "num_documents", int, where=path),
        split,
        entry(facts, "ended", str, where=path),
        entry(facts, "diverged", bool, where=path, default=False),
        _read_values(folder / "eval" / f"per_query.{split}.tsv") if split else {},
        read_json(folder / "eval" / f"queries.{split}.json") if split else {},
        *(_read_if_written(folder / "eval" / name, kind)
          for name, kind in ((CHOICE, dict), (RETENTION, list))),
    )  # fmt: skip


def _read_if_written(path: Path, kind: type) -> Any:
    return read_json(path, kind) if path.is_file() else kind()


def _read_values(path: Path) -> Values:
    values: dict[str, dict[str, dict[str, float]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        measures = next(rows)[2:]
        for system, query, *numbers in rows:
            measured = values.setdefault(system, {measure: {} for measure in measures})
            for measure, number in zip(measures, numbers, strict=True):
                measured[measure][query] = float(number)
    return values
