"""Chooses the weights that a run ends with: the start's, the trained ones, or a point between.

The candidates are ``start + α (trained − start)``, where ``trained`` is the best step on dev and α
comes from a short list (arXiv 2109.01903 and 2311.13534). All of them and the start encoder search
the whole collection for the dev queries. The start encoder stays if dev cannot tell that the best
candidate is better: if its gain does not exceed `needed_errors` standard errors.
"""

from collections.abc import Callable, Sequence
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
from selfdistill_jax.train.evaluation.best_model import BestModel, interpolate
from selfdistill_jax.train.evaluation.evaluator import Evaluator
from selfdistill_jax.train.processes import all_true, on_first

CHOICE = "choice.json"


class Chosen(NamedTuple):
    """Holds the chosen weights.

    Attributes:
      alpha: share of the change in training that is applied; 0 is the start encoder.
      params: the parameters.
      documents: their vectors of all documents, ``[N, D]``; None if they must be encoded again.
    """

    alpha: float
    params: Params
    documents: np.ndarray | None = None


def needed_errors(candidates: int, queries: int) -> float:
    """Returns by how many standard errors the best candidate must be better than the start.

    With one candidate and many queries this is the rule of one standard error, which a candidate
    without any gain passes with a probability of 16 %. The best of several would pass it more often
    by luck alone, so the number rises with the candidates, to keep the 16 %.

    Args:
      candidates: number of models that were compared on dev, all steps included.
      queries: number of dev queries.

    Example:
      >>> [round(needed_errors(n, 300), 2) for n in (1, 4, 16)]
      [1.0, 1.73, 2.31]
    """
    from scipy import special  # imported here: takes 0.1 s, needed only at the end of a run

    each = special.ndtr(1.0) ** (1 / candidates)
    return float(special.stdtrit(max(queries - 1, 1), each))


def paired_gain(start: ScoredRun, other: ScoredRun) -> tuple[float, float]:
    """Returns how much better a candidate is than the start encoder on the same queries.

    Returns:
      The mean difference of the first of `MEASURES`, and its standard error (infinite for one
      query).
    """
    a, b = start.values[MEASURES[0]], other.values[MEASURES[0]]
    difference = np.array([b[query] - a[query] for query in a])
    mean, n = float(difference.mean()), len(difference)
    error = float(difference.std(ddof=1) / n**0.5) if n > 1 else float("inf")
    return mean, error


def choose_weights(
    dev: EvalSet,
    evaluate: Evaluator,
    start: Params,
    best_model: BestModel,
    *,
    alphas: Sequence[float],
    evaluations: int,
    folder: Path,
    stop: Callable[[], bool],
) -> Chosen | None:
    """Evaluates the candidates on dev, records the choice, and writes the chosen model.

    Args:
      dev: the dev queries, with all documents.
      evaluate: evaluates parameters.
      start: the start encoder's parameters.
      best_model: the best model of the run, which the chosen one replaces.
      alphas: values of α besides 0.
      evaluations: number of steps among which the best was selected on dev.
      folder: folder for ``choice.json``. If it is there, the choice was made before.
      stop: called before each evaluation; True ends the choice.

    Returns:
      The chosen weights; None if it was stopped.
    """
    path = folder / CHOICE
    if all_true(path.is_file()):
        facts = read_json(path)
        alpha = float(entry(facts, "alpha", float, where=path))
        on_first(lambda: best_model.blend(alpha, entry(facts, "replaces", dict, where=path)))
        return Chosen(alpha, best_model.read().params)
    trained = best_model.read().params
    if jax.tree.all(jax.tree.map(np.array_equal, start, trained)):
        return Chosen(0.0, start)  # no step was better on dev
    baseline = evaluate.start(dev, "Dev, start")
    chosen, rows = Chosen(0.0, start), []
    best, needed = 0.0, needed_errors(evaluations + len(alphas), len(dev.query_ids))
    for alpha in sorted(alphas):
        if stop():
            LOG.info("Stopped during the final evaluation; the same command resumes it")
            return None
        params, label = interpolate(start, trained, alpha), f"Dev, α = {alpha:g}"
        documents = evaluate.documents(dev, params, label)
        scored = evaluate.score(dev, params, documents, label)
        gain, error = paired_gain(baseline, scored)
        rows.append({"alpha": alpha, **_means(scored), "gain": gain, "standard_error": error})
        if gain > max(best, needed * error):
            best, chosen = gain, Chosen(alpha, params, documents)
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
