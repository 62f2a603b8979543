"""Turns vectors or texts into runs and scores them, for training and for the commands."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from selfdistill_jax.io import write_json, write_text
from selfdistill_jax.retrieval.bm25 import BM25
from selfdistill_jax.retrieval.metrics import evaluate, mean
from selfdistill_jax.retrieval.significance import paired_test
from selfdistill_jax.retrieval.trec import Qrels, Run, run_from_rows, without_own, write_run

# Maps query vectors ``[Q, D]`` and k to scores and document rows ``[Q, k]``, best first.
Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
MEASURES = ("nDCG@10", "MRR@10", "Recall@100")


class ScoredRun(NamedTuple):
    """Results of one system: its run, and its values as measure -> query id -> value."""

    run: Run
    values: dict[str, dict[str, float]]

    def mean(self, measure: str) -> float:
        return mean(self.values[measure])


def dense_run(
    queries: np.ndarray,
    search: Search,
    *,
    query_ids: Sequence[str],
    document_ids: Sequence[str],
    k: int,
    drop_own: bool = False,
) -> Run:
    """Searches document vectors for each query vector of ``[Q, D]``.

    With ``drop_own``, the document with a query's own id is left out, and k others are returned.
    """
    found = search(queries, k + drop_own)
    run = run_from_rows(query_ids, document_ids, *found)
    return without_own(run, k) if drop_own else run


def bm25_run(
    queries: Sequence[str],
    documents: Iterable[str],
    *,
    query_ids: Sequence[str],
    document_ids: Sequence[str],
    k: int,
    drop_own: bool = False,
) -> Run:
    """Searches document texts for query texts by BM25; for ``drop_own``, see `dense_run`."""
    found = BM25(documents).search(queries, k + drop_own)
    run = run_from_rows(query_ids, document_ids, *found)
    return without_own(run, k) if drop_own else run


def score(qrels: Qrels, run: Run) -> ScoredRun:
    return ScoredRun(run, evaluate(qrels, run, MEASURES))


def write_results(
    folder: Path,
    systems: Mapping[str, ScoredRun],
    *,
    baseline: str,
    split: str,
    queries: Mapping[str, str] | None = None,
    **facts: Any,
) -> dict:
    """Writes the data behind a results table: TREC runs, the values of each query, and the tests.

    Args:
      folder: folder for ``<system>.<split>.trec``, ``per_query.<split>.tsv`` and
        ``results.<split>.json``.
      systems: scored runs by name, in the table's order.
      baseline: name of the system that every other one is tested against.
      split: name of the split, which is part of the file names.
      queries: query id -> text, written to ``queries.<split>.json``; None writes no such file.
      facts: additional entries of ``results.<split>.json`` that describe the systems.

    Returns:
      The content of ``results.<split>.json``: among others, ``means`` by system and measure, and
      ``tests``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if queries is not None:
        write_json(folder / f"queries.{split}.json", dict(queries))
    lines: list[str] = ["\t".join(["system", "query", *MEASURES])]
    for name, system in systems.items():
        write_run(folder / f"{name}.{split}.trec", system.run, tag=name)
        lines += [
            "\t".join([name, query, *(repr(system.values[m][query]) for m in MEASURES)])
            for query in system.values[MEASURES[0]]
        ]
    write_text(folder / f"per_query.{split}.tsv", "\n".join(lines) + "\n")
    results = {
        "split": split,
        **facts,
        "queries": len(systems[baseline].values[MEASURES[0]]),
        "means": {n: {m: s.mean(m) for m in MEASURES} for n, s in systems.items()},
        "tests": {
            f"{name} - {baseline}": {
                m: asdict(paired_test(systems[baseline].values[m], system.values[m]))
                for m in MEASURES
            }
            for name, system in systems.items()
            if name != baseline
        },
    }
    write_json(folder / f"results.{split}.json", results)
    return results
