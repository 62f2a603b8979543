"""Chooses the weights that a run ends with: the start's, the trained ones, or a point between.

The candidates are ``start + α (trained − start)``, where ``trained`` is the best step on dev and α
comes from a short list (arXiv 2109.01903 and 2311.13534). All of them and the start encoder search
the whole collection for the dev queries. The start encoder stays if dev cannot tell that the best
candidate is better: if its gain does not exceed `needed_errors` standard errors.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from selfdistill_jax.encoder.apply import Params
from selfdistill_jax.io import write_json
from selfdistill_jax.json_file import entry, read_json
from selfdistill_jax.progress import LOG
from selfdistill_jax.retrieval.eval_set import EvalSet
from selfdistill_jax.retrieval.evaluation import MEASURES, ScoredRun
from selfdistill_jax.retrieval.significance import mean_and_error, needed_errors
from selfdistill_jax.train.data.document_vectors import DocumentVectors
from selfdistill_jax.train.evaluation.best_model import BestModel, interpolate
from selfdistill_jax.train.evaluation.evaluator import Evaluator
from selfdistill_jax.train.monitoring.run_log import read_metrics
from selfdistill_jax.train.processes import all_true, broadcast_from_first, on_first

EVAL, CHOICE = "eval", "choice.json"


class Chosen(NamedTuple):
    """Holds the chosen weights.

    Attributes:
      alpha: share of the change in training that is applied; 0 is the start encoder.
      params: the parameters.
      documents: their vectors of all documents; None if they must be encoded again.
    """

    alpha: float
    params: Params
    documents: DocumentVectors | None = None


def gains_of_steps(records: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Returns ``[steps, queries]``, the gain of each evaluated step on the dev split of a run.

    Args:
      records: records of ``metrics.jsonl``.
    """
    dev = {r["step"]: np.array(r["values"]) for r in records if r["kind"] == "dev"}
    return np.array([values - dev[0] for step, values in dev.items() if step])


def paired_gains(start: ScoredRun, other: ScoredRun) -> np.ndarray:
    """Returns ``[queries]``, differences of the first of `MEASURES`, in the order of the ids."""
    a, b = start.values[MEASURES[0]], other.values[MEASURES[0]]
    return np.array([b[query] - a[query] for query in sorted(a)])


def choose_weights(
    dev: EvalSet,
    evaluate: Evaluator,
    start: Params,
    best_model: BestModel,
    *,
    alphas: Sequence[float],
    workdir: Path,
    stop: Callable[[], bool],
) -> Chosen | None:
    """Evaluates the candidates on dev, records the choice, and writes the chosen model.

    Args:
      dev: the dev queries, with all documents.
      evaluate: evaluates parameters.
      start: the start encoder's parameters.
      best_model: the best model of the run, which the chosen one replaces.
      alphas: values of α besides 0.
      workdir: the run's folder. If it has ``choice.json``, the choice was made before.
      stop: called before each evaluation; True ends the choice.

    Returns:
      The chosen weights; None if it was stopped.
    """
    path = workdir / EVAL / CHOICE
    if all_true(path.is_file()):
        facts = read_json(path)
        alpha = float(entry(facts, "alpha", float, where=path))
        on_first(lambda: best_model.blend(alpha, entry(facts, "replaces", dict, where=path)))
        return Chosen(alpha, best_model.read().params)
    trained = best_model.read().params
    if jax.tree.all(jax.tree.map(np.array_equal, start, trained)):
        return Chosen(0.0, start)  # no step was better on dev
    baseline = evaluate.start(dev, "Dev, start")
    rows, gains = [], []
    best: Chosen | None = None
    for alpha in sorted(alphas):
        if stop():
            LOG.info("Stopped during the final evaluation; the same command resumes it")
            return None
        params, label = interpolate(start, trained, alpha), f"Dev, α = {alpha:g}"
        documents = evaluate.documents(dev, params, label)
        scored = evaluate.score(dev, params, documents, label)
        gains.append(paired_gains(baseline, scored))
        gain, error = mean_and_error(gains[-1])
        if best is None or gain > max(row["gain"] for row in rows):
            best = Chosen(alpha, params, documents)
        rows.append({"alpha": alpha, **_means(scored), "gain": gain, "standard_error": error})
    needed = _on_all(partial(_needed, workdir, np.array(gains)))
    first = max(rows, key=lambda row: row["gain"])  # the first of equals, as above
    better = first["gain"] > max(0.0, needed * first["standard_error"])
    chosen = best if better and best is not None else Chosen(0.0, start)
    digests = best_model.digests()
    facts = {
        "alpha": chosen.alpha,
        "queries": len(dev.query_ids),
        "documents": len(dev.document_ids),
        "needed_errors": needed,
        "start": _means(baseline),
        "candidates": rows,
        "replaces": digests,
    }
    _log(facts)
    on_first(lambda: _write(path, facts))
    on_first(lambda: best_model.blend(chosen.alpha, digests))
    return chosen


def _needed(workdir: Path, gains: np.ndarray) -> float:
    steps = gains_of_steps(read_metrics(workdir))
    return needed_errors(np.concatenate([gains, steps.reshape(-1, gains.shape[1])]))


def _on_all(make: Callable[[], float]) -> float:
    """Returns the first process's number, to six digits, on every process."""
    found = on_first(make)
    millionths = None if found is None else np.array([min(found * 1e6, 2**31 - 1)], np.int32)
    return float(broadcast_from_first(millionths, (1,))[0]) / 1e6


def _means(scored: ScoredRun) -> dict[str, float]:
    return {measure: scored.mean(measure) for measure in MEASURES}


def _write(path: Path, facts: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, facts)


def _log(facts: dict[str, Any]) -> None:
    measure = MEASURES[0]
    found = [f"start {facts['start'][measure]:.4f}"]
    for row in facts["candidates"]:
        gain = f"{row['gain']:+.4f} ± {row['standard_error']:.4f}"
        found.append(f"α = {row['alpha']:g} {row[measure]:.4f} ({gain})")
    chosen = f"α = {facts['alpha']:g}" if facts["alpha"] else "the start encoder"
    LOG.info("Dev, final weights by %s: %s; chosen: %s",
             measure, ", ".join(found), chosen)  # fmt: skip
