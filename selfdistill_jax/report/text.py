"""Formats the result of a finished run as text: values, significance test and remarks."""

import textwrap
from collections.abc import Mapping
from typing import Any

from selfdistill_jax.report.diagnosis import diagnose
from selfdistill_jax.report.finished_run import FinishedRun
from selfdistill_jax.retrieval.evaluation import MEASURES
from selfdistill_jax.retrieval.significance import PairedTest, paired_test
from selfdistill_jax.retrieval.text_table import format_table, results_table

# By config.evaluation.split.
_NOT_EVALUATED = {
    "none": "config.evaluation.split is none, so the result was not evaluated.",
    "dev": "The collection has no dev split, so the result was not evaluated.",
    "test": "The collection has neither a test nor a dev split: nothing was evaluated.",
}


def result_text(run: FinishedRun) -> str:
    """Returns the table of all systems, the test of trained against start, and remarks."""
    lines = []
    if run.values:
        start, trained = (run.values[name][MEASURES[0]] for name in ("start", "trained"))
        lines += [
            f"{run.collection}, {run.split}: {len(start):,} queries, "
            f"{run.num_documents:,} documents",
            "",
            results_table(run.values, baseline="start"),
            "",
            describe_test(paired_test(start, trained)),
        ]
        if run.split == "dev":
            lines.append(
                "There is no test split: these values are on dev, which also chose the best model."
            )
    else:
        wanted = run.config.get("evaluation", {}).get("split", "test")
        lines.append(_NOT_EVALUATED[wanted])
    if run.ended:
        lines.append(f"Training was ended by a {run.ended}.")
    lines += describe_choice(run)
    for facts in run.retention:
        lines += ["", describe_retention(facts)]
    findings = diagnose(run)
    if findings:
        lines += ["", "Findings:"]
        for finding in findings:
            lines += textwrap.wrap(finding, 88, initial_indent="- ", subsequent_indent="  ")
    return "\n".join([*lines, ""])


def describe_choice(run: FinishedRun) -> list[str]:
    """Returns lines that say which weights ``model/`` holds, and why."""
    if run.best_step == 0:
        return [
            "No evaluation on dev was better than the start encoder's: model/ holds that encoder."
        ]
    if not run.choice:
        return []
    alpha, measure = run.choice["alpha"], MEASURES[0]
    rows = [["start (α = 0)", run.choice["start"][measure], ""]]
    for row in run.choice["candidates"]:
        gain = f"{row['gain']:+.4f} ± {row['standard_error']:.4f}"
        rows.append([f"α = {row['alpha']:g}", row[measure], gain])
    table = format_table(rows, ["start + α (trained − start)", measure, "gain ± standard error"])
    if alpha:
        why = f"model/ holds α = {alpha:g}, the best of them."
    else:
        why = (
            f"No gain exceeds {run.choice['needed_errors']:.1f} standard errors, which the best of "
            "several models\ncan have by luck: model/ holds the start encoder."
        )
    where = f"dev ({run.choice['queries']:,} queries, {run.choice['documents']:,} documents)"
    return ["", f"Final weights, chosen on {where}:", "", table, "", why]


def describe_retention(facts: Mapping[str, Any]) -> str:
    """Returns a sentence on the quality on another collection, before and after training."""
    test = facts["test"]
    before, after = (facts[name][MEASURES[0]] for name in ("start", "trained"))
    return (
        f"Retention on {facts['collection']} ({facts['queries']:,} queries, "
        f"{facts['documents']:,} documents): {MEASURES[0]} {before:.4f} before, {after:.4f} after\n"
        f"training ({test['mean_difference']:+.4f}, 95 % interval {test['ci_low']:+.4f} to "
        f"{test['ci_high']:+.4f})."
    )


def describe_test(test: PairedTest) -> str:
    """Returns two lines that describe a paired test of nDCG@10, trained against start."""
    return (
        f"trained − start: {test.mean_difference:+.4f} {MEASURES[0]} "
        f"(95 % interval {test.ci_low:+.4f} to {test.ci_high:+.4f}),\n"
        f"better on {test.wins} queries, worse on {test.losses}, equal on {test.ties}; "
        f"paired t-test p = {test.p_t:.1e}"
    )
