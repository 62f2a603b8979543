"""Selects the best model of a run on dev, and ends a run that no longer improves."""

from typing import NamedTuple

import numpy as np

from selfdistill_jax.encoder.apply import Params
from selfdistill_jax.progress import LOG
from selfdistill_jax.retrieval.eval_set import EvalSet
from selfdistill_jax.retrieval.evaluation import MEASURES
from selfdistill_jax.train.evaluation.best_model import BestModel
from selfdistill_jax.train.evaluation.evaluator import Evaluator
from selfdistill_jax.train.mesh import to_host
from selfdistill_jax.train.model import TrainableParams
from selfdistill_jax.train.monitoring.run_log import RunLog
from selfdistill_jax.train.processes import is_first

SELECTION = MEASURES[0]  # the measure on dev by which the best model is chosen


class Selection(NamedTuple):
    """Holds the state of model selection, which is saved in every checkpoint."""

    best: float = float("-inf")  # the highest SELECTION on dev
    best_step: int = -1
    without_gain: int = 0  # evaluations since the best one

    def update(self, step: int, value: float) -> "Selection":
        if value > self.best:
            return Selection(value, step, 0)
        return self._replace(without_gain=self.without_gain + 1)


class Selector:
    """Evaluates on dev and writes the best model.

    Args:
      dev: the eval set; None without a dev split, and then the last model counts as the best.
      evaluate: evaluates parameters.
      trained: merges trained parameters into the encoder's.
      best_model: writes the model.
      patience: evaluations without improvement that end the run; 0: never.
    """

    def __init__(
        self,
        dev: EvalSet | None,
        evaluate: Evaluator,
        trained: TrainableParams,
        best_model: BestModel,
        *,
        patience: int,
    ):
        self._dev, self._evaluate, self._trained = dev, evaluate, trained
        self._best_model, self._patience = best_model, patience

    def select(self, step: int, trained: Params, selection: Selection, log: RunLog) -> Selection:
        """Evaluates on dev and writes the model if it is the best; without dev, always writes it.

        Args:
          step: number of the last step taken.
          trained: the trained parameters, on devices.
          selection: the selection so far.
          log: receives the values.

        Returns:
          The selection including this step.

        Raises:
          NotFiniteError: the encoder's vectors are not finite.
        """
        if self._dev is None and not step:
            return selection._replace(best_step=0)  # see write_start
        own = to_host(trained)
        params = self._trained.merged(own)
        if self._dev is None:
            self._evaluate.check(params, f"Check, step {step}")
            self._write(own, params, f"step {step}, the last; the collection has no dev split")
            return selection._replace(best_step=step)
        label = f"Dev, step {step}"
        if step:
            scored = self._evaluate(self._dev, params, label)
        else:
            scored = self._evaluate.start(self._dev, label)
        values = {measure: scored.mean(measure) for measure in MEASURES}
        of_queries = [value for _, value in sorted(scored.values[SELECTION].items())]
        log.write("dev", step, {**values, "values": np.round(of_queries, 4)})
        new = selection.update(step, values[SELECTION])
        best = new.best_step == step
        LOG.info(
            "Dev at step %d: %s%s",
            step, ", ".join(f"{m} {v:.4f}" for m, v in values.items()), " (best)" if best else "",
        )  # fmt: skip
        if best:
            note = f"step {step}, the best by {SELECTION} on dev, {new.best:.4f}"
            self._write(own, params, note)
        return new

    def is_over(self, selection: Selection) -> bool:
        """Returns whether too many evaluations brought no improvement, and logs it if so."""
        if not self._patience or selection.without_gain < self._patience:
            return False
        LOG.info(
            "Stopping early: no better dev %s in %d evaluations; the best was %.4f at step %d",
            SELECTION, selection.without_gain, selection.best, selection.best_step,
        )  # fmt: skip
        return True

    def write_start(self) -> None:
        """Writes the start encoder if no model was written because no step was evaluated."""
        if not self._best_model.exists():
            start = self._trained.start
            note = "step 0: the run ended before any other step was evaluated"
            self._write(start, self._trained.merged(start), note)

    def _write(self, own: Params, params: Params, note: str) -> None:
        if is_first():
            self._best_model.write(own, params, note)
