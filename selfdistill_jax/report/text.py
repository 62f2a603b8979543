"""Formats the result of a finished run as text: values, significance test and remarks."""

from selfdistill_jax.report.finished_run import FinishedRun
from selfdistill_jax.retrieval.evaluation import MEASURES
from selfdistill_jax.retrieval.significance import PairedTest, paired_test
from selfdistill_jax.retrieval.text_table import results_table


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
        lines.append("The collection has neither a test nor a dev split: nothing was evaluated.")
    if run.ended:
        lines.append(f"Training was ended by a {run.ended}.")
    if run.best_step == 0:
        lines.append(
            "No evaluation on dev was better than the start encoder's: model/ holds that encoder."
        )
    return "\n".join([*lines, ""])


def describe_test(test: PairedTest) -> str:
    """Returns two lines that describe a paired test of nDCG@10, trained against start."""
    return (
        f"trained − start: {test.mean_difference:+.4f} {MEASURES[0]} "
        f"(95 % interval {test.ci_low:+.4f} to {test.ci_high:+.4f}),\n"
        f"better on {test.wins} queries, worse on {test.losses}, equal on {test.ties}; "
        f"paired t-test p = {test.p_t:.1e}"
    )
