"""Measures on a second collection how much of the start encoder's quality a run retains."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from selfdistill_jax.data.store import Collection
from selfdistill_jax.errors import InputError
from selfdistill_jax.io import write_json
from selfdistill_jax.progress import LOG
from selfdistill_jax.retrieval.eval_set import EvalSet, make_eval_set
from selfdistill_jax.retrieval.evaluation import MEASURES
from selfdistill_jax.retrieval.significance import paired_test
from selfdistill_jax.train.evaluation.evaluator import Evaluator
from selfdistill_jax.train.evaluation.final_choice import Chosen
from selfdistill_jax.train.evaluation.final_test import final_split
from selfdistill_jax.train.processes import on_first

RETENTION = "retention.json"


def write_retention(
    folder: Path,
    collection: Collection,
    evaluate: Evaluator,
    chosen: Chosen,
    *,
    max_documents: int,
    stop: Callable[[], bool],
) -> bool:
    """Evaluates the start encoder and the chosen weights, and writes ``retention.json``.

    Args:
      folder: the folder for the results.
      collection: the second collection.
      evaluate: evaluates parameters on it.
      chosen: the chosen weights.
      max_documents: search at most this many documents; 0: all.
      stop: called before the second encoder; True ends the evaluation.

    Returns:
      True when the evaluation is complete, False when it was stopped.

    Raises:
      InputError: the collection has neither a test nor a dev split.
    """
    eval_set = _eval_set(collection, max_documents)
    label = f"Retention on {collection.name}"
    start = evaluate.start(eval_set, f"{label}, start")
    trained = start
    if chosen.alpha:
        if stop():
            LOG.info("Stopped during the final evaluation; the same command resumes it")
            return False
        trained = evaluate(eval_set, chosen.params, f"{label}, trained")
    facts = {
        "collection": collection.name,
        "queries": len(eval_set.query_ids),
        "documents": len(eval_set.document_ids),
        "start": {m: start.mean(m) for m in MEASURES},
        "trained": {m: trained.mean(m) for m in MEASURES},
        "test": asdict(paired_test(start.values[MEASURES[0]], trained.values[MEASURES[0]])),
    }
    on_first(lambda: write_json(folder / RETENTION, facts))
    return True


def _eval_set(collection: Collection, max_documents: int) -> EvalSet:
    split = final_split(collection, "test")
    if not split:
        raise InputError(
            f"config.evaluation.retention: {collection.name} has neither a test nor a dev split; "
            "expected a collection with one of them, or '' to measure no retention"
        )
    return make_eval_set(collection, split, max_documents=max_documents)
