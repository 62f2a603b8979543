"""Formats results as a text table, aligned for a terminal or as Markdown."""

from collections.abc import Mapping, Sequence

from selfdistill_jax.retrieval.metrics import mean
from selfdistill_jax.retrieval.significance import paired_test

Cell = str | float | int | None


def format_table(
    rows: Sequence[Sequence[Cell]], columns: Sequence[str], *, markdown: bool = False
) -> str:
    """Formats a table with the first column left-aligned and the others right-aligned.

    Args:
      rows: rows with one cell per column; a float is shown with 4 decimals, None as empty.
      columns: titles of the columns.
      markdown: whether to write Markdown instead of aligned text.

    Raises:
      ValueError: a row has more or fewer cells than there are columns.

    Example:
      >>> print(format_table([["bm25", 0.31234], ["ours", 0.4]], ["system", "nDCG@10"]))
      system  nDCG@10
      ------  -------
      bm25     0.3123
      ours     0.4000
    """
    table = [list(columns), *([_text(cell) for cell in row] for row in rows)]
    if markdown:
        table = [[cell.replace("|", "\\|") for cell in row] for row in table]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    if markdown:
        widths = [max(width, 3) for width in widths]  # a Markdown rule needs three characters
        rule = [
            "-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)
        ]
    else:
        rule = ["-" * width for width in widths]
    lines = []
    for row in [table[0], rule, *table[1:]]:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(cells)} |" if markdown else "  ".join(cells).rstrip())
    return "\n".join(lines)


def results_table(
    systems: Mapping[str, Mapping[str, Mapping[str, float]]],
    *,
    baseline: str | None = None,
    measure: str = "nDCG@10",
    markdown: bool = False,
) -> str:
    """Formats the means of every measure per system, with a test of one measure.

    Args:
      systems: name -> measure -> query id -> value from `metrics.evaluate`, for the same queries.
      baseline: name of the system that the others are tested against; None for no test.
      measure: measure to test; if it was not computed, the first one is tested.
      markdown: see `format_table`.

    Returns:
      A table with the columns system, all measures, the difference from the baseline and its p
      value (`paired_test`'s randomization test, not corrected for the number of systems).

    Example:
      >>> values = {"nDCG@10": {"q1": 0.5, "q2": 0.25}}
      >>> print(results_table({"start": values, "tuned": values}, baseline="start"))
      system  nDCG@10  diff nDCG@10       p
      ------  -------  ------------  ------
      start    0.3750
      tuned    0.3750       +0.0000  1.0000
    """
    measures = list(next(iter(systems.values())))
    measure = measure if measure in measures else measures[0]
    columns, rows = ["system", *measures], []
    if baseline is not None:
        columns += [f"diff {measure}", "p"]
    for name, values in systems.items():
        row: list[Cell] = [name, *(mean(values[m]) for m in measures)]
        if baseline is not None and name == baseline:
            row += [None, None]
        elif baseline is not None:
            test = paired_test(systems[baseline][measure], values[measure])
            row += [f"{test.mean_difference:+.4f}", test.p_randomization]
        rows.append(row)
    return format_table(rows, columns, markdown=markdown)


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    return f"{cell:.4f}" if isinstance(cell, float) else str(cell)
