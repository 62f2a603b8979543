"""The alarm for what self-distillation can fall into: an encoder that finds all documents alike.

A target moves towards 1 as documents grow alike, and margins follow it: the loss may fall while
the encoder loses what it knew.
"""

from selfdistill_jax.progress import LOG


class CollapseAlarm:
    """Warns when the documents' mean cosine rises above a limit.

    Args:
      limit: of the mean cosine of a batch's documents, see `losses.summaries`.
      stop: whether the run is to end there.
    """

    def __init__(self, limit: float, *, stop: bool):
        self._limit, self._stop = limit, stop
        self._above = False
        self.message = ""  # why the run is to end; "": it is not

    def update(self, step: int, cosine: float) -> None:
        """Logs a warning when the limit is passed, and again only after a fall below it."""
        above = cosine > self._limit  # False for the NaN of a batch without documents
        if above and not self._above:
            what = (
                f"collapse at step {step}: the mean cosine of a batch's documents is {cosine:.3f}, "
                f"above config.train.collapse_cosine {self._limit:g}"
            )
            LOG.warning(
                "Warning: %s. A lower config.train.learning_rate keeps documents apart; so does, "
                "for a loss that makes its own target, config.train.target 'detached' or 'start'",
                what,
            )
            if self._stop:
                self.message = what
        self._above = above
