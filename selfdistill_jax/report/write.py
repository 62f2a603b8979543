"""Writes the pages of a finished run: the result, the model's card, ``report.html``."""

from pathlib import Path

from selfdistill_jax.checkpoints.model_card import set_evaluation
from selfdistill_jax.io import write_text
from selfdistill_jax.report.finished_run import read_finished_run
from selfdistill_jax.report.text import result_text
from selfdistill_jax.retrieval.evaluation import MEASURES
from selfdistill_jax.retrieval.metrics import mean
from selfdistill_jax.train.model import ADAPTER, MODEL
from selfdistill_jax.train.run_folder import RESULT

REPORT = "report.html"


def write_report(folder: Path) -> str:
    """Writes a finished run's pages into its folder, ``result.txt`` last.

    Args:
      folder: the run's.

    Returns:
      The result as text, which ``result.txt`` holds.

    Raises:
      InputError: the folder is no finished run's.
    """
    # Only here: it brings matplotlib, 1.5 s of every start.
    from selfdistill_jax.report.html import write_html

    run = read_finished_run(folder)
    found = result_text(run)
    means = {m: mean(run.values["trained"][m]) for m in MEASURES} if run.values else {}
    set_evaluation(
        folder / MODEL / "README.md",
        f"\n\n```\n{found}```",
        means=means,
        collection=run.collection,
        split=run.split,
    )
    # Paths stay out of the card, which leaves this machine.
    text = f"{found}\nmodel:  {folder / MODEL}\n"
    if (folder / ADAPTER).is_dir():
        text += f"adapter: {folder / ADAPTER}\n"
    text += f"report: {folder / REPORT}\n"
    write_html(folder / REPORT, run, text)
    write_text(folder / RESULT, text)
    return text
