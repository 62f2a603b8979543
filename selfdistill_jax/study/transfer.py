"""Shows the change of quality on collections that a run was not trained on."""

import json
from typing import NamedTuple

import numpy as np

from selfdistill_jax.retrieval.evaluation import MEASURES
from selfdistill_jax.retrieval.text_table import format_table
from selfdistill_jax.study.analysis import Interval, interval, tested
from selfdistill_jax.study.definition import Study
from selfdistill_jax.study.table import Table


class Transfer(NamedTuple):
    """Holds the change on one collection of an encoder trained on another one.

    Attributes:
      trained_on, tested_on: names of the collections.
      start: the first of `MEASURES` of the start encoder.
      change: the trained encoder's difference to it, over seeds.
      similarity: mean cosine of two documents of ``tested_on`` under the start encoder.
    """

    trained_on: str
    tested_on: str
    start: float
    change: Interval
    similarity: float


def transfers(study: Study, table: Table, method: str) -> list[Transfer]:
    """Returns the changes on other collections of all tested runs of a method."""
    found = []
    for trained_on in study.collections:
        results = tested(study, table, trained_on, method)
        runs = [json.loads(result.texts.get("retention") or "{}") for result in results]
        for tested_on in dict.fromkeys(name for run in runs for name in run):
            own = [run[tested_on] for run in runs if tested_on in run]
            changes = np.array([one["trained"] - one["start"] for one in own])
            found.append(
                Transfer(
                    trained_on,
                    tested_on,
                    own[0]["start"],
                    interval(changes),
                    own[0]["similarity"],
                )
            )
    return found


def correlation(found: list[Transfer]) -> tuple[float, float, float, int] | None:
    """Correlates the change with the similarity of the tested collection's documents.

    Each tested collection counts once, with the mean change over the collections trained on.

    Returns:
      Pearson's r, its 95 % interval by Fisher's transformation, and the number of collections;
      None for fewer than four.
    """
    names = dict.fromkeys(one.tested_on for one in found)
    if len(names) < 4:
        return None
    points = [
        (np.mean([one.change.mean for one in found if one.tested_on == name]),
         next(one.similarity for one in found if one.tested_on == name))
        for name in names
    ]  # fmt: skip
    r = float(np.corrcoef(np.array(points).T)[0, 1])
    half = 1.96 / (len(points) - 3) ** 0.5
    return r, *np.tanh(np.arctanh(r) + np.array([-half, half])), len(points)


def transfer_section(study: Study, table: Table) -> list[str]:
    """Returns the lines of a page's section; none if no run was tested on other collections."""
    lines = []
    for method in study.methods:
        found = transfers(study, table, method)
        if not found:
            continue
        names = list(dict.fromkeys(one.tested_on for one in found))
        cells = {(one.trained_on, one.tested_on): str(one.change) for one in found}
        rows = [
            [trained_on, *(cells.get((trained_on, name), "") for name in names)]
            for trained_on in dict.fromkeys(one.trained_on for one in found)
        ]
        starts = {one.tested_on: one for one in found}
        rows.append(["start encoder", *(f"{starts[name].start:.4f}" for name in names)])
        similarity = [f"{starts[name].similarity:.3f}" for name in names]
        rows.append(["mean cosine of documents", *similarity])
        table_of_rows = format_table(rows, ["trained on", *names], markdown=True)
        lines += ["", f"### {method}", "", table_of_rows]
        fit = correlation(found)
        if fit is not None:
            r, low, high, n = fit
            sentence = (
                f"Correlation of the change with the mean cosine of documents, over {n} "
                f"collections: {r:+.2f} (95 % interval {low:+.2f} to {high:+.2f})."
            )
            lines += ["", sentence]
    if not lines:
        return []
    text = (
        f"Change of {MEASURES[0]} of an encoder trained on one collection (row) and tested on "
        "another (column), mean ± 95 % over seeds."
    )
    return ["", "## On other collections", "", text, *lines]
