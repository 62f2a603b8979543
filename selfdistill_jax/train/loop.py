"""Runs the training loop of every loss and encoder: steps, evaluations on dev, checkpoints."""

import math
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple

import jax
import numpy as np

from selfdistill_jax.progress import LOG, Progress
from selfdistill_jax.train.checkpoint import Checkpoints
from selfdistill_jax.train.compile_ahead import AheadOfTimeStep
from selfdistill_jax.train.evaluation.selection import Selection
from selfdistill_jax.train.monitoring.alarm import Alarm, NotFiniteError
from selfdistill_jax.train.monitoring.hardware import process_seconds
from selfdistill_jax.train.monitoring.run_log import RunLog
from selfdistill_jax.train.monitoring.throughput import RunStats
from selfdistill_jax.train.step import TrainState


class LoopSettings(NamedTuple):
    """Holds the settings of the loop, see ``config.train``."""

    steps: int
    batch_size: int
    schedule: Callable[[int], Any]
    checkpoint_every: int
    evaluate_every: int
    collapse_cosine: float
    collapse_stop: bool


class Outcome(NamedTuple):
    """Describes how the steps ended.

    Attributes:
      stopped: whether the run was stopped before its last step; it can be resumed there.
      last_step: number of the last step taken.
      ended: why training ended early for good; empty if it did not.
      diverged: whether it ended because a value was not finite.
    """

    stopped: bool
    last_step: int
    ended: str
    diverged: bool


def run_steps(
    settings: LoopSettings,
    programs: AheadOfTimeStep,
    state: TrainState,
    batches: Any,
    *,
    selector: Any,
    checkpoints: Checkpoints,
    log: RunLog,
    stats: RunStats,
    flops: Callable[[np.ndarray], float],
    stop: Callable[[int], bool],
) -> Outcome:
    """Runs the remaining steps.

    Args:
      settings: the run's settings.
      programs: the compiled step for each shape of a batch.
      state: the start state, which the last checkpoint replaces.
      batches: the run's `TrainingBatches`; only ``iterate`` is used.
      selector: the run's `Selector`; evaluates on dev and writes the best model.
      checkpoints, log, stats: the run's.
      flops: returns a step's operations, given the lengths ``[N]`` of its inputs.
      stop: called after every step; True saves a checkpoint and ends early.
    """
    selection, begin = Selection(), checkpoints.latest() or 0
    if begin:
        state, selection = checkpoints.restore(begin, state)
    else:
        selection = selector.select(0, state.params, selection, log)
    alarm = Alarm(settings.collapse_cosine, stop=settings.collapse_stop)
    with (
        closing(batches.iterate(begin)) as iterator,
        Progress("Training", settings.steps, unit="steps", start=begin) as bar,
    ):
        records = _Records(settings, begin, alarm, log, stats, flops, bar)
        stopped = False
        for number in range(begin + 1, settings.steps + 1):
            if selector.is_over(selection):
                break
            with stats.timed("data"):
                batch = next(iterator)
            with stats.timed("compile"):
                step = programs.for_batch(batch)
            began = process_seconds()
            state, metrics = step(state, batch)
            records.flush()  # the previous step's, while this one runs
            if alarm.message:
                break
            records.add(number, batch, metrics)
            if number == begin + 1:
                jax.block_until_ready(metrics)
                stats.first_step(began, process_seconds())
            last = number == settings.steps
            if number % settings.evaluate_every == 0 or last:
                records.flush()
                if alarm.message:
                    break
                try:
                    selection = selector.select(number, state.params, selection, log)
                except NotFiniteError:
                    alarm.diverged(f"encoder whose vectors are not finite after step {number}")
                    break
                records.restart_clock()
            stopped = not last and (stop(number) or checkpoints.preempted(number))
            if number % settings.checkpoint_every == 0 or last or stopped:
                records.flush()
                if alarm.message:
                    # Not saved: a resumed run would not know why this one ended.
                    stopped = False
                    break
                with stats.timed("checkpoint"):
                    checkpoints.save(number, state, selection)
                records.restart_clock()
            if stopped:
                LOG.info("Stopped at step %d; the same command resumes there", number)
                break
        records.flush()
    stats.compile_seconds = programs.seconds
    return Outcome(stopped, records.last_step, alarm.message, alarm.not_finite)


class _Records:
    """Writes each step's metrics when the device has computed them, while the next step runs."""

    def __init__(
        self, settings: LoopSettings, begin: int, alarm, log: RunLog, stats: RunStats, flops, bar
    ):
        self._settings, self._alarm, self._log, self._bar = settings, alarm, log, bar
        self._stats, self._flops = stats, flops
        self._waiting: tuple[int, Any, Any] | None = None
        self.last_step = begin
        self.restart_clock()

    def restart_clock(self) -> None:
        """Excludes the time since the last step from the seconds of the next one."""
        self._clock = time.monotonic()

    def add(self, number: int, batch: Any, metrics: dict[str, jax.Array]) -> None:
        """Accepts the metrics of a step that may still be running."""
        self._waiting = number, batch, metrics

    def flush(self) -> None:
        """Waits for the step added last, and writes its record."""
        if self._waiting is None:
            return
        number, batch, metrics = self._waiting
        self._waiting, self.last_step = None, number
        values = {k: float(v) if v.ndim == 0 else v for k, v in jax.device_get(metrics).items()}
        self._alarm.update(number, values["loss"], values["document_cosine"])
        if not math.isfinite(values["loss"]):
            return
        now = time.monotonic()
        seconds, self._clock = now - self._clock, now
        values["learning_rate"] = float(np.asarray(self._settings.schedule(number - 1)))
        self._log.write("train", number, values | self._throughput(batch, seconds))
        rate = f"{self._settings.batch_size / seconds:.1f}"
        self._bar.update(1, **{"loss": f"{values['loss']:.4f}", "triplets/s": rate})

    def _throughput(self, batch: Any, seconds: float) -> dict[str, float]:
        processes = jax.process_count()  # their batches are of similar size
        useful, computed = processes * batch.useful_tokens, processes * batch.computed_tokens
        triplets = self._settings.batch_size
        self._stats.step(
            triplets=triplets,
            useful_tokens=useful,
            computed_tokens=computed,
            useful_flops=processes * self._flops(batch.inputs.lengths.reshape(-1)),
            seconds=seconds,
        )
        return {
            "triplets_per_second": round(triplets / seconds, 2),
            "useful_tokens_per_second": round(useful / seconds, 1),
            "padding_share": round(1 - useful / computed, 4),
        }
