"""Executes the runs of a study that its table lacks."""

import datetime
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from selfdistill_jax.data.sources.registry import EMBEDDED
from selfdistill_jax.errors import InputError
from selfdistill_jax.json_file import read_json
from selfdistill_jax.progress import LOG
from selfdistill_jax.report.finished_run import read_finished_run
from selfdistill_jax.retrieval.evaluation import MEASURES
from selfdistill_jax.retrieval.metrics import mean
from selfdistill_jax.study.definition import Run, Study
from selfdistill_jax.study.table import Result, Table
from selfdistill_jax.train.job import make_job
from selfdistill_jax.train.run import train
from selfdistill_jax.train.run_folder import ENVIRONMENT

MakeConfig = Callable[[dict[str, Any]], Any]


def execute(
    study: Study,
    table: Table,
    make_config: MakeConfig,
    *,
    data: Path | None,
    work: Path,
    shard: tuple[int, int] = (0, 1),
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Runs every run of a study that the table lacks.

    For each collection and method, the tuned settings are chosen by the highest value on dev with
    the first seed; then each seed is trained with these settings and evaluated on test.

    Args:
      study: the study.
      table: receives each result as soon as its run ends.
      make_config: returns the config with the given settings.
      data: folder with the collections that are not embedded; runs on missing ones are left out.
      work: folder for the runs' own folders, which are deleted after each run.
      shard: (i, n) executes every n-th pair of a collection and a method, from the i-th on.
      stop: True ends the study after the current run.

    Returns:
      Whether the study is complete, except for missing collections and other shards.
    """
    cells = list(study.cells())[shard[0] :: shard[1]]
    for number, (collection, method) in enumerate(cells, 1):
        dataset = _dataset(collection, data)
        if not dataset:
            LOG.warning("%s: no such folder in --data; its runs are left out", collection)
            continue
        LOG.info("Study %s: %s, %s (%d of %d)", study.name, collection, method, number, len(cells))
        settings = study.settings | study.methods[method] | {"data.dataset": dataset}
        phases: Sequence[Run] = [
            Run(collection, method, "tune", study.seeds[0], tuned) for tuned in study.grid()
        ]
        if len(phases) > 1 and not _execute_all(phases, settings, table, make_config, work, stop):
            return False
        tuned = best_tuned(study, table, collection, method)
        if tuned is None:
            continue  # every run of the grid failed
        phases = [Run(collection, method, "test", seed, tuned) for seed in study.seeds]
        if not _execute_all(phases, settings, table, make_config, work, stop):
            return False
    return True


def best_tuned(study: Study, table: Table, collection: str, method: str) -> dict[str, Any] | None:
    """Returns the tuned settings with the highest value on dev.

    Returns:
      The settings; None if a run of the grid is missing or all of them failed.
    """
    grid = study.grid()
    if len(grid) == 1:
        return grid[0]
    values = []
    for tuned in grid:
        found = table.find(Run(collection, method, "tune", study.seeds[0], tuned))
        if found is None:
            return None
        values.append(found.numbers.get("dev", -1.0))
    return grid[int(np.argmax(values))] if max(values) >= 0 else None


def _execute_all(runs, settings, table: Table, make_config, work: Path, stop) -> bool:
    for run in runs:
        if table.find(run) is None:
            if stop():
                return False
            table.add(_execute(run, settings, make_config, work))
    return True


def _execute(run: Run, settings: dict[str, Any], make_config: MakeConfig, work: Path) -> Result:
    """Trains and evaluates one run; an `InputError`, such as a loss of NaN, is its result."""
    settings = settings | dict(run.tuned)
    settings |= {
        "seed": run.seed,
        "evaluation.split": "test" if run.phase == "test" else "none",
        "train.checkpoint_every": settings.get("train.steps", 10**9),  # the last step only
    }
    config = make_config(settings)
    folder = work / "-".join([run.collection, run.method, run.phase, str(run.seed)])
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    try:
        job = make_job(config)
        train(job, folder)
    except InputError as error:
        LOG.warning("%s: %s", " ".join(run.key()), error)
        return Result(run.key(), {}, {"date": date, "error": str(error)}, np.zeros(0))
    seconds = time.monotonic() - began
    result = _result(run, folder, seconds, date)
    shutil.rmtree(folder)
    jax.clear_caches()  # compiled programs of one run are of no use to the next, and take memory
    LOG.info("%s: dev %.4f, %.0f s", " ".join(run.key()), result.numbers["dev"], seconds)
    return result


def _result(run: Run, folder: Path, seconds: float, date: str) -> Result:
    done = read_finished_run(folder)
    dev = max((r for r in done.records if r["kind"] == "dev"), key=lambda r: r[MEASURES[0]])
    steps = [r for r in done.records if r["kind"] == "train"]
    numbers = {"dev": dev[MEASURES[0]], "best_step": dev["step"], "seconds": seconds}
    examples = done.config["train"]["batch_size"]
    numbers["train_seconds"] = sum(examples / r["triplets_per_second"] for r in steps)
    values = np.zeros(0)
    if done.values:
        for measure in MEASURES:
            numbers[measure] = mean(done.values["trained"][measure])
            numbers[f"start {measure}"] = mean(done.values["start"][measure])
        of_query = done.values["trained"][MEASURES[0]]
        values = np.array([of_query[query] for query in sorted(of_query)])
    texts = {
        "dtype": str(done.config["train"]["dtype"]),
        "commit": str(read_json(folder / ENVIRONMENT).get("commit"))[:12],
        "date": date,
        "error": done.ended,
    }
    return Result(run.key(), numbers, texts, values)


def _dataset(collection: str, data: Path | None) -> str:
    """Returns the value of ``config.data.dataset`` for a collection; empty if it is missing."""
    if collection in EMBEDDED:
        return collection
    folder = data / collection if data else None
    return str(folder) if folder and folder.is_dir() else ""
