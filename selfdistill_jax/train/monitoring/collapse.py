"""Warns when self-distillation collapses: the encoder makes all documents alike.

A target moves towards 1 as documents become more alike, and margins follow it: the loss may fall
while the encoder gets worse.
"""

from selfdistill_jax.progress import LOG


class CollapseAlarm:
    """Warns when the documents' mean cosine rises above a limit.

    Args:
      limit: highest mean cosine of a batch's documents without a warning, see `losses.summaries`.
      stop: whether the run ends when the limit is passed.
    """

    def __init__(self, limit: float, *, stop: bool):
        self._limit, self._stop = limit, stop
        self._above = False
        self.message = ""  # why the run has to end; empty if it does not

    def update(self, step: int, cosine: float) -> None:
        """Logs a warning when the limit is passed, and again only after a fall below the limit."""
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
