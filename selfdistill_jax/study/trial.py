"""Trains and evaluates one configuration, and returns its results as numbers."""

import datetime
import gc
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from selfdistill_jax.errors import InputError
from selfdistill_jax.json_file import read_json
from selfdistill_jax.progress import LOG
from selfdistill_jax.report.finished_run import FinishedRun, read_finished_run
from selfdistill_jax.retrieval.evaluation import MEASURES
from selfdistill_jax.retrieval.metrics import mean
from selfdistill_jax.train.job import make_job
from selfdistill_jax.train.monitoring.run_log import read_metrics
from selfdistill_jax.train.run import train
from selfdistill_jax.train.run_folder import ENVIRONMENT


class Trial(NamedTuple):
    """Holds the results of a run.

    Attributes:
      numbers: ``dev``, the best value of the first of `MEASURES` on dev; ``start dev``, the start
        encoder's; ``best_step``; ``train_seconds`` of all steps; ``step_seconds``, the median of
        one; ``seconds`` of the whole run; and, if test was evaluated, each of `MEASURES` of the
        model and, as ``start …``, of the start encoder. A run that failed has ``seconds`` only.
      texts: ``dtype``, ``commit``, ``date``, ``error``: why the run failed or ended early; and, if
        other collections were evaluated, ``retention``: JSON, name -> ``start`` and ``trained``,
        the first of `MEASURES`, and ``similarity``, the mean cosine of documents under the start
        encoder.
      values: ``[queries]``, the first of `MEASURES` for each test query, in the order of their ids;
        empty if test was not evaluated.
      dev_values: ``[queries]``, the same for dev, at the best step; empty without dev.
    """

    numbers: dict[str, float]
    texts: dict[str, str]
    values: np.ndarray
    dev_values: np.ndarray


def run_trial(
    config: Any,
    folder: Path,
    *,
    stop: Callable[[], bool] = lambda: False,
    end_after_steps: bool = False,
) -> Trial | None:
    """Runs a config.

    An `InputError`, for example of a setting that does not fit the encoder, is the trial's result.

    Args:
      config: the config.
      folder: the run's folder, which is deleted when the run is finished.
      stop: True stops the run; its folder stays.
      end_after_steps: end before the final evaluation, with results of dev only. The folder stays,
        and a call with the same config does the rest.

    Returns:
      The results; None if the run was stopped.
    """
    began, texts = time.monotonic(), {"date": datetime.datetime.now().date().isoformat()}
    stopped = False

    def stop_run(step: int) -> bool:
        nonlocal stopped
        stopped = stop()
        return stopped or (end_after_steps and step == config.train.steps)

    try:
        finished = train(make_job(config), folder, stop=stop_run)
        if stopped:
            return None
    except InputError as error:
        LOG.warning("%s", error)
        seconds = time.monotonic() - began
        return Trial({"seconds": seconds}, texts | {"error": str(error)}, np.zeros(0), np.zeros(0))
    finally:
        gc.collect()  # frees the run's programs and arrays before the next run makes its own
    seconds = time.monotonic() - began
    records = read_metrics(folder)
    dev = [record for record in records if record["kind"] == "dev"]
    best = max(dev, key=lambda record: record[MEASURES[0]], default={})
    numbers = {"seconds": seconds}
    if dev:
        numbers |= {"dev": best[MEASURES[0]], "best_step": best["step"]}
        numbers["start dev"] = dev[0][MEASURES[0]]
    steps = [record for record in records if record["kind"] == "train"]
    step_seconds = [config.train.batch_size / record["triplets_per_second"] for record in steps]
    numbers |= {"train_seconds": sum(step_seconds), "step_seconds": float(np.median(step_seconds))}
    # As the run recorded it: the config may have "auto".
    texts["dtype"] = read_json(folder / "config.json")["train"]["dtype"]
    texts["commit"] = str(read_json(folder / ENVIRONMENT).get("commit"))[:12]
    values = np.zeros(0)
    if finished:
        run = read_finished_run(folder)
        texts["error"] = run.ended
        texts["retention"] = json.dumps(_retention(run)) if run.retention else ""
        for prefix, system in (("", "trained"), ("start ", "start")):
            if run.values:
                numbers |= {f"{prefix}{m}": mean(run.values[system][m]) for m in MEASURES}
        values = _values(run)
        shutil.rmtree(folder)
    return Trial(numbers, texts, values, np.array(best.get("values", ()), float))


def _retention(run: FinishedRun) -> dict[str, dict[str, float]]:
    return {
        facts["collection"]: {
            "start": round(facts["start"][MEASURES[0]], 5),
            "trained": round(facts["trained"][MEASURES[0]], 5),
            "similarity": round(facts["document_similarity"], 4),
        }
        for facts in run.retention
    }


def _values(run: FinishedRun) -> np.ndarray:
    if not run.values:
        return np.zeros(0)
    of_query = run.values["trained"][MEASURES[0]]
    return np.array([of_query[query] for query in sorted(of_query)])
