"""Writes ``report.html``, a single page that needs no network and no server."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib import rc_context

from selfdistill_jax.io import write_text
from selfdistill_jax.losses import QUANTILES
from selfdistill_jax.report.figures import BLUE, GREY, ORANGE, STYLE, new_figure, svg
from selfdistill_jax.report.finished_run import FinishedRun
from selfdistill_jax.retrieval.evaluation import MEASURES
from selfdistill_jax.train.run_folder import flatten

_SHOWN_QUERIES = 12  # queries in each of the tables of largest gains and losses


def write_html(path: Path, run: FinishedRun, text: str) -> None:
    """Writes a page with a run's curves, its margins and targets, and the change of each query.

    Args:
      path: path of the page.
      run: the finished run.
      text: the run's result as text.
    """
    train = [r for r in run.records if r["kind"] == "train"]
    dev = [r for r in run.records if r["kind"] == "dev"]
    with rc_context(STYLE):
        figures = []
        if all("margin_quantiles" in record for record in train):  # queries have negatives
            past = _curve(train, "past_target", "share of the batch")
            figures = [
                ("Margins and targets over training", _MARGIN_NOTE, _margins(train)),
                ("Margins past their target", "", past),
            ]
        figures += [
            ("Similarity between documents", _COLLAPSE_NOTE, _likeness(run.config, train)),
            ("Loss", "", _curve(train, "loss", "loss")),
        ]
        if dev:
            title = f"{MEASURES[0]} on the dev split"
            curve = _curve(dev, MEASURES[0], MEASURES[0])
            figures.append((title, _dev_note(run.config, dev), curve))
        changed = _changes(run) if run.values else None
        if changed:
            note = f"Change in {MEASURES[0]} of each of {len(changed)} {run.split} queries."
            figures.append(("Change per query", note, _histogram(changed)))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True
    )
    page = environment.get_template("report.html.jinja").render(
        name=run.folder.name,
        text=text,
        figures=figures,
        gained=changed[:_SHOWN_QUERIES] if changed else [],
        lost=[c for c in changed[::-1][:_SHOWN_QUERIES] if c["change"] < 0] if changed else [],
        measure=MEASURES[0],
        settings=flatten(run.config),
    )
    write_text(path, page)


_MARGIN_NOTE = (
    "A triplet's margin is the query's similarity to the positive minus its similarity to the "
    "negative; its target is the similarity of the two documents, (1 + cosine) / 2. Lines are "
    "medians; bands cover the middle half and the middle 90 % of each batch."
)
_COLLAPSE_NOTE = (
    "The mean cosine of two documents of a batch. It rises towards 1 when an encoder collapses, "
    "that is, when all documents, and thus all targets, become alike. The run warns above the "
    "dashed line."
)


def _dev_note(config: Mapping[str, Any], dev: list[dict[str, Any]]) -> str:
    best = max(dev, key=lambda record: record[MEASURES[0]])
    limit = config["evaluation"]["dev_documents"]
    where = f"at most {limit:,} documents" if limit else "the whole collection"
    return (
        f"Measured on dev queries, searched in {where}; these are not test results. "
        f"The best value is {best[MEASURES[0]]:.4f}, at step {best['step']}."
    )


def _curve(records: list[dict[str, Any]], key: str, label: str) -> str:
    figure, axes = new_figure("step", label)
    steps = [r["step"] for r in records]
    marker = "o" if len(steps) < 40 else None
    axes.plot(steps, [r[key] for r in records], color=BLUE, marker=marker, markersize=4)
    return svg(figure)


def _margins(records: list[dict[str, Any]]) -> str:
    figure, axes = new_figure("step", "similarity")
    steps = [r["step"] for r in records]
    middle = QUANTILES.index(0.5)
    for name, color in (("margin", BLUE), ("target", ORANGE)):
        values = np.array([r[f"{name}_quantiles"] for r in records]).reshape(-1, len(QUANTILES)).T
        for low in range(middle):
            axes.fill_between(steps, values[low], values[-1 - low], color=color, alpha=0.15, lw=0)
        axes.plot(steps, values[middle], color=color, label=name)
    axes.legend(frameon=False)
    return svg(figure)


def _likeness(config: Mapping[str, Any], records: list[dict[str, Any]]) -> str:
    figure, axes = new_figure("step", "mean cosine of documents")
    steps, values = [r["step"] for r in records], [r["document_cosine"] for r in records]
    axes.plot(steps, values, color=BLUE)
    axes.axhline(config["train"]["collapse_cosine"], color=ORANGE, lw=1, ls="--")
    axes.set_ylim(min(0.0, *values), 1)
    return svg(figure)


def _histogram(changed: list[dict[str, Any]]) -> str:
    figure, axes = new_figure(f"change in {MEASURES[0]}, trained − start", "queries")
    values = np.array([c["change"] for c in changed])
    bins = np.linspace(-1, 1, 41)
    equal = values == 0
    axes.hist(values[~equal], bins=bins, color=BLUE)
    axes.axvline(0, color=GREY, lw=1)
    axes.set_title(f"{equal.sum()} unchanged queries are not shown", fontsize=10, color=GREY)
    return svg(figure)


def _changes(run: FinishedRun) -> list[dict[str, Any]]:
    """Returns every query with its values before and after training, largest gain first."""
    before, after = (run.values[name][MEASURES[0]] for name in ("start", "trained"))
    rows = [
        {
            "query": run.queries[query],
            "before": before[query],
            "after": after[query],
            "change": after[query] - before[query],
        }
        for query in before
    ]
    return sorted(rows, key=lambda row: -row["change"])
