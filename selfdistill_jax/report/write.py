"""Writes the report of a finished run: result.txt, the model card and ``report.html``."""

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
    """Writes a finished run's report into its folder, with ``result.txt`` last.

    Args:
      folder: the run's folder.

    Returns:
      The result as text, the content of ``result.txt``.

    Raises:
      InputError: the folder does not hold a finished run.
    """
    # Imported here because it imports matplotlib, which would add 1.5 s to every start.
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
    # The model card gets no paths: it may be published, and they exist only on this machine.
    text = f"{found}\nmodel:  {folder / MODEL}\n"
    if (folder / ADAPTER).is_dir():
        text += f"adapter: {folder / ADAPTER}\n"
    text += f"report: {folder / REPORT}\n"
    write_html(folder / REPORT, run, text)
    write_text(folder / RESULT, text)
    return text
