"""Prepares a process that trains: its signals, and the cache of compiled programs."""

import signal

import jax

from selfdistill_jax.data.cache import cache_folder
from selfdistill_jax.progress import LOG


def keep_compiled() -> None:
    """Makes JAX store compiled programs in the user's cache, so later starts need not compile."""
    if jax.config.jax_compilation_cache_dir is None:  # ty: ignore[missing-attribute]
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


class StopSignal:
    """Stops the run on Ctrl-C or SIGTERM: after the current step, with a checkpoint.

    A second signal stops at once. After the last step, the run stops before the next evaluation,
    and the same command resumes with that evaluation.

    With several processes, this class ignores signals, because a process that stopped alone would
    leave the others waiting. jax.distributed handles SIGTERM and stops all processes at the same
    step (`Checkpoints.preempted`).

    Attributes:
      signal: number of the signal that arrived; None before that.
    """

    def __init__(self):
        self.signal: int | None = None
        if jax.process_count() == 1:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._arrived)

    def _arrived(self, number: int, frame) -> None:
        self.signal = number
        for again in (signal.SIGINT, signal.SIGTERM):
            # The system handles the next signal, because Python does not see a signal while a
            # compiled program runs, which can take minutes.
            signal.signal(again, signal.SIG_DFL)
        LOG.info("Stopping after this step or evaluation; a second signal stops at once")

    def __call__(self, step: int = 0) -> bool:
        """Returns whether a signal arrived."""
        return self.signal is not None

    @property
    def exit_status(self) -> int:
        """The status that a shell reports for a process ended by the signal."""
        return 128 + (self.signal or signal.SIGTERM)
