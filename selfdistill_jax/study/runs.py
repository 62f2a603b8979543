"""Executes the runs of a study that its table lacks."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selfdistill_jax.data.sources.registry import EMBEDDED
from selfdistill_jax.progress import LOG
from selfdistill_jax.study.definition import Run, Study
from selfdistill_jax.study.table import Result, Table
from selfdistill_jax.study.trial import run_trial

_RETENTION = "evaluation.retention"  # names of further collections to test on
_TRIPLETS = "data.triplets"  # name of a file in the collection's folder
_INIT = "encoder.init"  # a hub id, or the name of a folder in --data
# Settings of every study, unless it sets them: runs end with the best step on dev.
_SETTINGS: dict[str, Any] = {"evaluation.interpolation": (), _RETENTION: ""}
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
    the first seed; then each seed is trained with these settings and evaluated on test. The first
    seed's run is the one that was chosen, if the same call made it.

    Args:
      study: the study.
      table: receives each result as soon as its run ends.
      make_config: returns the config with the given settings.
      data: folder with the collections that are not embedded; runs on missing ones are left out.
      work: folder for the runs' own folders, which are deleted after each method.
      shard: (i, n) executes every n-th pair of a collection and a method, from the i-th on.
      stop: True ends the study at once; the same command resumes with the run that was stopped.

    Returns:
      False if it was stopped; True if all runs of this shard on the collections that are there have
      ended.
    """
    cells = list(study.cells())[shard[0] :: shard[1]]
    for number, (collection, method) in enumerate(cells, 1):
        dataset = _dataset(collection, data)
        if not dataset:
            LOG.warning("%s: no such folder in --data; its runs are left out", collection)
            continue
        LOG.info("Study %s: %s, %s (%d of %d)", study.name, collection, method, number, len(cells))
        settings = _SETTINGS | study.settings | study.methods[method] | {"data.dataset": dataset}
        settings |= _paths(settings, data)
        phases: Sequence[Run] = [
            Run(collection, method, "tune", study.seeds[0], tuned) for tuned in study.grid(method)
        ]
        folder = work / study.name / f"{collection}-{method}"
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier call, perhaps with other code
        common = (settings, table, make_config, folder, stop)
        if len(phases) > 1 and not _execute_all(phases, *common):
            return False
        tuned = best_tuned(study, table, collection, method)
        if tuned is not None:  # else every run of the grid failed
            phases = [Run(collection, method, "test", seed, tuned) for seed in study.seeds]
            if not _execute_all(phases, *common):
                return False
        shutil.rmtree(folder, ignore_errors=True)
    return True


def best_tuned(study: Study, table: Table, collection: str, method: str) -> dict[str, Any] | None:
    """Returns the tuned settings with the highest value on dev.

    Returns:
      The settings; None if a run of the grid is missing or all of them failed.
    """
    grid = study.grid(method)
    if len(grid) == 1:
        return grid[0]
    values = []
    for tuned in grid:
        found = table.find(Run(collection, method, "tune", study.seeds[0], tuned))
        if found is None:
            return None
        values.append(found.numbers.get("dev", -1.0))
    return grid[int(np.argmax(values))] if max(values) >= 0 else None


def _execute_all(runs, settings, table: Table, make_config, folder: Path, stop) -> bool:
    for run in runs:
        if table.find(run) is None:
            result = None if stop() else _execute(run, settings, make_config, folder, stop)
            if result is None:
                return False
            table.add(result)
    return True


def _execute(
    run: Run, settings: dict[str, Any], make_config: MakeConfig, folder: Path, stop
) -> Result | None:
    """Returns a run's result; None if it was stopped."""
    settings = settings | dict(run.tuned)
    settings |= {
        "seed": run.seed,
        "evaluation.split": "test",
        "train.checkpoint_every": settings.get("train.steps", 10**9),  # the last step only
    }
    tuned = "-".join(str(value) for value in run.tuned.values())
    trial = run_trial(
        make_config(settings),
        folder / f"{run.seed}-{tuned}",
        stop=stop,
        end_after_steps=run.phase == "tune",
    )
    if trial is None:
        return None
    dev = trial.numbers.get("dev", float("nan"))
    LOG.info("%s: dev %.4f, %.0f s", " ".join(run.key()), dev, trial.numbers["seconds"])
    return Result(run.key(), trial.numbers, trial.texts, trial.values)


def _paths(settings: dict[str, Any], data: Path | None) -> dict[str, str]:
    """Returns the settings that name files or folders, as paths."""
    others = [_dataset(name, data) for name in settings[_RETENTION].split(",")]
    paths = {_RETENTION: ",".join(filter(None, others))}
    if _TRIPLETS in settings:
        paths[_TRIPLETS] = str(Path(settings["data.dataset"]) / settings[_TRIPLETS])
    if _INIT in settings and data and (data / settings[_INIT]).is_dir():
        paths[_INIT] = str(data / settings[_INIT])
    return paths


def _dataset(collection: str, data: Path | None) -> str:
    """Returns the value of ``config.data.dataset`` for a collection; empty if it is missing."""
    if collection in EMBEDDED:
        return collection
    folder = data / collection if data and collection else None
    return str(folder) if folder and folder.is_dir() else ""
