"""Retrieval measures of each query, computed by trec_eval (through `pytrec_eval`)."""

import math
import re
from collections.abc import Mapping, Sequence

import pytrec_eval

from selfdistill_jax.errors import InputError

# This package's name of a measure -> trec_eval's name, which takes the same cut-off.
_NAMES = {"nDCG": "ndcg_cut", "Recall": "recall", "P": "P", "MAP": "map_cut", "MRR": "recip_rank"}


def evaluate(
    qrels: Mapping[str, Mapping[str, int]],
    run: Mapping[str, Mapping[str, float]],
    measures: Sequence[str] = ("nDCG@10", "MRR@10", "Recall@100"),
) -> dict[str, dict[str, float]]:
    """Scores a run with trec_eval's definitions.

    Documents are ordered by `trec.ranking`, not by the ranks in a file. A document is relevant from
    relevance 1 on, and the gain of nDCG is the relevance itself. An unjudged document is not
    relevant. P@k divides by k; MAP@k divides by the number of all relevant documents.

    Args:
      qrels: query id -> document id -> relevance.
      run: query id -> document id -> score.
      measures: names of measures: nDCG, MRR, Recall, P or MAP with a cut-off, as ``nDCG@10``.

    Returns:
      measure -> query id -> value in [0, 1], for every query of `qrels` with a relevant document.
      A query that the run lacks gets 0.0 (trec_eval would leave it out, which flatters the run).
      A query without a relevant document is left out, since every system scores 0 on it
      (pytrec_eval would give 0.0). A query that only the run has is left out.

    Raises:
      InputError: a measure is unknown, or no query has a relevant document.

    Example:
      >>> evaluate({"q": {"a": 1}}, {"q": {"a": 0.1, "b": 0.2}}, ["MRR@10"])
      {'MRR@10': {'q': 0.5}}
    """
    parsed = {measure: _parse(measure) for measure in measures}
    # Converted to plain int and float: pytrec_eval raises TypeError for numpy's types.
    judged = {
        query: {document: int(relevance) for document, relevance in documents.items()}
        for query, documents in qrels.items()
        if any(relevance > 0 for relevance in documents.values())
    }
    if not judged:
        raise InputError("no query has a document with a relevance above 0; check the qrels")
    results = {
        query: {document: float(score) for document, score in run[query].items()}
        for query in judged
        if query in run
    }
    wanted = {name if name == "recip_rank" else f"{name}.{k}" for name, k in parsed.values()}
    found = pytrec_eval.RelevanceEvaluator(judged, wanted).evaluate(results)
    return {
        measure: {query: _value(found.get(query), name, k) for query in judged}
        for measure, (name, k) in parsed.items()
    }


def mean(values: Mapping[str, float] | Sequence[float]) -> float:
    """Returns the mean of one measure's values over the queries.

    Raises:
      ValueError: there are no values.

    Example:
      >>> mean({"q1": 1.0, "q2": 0.5})
      0.75
    """
    values = list(values.values()) if isinstance(values, Mapping) else list(values)
    if not values:
        raise ValueError("the mean of no queries is undefined")
    return float(math.fsum(values) / len(values))


def _parse(measure: str) -> tuple[str, int]:
    # The cut-off is checked here because trec_eval ends the whole process if it is 0.
    match = re.fullmatch(r"(\w+)@([1-9]\d{0,5})", measure, re.ASCII)
    if not match or match[1] not in _NAMES:
        known = ", ".join(f"{name}@k" for name in _NAMES)
        raise InputError(f"unknown measure {measure!r}; expected {known} with k from 1 to 999999")
    return _NAMES[match[1]], int(match[2])


def _value(found: Mapping[str, float] | None, name: str, k: int) -> float:
    if found is None:
        return 0.0
    if name == "recip_rank":
        # trec_eval accepts a cut-off for this measure but ignores it. The value is 1 / rank, which
        # tells whether the first relevant document is among the first k.
        value = found[name]
        return value if value and round(1 / value) <= k else 0.0
    return found[f"{name}_{k}"]
