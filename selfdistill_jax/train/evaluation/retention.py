"""Measures on other collections how much of the start encoder's quality a run retains."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from selfdistill_jax.data.store import Collection
from selfdistill_jax.errors import InputError
from selfdistill_jax.progress import LOG
from selfdistill_jax.retrieval.eval_set import EvalSet, make_eval_set
from selfdistill_jax.retrieval.evaluation import MEASURES
from selfdistill_jax.retrieval.significance import paired_test
from selfdistill_jax.train.evaluation.evaluator import Evaluator
from selfdistill_jax.train.evaluation.final_choice import Chosen
from selfdistill_jax.train.evaluation.final_test import final_split

RETENTION = "retention.json"


def measure_retention(
    collection: Collection,
    evaluate: Evaluator,
    chosen: Chosen,
    *,
    max_documents: int,
    stop: Callable[[], bool],
) -> dict[str, Any] | None:
    """Evaluates the start encoder and the chosen weights on another collection.

    Args:
      collection: the other collection.
      evaluate: evaluates parameters on it.
      chosen: the chosen weights.
      max_documents: search at most this many documents; 0: all.
      stop: called before each encoder; True ends the evaluation.

    Returns:
      An entry of ``retention.json``: sizes, means, the paired test of the change, and
      ``document_similarity``, the mean cosine of two different documents under the start encoder.
      None if it was stopped.

    Raises:
      InputError: the collection has neither a test nor a dev split.
    """
    eval_set = _eval_set(collection, max_documents)
    label = f"Retention on {collection.name}"
    if stop():
        return _stopped()
    documents = evaluate.start_documents(eval_set, f"{label}, start")
    start = evaluate.start(eval_set, f"{label}, start", documents)
    trained = start
    if chosen.alpha:
        if stop():
            return _stopped()
        trained = evaluate(eval_set, chosen.params, f"{label}, trained")
    return {
        "collection": collection.name,
        "queries": len(eval_set.query_ids),
        "documents": len(eval_set.document_ids),
        "document_similarity": documents.mean_cosine(),
        "start": {m: start.mean(m) for m in MEASURES},
        "trained": {m: trained.mean(m) for m in MEASURES},
        "test": asdict(paired_test(start.values[MEASURES[0]], trained.values[MEASURES[0]])),
    }


def _stopped() -> None:
    LOG.info("Stopped during the final evaluation; the same command resumes it")


def _eval_set(collection: Collection, max_documents: int) -> EvalSet:
    split = final_split(collection, "test")
    if not split:
        raise InputError(
            f"config.evaluation.retention: {collection.name} has neither a test nor a dev split; "
            "expected a collection with one of them, or '' to measure no retention"
        )
    return make_eval_set(collection, split, max_documents=max_documents)
