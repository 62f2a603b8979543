"""Compares the methods of a study: over seeds, over queries, and over collections."""

from typing import NamedTuple

import numpy as np

from selfdistill_jax.retrieval.evaluation import MEASURES
from selfdistill_jax.retrieval.significance import paired_test
from selfdistill_jax.study.definition import Study
from selfdistill_jax.study.table import Result, Table


class Interval(NamedTuple):
    """Holds a mean and the half width of its 95 % interval; NaN with one value."""

    mean: float
    half_width: float
    count: int

    def __str__(self) -> str:
        if np.isnan(self.half_width):
            return f"{self.mean:.4f}"
        return f"{self.mean:.4f} ± {self.half_width:.4f}"


class Comparison(NamedTuple):
    """Holds one method's results on one collection.

    Attributes:
      collection, method: names.
      tuned: the chosen settings, as JSON.
      value: the first of `MEASURES` on test, over seeds.
      start: the same of the start encoder.
      difference: mean difference to the baseline, over queries of means over seeds.
      ci_low, ci_high: 95 % bootstrap interval of that difference, over queries.
      p: p value of the paired t-test over queries, corrected by Holm's method for the methods of
        this collection; NaN for the baseline.
      train_seconds: seconds of all steps, over seeds.
    """

    collection: str
    method: str
    tuned: str
    value: Interval
    start: float
    difference: float
    ci_low: float
    ci_high: float
    p: float
    train_seconds: Interval


def interval(values: np.ndarray) -> Interval:
    """Returns the mean of independent values with Student's 95 % interval.

    Example:
      >>> str(interval(np.array([0.5, 0.6, 0.7])))
      '0.6000 ± 0.2484'
    """
    from scipy import stats  # imported here: takes a second

    n = len(values)
    if n < 2:
        return Interval(float(values.mean()), float("nan"), n)
    error = values.std(ddof=1) / n**0.5
    return Interval(float(values.mean()), float(stats.t.ppf(0.975, n - 1) * error), n)


def holm(p: np.ndarray) -> np.ndarray:
    """Returns p values corrected by Holm's method for the number of tests.

    Example:
      >>> holm(np.array([0.01, 0.04, 0.03])).round(3).tolist()
      [0.03, 0.06, 0.06]
    """
    order = np.argsort(p)
    scaled = p[order] * np.arange(len(p), 0, -1)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return corrected


def compare(study: Study, table: Table) -> list[Comparison]:
    """Returns a comparison for every collection and method that has tested runs."""
    found = []
    for collection in study.collections:
        runs = {m: tested(study, table, collection, m) for m in study.methods}
        runs = {method: results for method, results in runs.items() if results}
        if study.baseline not in runs:
            continue
        base = _of_queries(runs[study.baseline])
        others = [method for method in runs if method != study.baseline]
        tests = {method: paired_test(base, _of_queries(runs[method])) for method in others}
        corrected = holm(np.array([tests[method].p_t for method in others]))
        p = dict(zip(others, corrected, strict=True))
        for method, results in runs.items():
            test = tests.get(method)
            found.append(
                Comparison(
                    collection,
                    method,
                    results[0].key[-1],
                    interval(np.array([r.numbers[MEASURES[0]] for r in results])),
                    results[0].numbers[f"start {MEASURES[0]}"],
                    test.mean_difference if test else 0.0,
                    test.ci_low if test else 0.0,
                    test.ci_high if test else 0.0,
                    float(p.get(method, float("nan"))),
                    interval(np.array([r.numbers["train_seconds"] for r in results])),
                )
            )
    return found


def over_collections(found: list[Comparison]) -> dict[str, Interval]:
    """Returns each method's mean difference to the baseline over collections, with an interval."""
    methods = dict.fromkeys(row.method for row in found)
    return {
        method: interval(np.array([row.difference for row in found if row.method == method]))
        for method in methods
    }


def tested(study: Study, table: Table, collection: str, method: str) -> list[Result]:
    """Returns the results on test of one method, in the order of the seeds."""
    rows = [r for r in table.results.values() if r.key[:3] == (collection, method, "test")]
    rows = [r for r in rows if len(r.values)]
    return sorted(rows, key=lambda r: int(r.key[3]))


def _of_queries(results: list[Result]) -> np.ndarray:
    return np.mean([r.values for r in results], axis=0)
