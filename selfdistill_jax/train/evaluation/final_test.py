"""Evaluates a run on test: BM25, the start encoder and the chosen model."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from selfdistill_jax.data.store import Collection
from selfdistill_jax.progress import LOG
from selfdistill_jax.retrieval.eval_set import EvalSet, evaluate_bm25, make_eval_set
from selfdistill_jax.retrieval.evaluation import ScoredRun, write_results
from selfdistill_jax.train.evaluation.evaluator import Evaluator
from selfdistill_jax.train.evaluation.final_choice import Chosen
from selfdistill_jax.train.processes import on_first

SPLITS = ("test", "dev", "none")


def final_split(collection: Collection, wanted: str) -> str:
    """Returns the split of the final evaluation.

    Args:
      collection: the run's collection.
      wanted: "test", which falls back to dev if there is none, "dev", or "none".

    Returns:
      A split of the collection; empty for none.
    """
    order = {"test": ("test", "dev"), "dev": ("dev",), "none": ()}[wanted]
    return next((split for split in order if split in collection.splits), "")


def write_test(
    folder: Path,
    collection: Collection,
    split: str,
    evaluate: Evaluator,
    chosen: Chosen,
    *,
    depth: int,
    stop: Callable[[], bool],
) -> bool:
    """Evaluates BM25, the start encoder and the chosen model, and writes the results.

    Args:
      folder: the folder for the results.
      collection: the run's collection.
      split: the split to evaluate.
      evaluate: evaluates parameters.
      chosen: the chosen weights.
      depth: documents retrieved for each query.
      stop: called before each encoder; True ends the evaluation.

    Returns:
      True when the evaluation is complete, False when it was stopped.
    """
    eval_set = make_eval_set(collection, split)
    systems = {
        "bm25": lambda: evaluate_bm25(eval_set, collection, k=depth),
        "start": lambda: evaluate.start(eval_set, "Test, start"),
        "trained": lambda: _trained(eval_set, evaluate, chosen),
    }
    scored: dict[str, ScoredRun] = {}
    for name, run in systems.items():
        if name != "bm25" and stop():
            LOG.info("Stopped during the final evaluation; the same command resumes it")
            return False
        scored[name] = scored["start"] if name == "trained" and not chosen.alpha else run()
    texts = collection.queries
    rows = dict(zip(eval_set.query_ids, eval_set.query_rows, strict=True))
    queries = {id_: texts[row] for id_, row in rows.items()}
    write = partial(write_results, folder, scored, baseline="start", queries=queries)
    on_first(partial(write, split=split))
    return True


def _trained(eval_set: EvalSet, evaluate: Evaluator, chosen: Chosen) -> ScoredRun:
    label = "Test, trained"
    if chosen.documents is None:
        return evaluate(eval_set, chosen.params, label)
    return evaluate.score(eval_set, chosen.params, chosen.documents, label)
