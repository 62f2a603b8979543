"""Ends a run whose loss is not finite, and warns when the encoder makes all documents alike.

Self-distillation can collapse in this way: the more alike documents are, the closer a target is to
1. Margins follow their targets, so the loss may fall while the encoder gets worse.
"""

import math

from selfdistill_jax.errors import InputError
from selfdistill_jax.progress import LOG

HINT_LOWER_LR = "lower config.train.learning_rate or set config.train.clip_norm"


class NotFiniteError(InputError):
    """Reports parameters whose vectors are not finite."""


class Alarm:
    """Watches the metrics of every step.

    Args:
      limit: highest mean cosine of a batch's documents without a warning, see `losses.summaries`.
      stop: whether the run ends when the limit is passed.

    Attributes:
      message: why the run has to end; empty if it does not.
      not_finite: whether it ended because a value was not finite.
    """

    def __init__(self, limit: float, *, stop: bool):
        self._limit, self._stop = limit, stop
        self._above = False
        self.message, self.not_finite = "", False

    def update(self, step: int, loss: float, cosine: float) -> None:
        """Checks a step's loss, and the mean cosine of its documents.

        It warns when the cosine passes the limit, and again only after a fall below the limit.
        """
        if not math.isfinite(loss):
            self.diverged(f"loss of {loss} at step {step}")
            return
        above = cosine > self._limit  # False for the NaN of a batch without documents
        if above and not self._above:
            what = (
                f"collapse at step {step}: the mean cosine of a batch's documents is {cosine:.3f}, "
                f"above config.train.collapse_cosine {self._limit:g}"
            )
            LOG.warning(
                "Warning: %s. To keep documents apart, lower config.train.learning_rate or, with a "
                "loss that computes its own target, take config.train.target 'detached' or 'start'",
                what,
            )
            if self._stop:
                self.message = what
        self._above = above

    def diverged(self, what: str) -> None:
        """Ends the run because a value is not finite."""
        LOG.warning("Warning: %s; training ends here. Next time, %s", what, HINT_LOWER_LR)
        self.message, self.not_finite = what, True
