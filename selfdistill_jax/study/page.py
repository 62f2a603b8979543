"""Writes the page of a study from its table."""

import json
from pathlib import Path

import numpy as np

from selfdistill_jax.io import write_text
from selfdistill_jax.retrieval.evaluation import MEASURES
from selfdistill_jax.retrieval.text_table import format_table
from selfdistill_jax.study.analysis import Comparison, compare, over_collections
from selfdistill_jax.study.definition import Run, Study
from selfdistill_jax.study.table import QUERIES, RUNS, Table
from selfdistill_jax.study.transfer import transfer_section

PAGE, FIGURE = "README.md", "differences.svg"


def write_page(study: Study, table: Table, folder: Path) -> str:
    """Writes the page and its figure into a study's folder.

    Returns:
      The page as text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = compare(study, table)
    tests = sum(bool(len(r.values)) for r in table.results.values())
    wanted = len(study.collections) * len(study.methods) * len(study.seeds)
    lines = [
        f"# {study.title}",
        "",
        study.text,
        "",
        f"Made by `python -m selfdistill_jax.study --study=studies/{study.name}.py "
        f"--output=docs/studies/{study.name} --page` from [{RUNS}]({RUNS}) and "
        f"[{QUERIES}]({QUERIES}): {tests} of {wanted} tested runs, "
        f"{len(table.results) - tests} others for tuning. All values are {MEASURES[0]} on test. "
        "Seconds include the first step's compilation, on machines that other work shared: they "
        "show orders of magnitude only.",
    ]
    if found:
        lines += ["", *_summary(study, found)]
        for collection in dict.fromkeys(row.collection for row in found):
            lines += ["", *_collection(study, collection, found)]
        _draw(study, found, folder / FIGURE)
    else:
        lines += ["", "No method has been compared with the baseline yet."]
    lines += transfer_section(study, table)
    lines += _tuning(study, table)
    text = "\n".join(lines) + "\n"
    write_text(folder / PAGE, text)
    return text


def _summary(study: Study, found: list[Comparison]) -> list[str]:
    rows = [
        [method, change.count, f"{change.mean:+.4f}", _half(change.half_width)]
        for method, change in over_collections(found).items()
        if method != study.baseline
    ]
    columns = ["method", "collections", f"mean difference to {study.baseline}", "95 % interval ±"]
    return [
        "## Over collections",
        "",
        "Each collection counts once, as one draw from the collections that might be met. "
        "The interval is Student's.",
        "",
        format_table(rows, columns, markdown=True),
        "",
        f"![Differences to {study.baseline}]({FIGURE})",
    ]


def _collection(study: Study, collection: str, found: list[Comparison]) -> list[str]:
    own = [row for row in found if row.collection == collection]
    rows = []
    for row in sorted(own, key=lambda row: -row.value.mean):
        difference, p = "", ""
        if row.method != study.baseline:
            difference = f"{row.difference:+.4f} ({row.ci_low:+.4f} to {row.ci_high:+.4f})"
            p = f"{row.p:.1e}"
        seconds = row.train_seconds.mean
        rows.append(
            [
                row.method,
                _tuned(study, row.method, row.tuned),
                str(row.value),
                difference,
                p,
                f"{seconds:.0f}",
            ]
        )
    columns = [
        "method", "tuned on dev", f"{MEASURES[0]}, mean ± 95 % over seeds",
        f"difference to {study.baseline} (95 % over queries)", "p, Holm", "seconds of steps",
    ]  # fmt: skip
    text = f"The start encoder reaches {own[0].start:.4f}."
    if study.tuned or study.own_tuned:
        text += " A value marked * is at the end of the range that was tried."
    return [f"## {collection}", "", text, "", format_table(rows, columns, markdown=True)]


def _tuning(study: Study, table: Table) -> list[str]:
    """Returns a section with the values on dev for all tuned settings that were tried."""
    lines = []
    for collection in study.collections:
        rows = []
        for method in study.methods:
            values = {}
            for tuned in study.grid(method):
                run = Run(collection, method, "tune", study.seeds[0], tuned)
                result = table.find(run)
                if result is not None:
                    values[run.key()[-1]] = result.numbers.get("dev", 0.0)
            if values:
                best = max(values.values()) if len(values) == len(study.grid(method)) else None
                cells = [
                    f"{', '.join(f'{v:g}' for v in json.loads(tuned).values())}: "
                    f"{_bold(value, value == best)}"
                    for tuned, value in values.items()
                ]
                names = ", ".join(key.rpartition(".")[2] for key in study.tuned_of(method))
                rows.append([method, names, "; ".join(cells)])
        if rows:
            titles = ["method", "setting", f"value: {MEASURES[0]} on dev"]
            table_of_rows = format_table(rows, titles, markdown=True)
            lines += ["", f"On {collection}:", "", table_of_rows]
    if not lines:
        return []
    text = f"{MEASURES[0]} on dev at the best evaluated step; bold: the value that was chosen."
    return ["", "## Tuning", "", text, *lines]


def _bold(value: float, best: bool) -> str:
    return f"**{value:.4f}**" if best else f"{value:.4f}"


def _tuned(study: Study, method: str, tuned: str) -> str:
    parts = []
    for key, value in json.loads(tuned).items():
        tried = study.tuned_of(method).get(key, ())
        edge = "*" if len(tried) > 1 and value in (min(tried), max(tried)) else ""
        parts.append(f"{key.rpartition('.')[2]} {value:g}{edge}")
    return ", ".join(parts)


def _half(width: float) -> str:
    return "" if np.isnan(width) else f"{width:.4f}"


def _draw(study: Study, found: list[Comparison], path: Path) -> None:
    # Imported here because they import matplotlib, which takes 1.5 s.
    from matplotlib import rc_context

    from selfdistill_jax.report.figures import BLUE, GREY, ORANGE, STYLE, new_figure, svg

    methods = [m for m in reversed(study.methods) if m != study.baseline]
    overall, label = over_collections(found), f"difference in {MEASURES[0]} to {study.baseline}"
    with rc_context(STYLE):
        figure, axes = new_figure(label, "", height=1.2 + 0.35 * len(methods))
        for place, method in enumerate(methods):
            own = [row.difference for row in found if row.method == method]
            if own:
                axes.plot(own, [place] * len(own), "o", color=GREY, markersize=5, alpha=0.7)
                width = np.nan_to_num(overall[method].half_width)
                mean = overall[method].mean
                axes.errorbar(mean, place, xerr=width, fmt="D", color=BLUE, capsize=3)
        axes.axvline(0, color=ORANGE, lw=1)
        axes.set_yticks(range(len(methods)), methods)
        write_text(path, svg(figure))
