"""Finds the best recipe for your texts by short runs, then trains with it.

    python -m selfdistill_jax.choose --config=configs/recommended.py --config.data.dataset=DIR

Tries losses, sources of negatives and learning rates. Half of the time goes to short runs, compared
on dev: the better half of the recipes gets twice the steps, until only the default recipe and one
other are left. The other one wins if its gain is too large to be luck. The rest of the time (set by
--minutes) goes to a training run with the winner, like that of selfdistill_jax.main. Test is read
once, at the end of that run. All trials are in trials.csv of --workdir. The same command resumes.
"""

import copy
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from selfdistill_jax.cli import config_flag, options
from selfdistill_jax.cli.run import run_command
from selfdistill_jax.cli.session import StopSignal, keep_compiled
from selfdistill_jax.errors import InputError
from selfdistill_jax.fit import train_and_report
from selfdistill_jax.io import write_json
from selfdistill_jax.json_file import entry, read_json
from selfdistill_jax.progress import LOG, show_log
from selfdistill_jax.retrieval.evaluation import MEASURES
from selfdistill_jax.retrieval.significance import mean_and_error, needed_errors
from selfdistill_jax.retrieval.text_table import format_table
from selfdistill_jax.study.definition import Run
from selfdistill_jax.study.halving import Rung, halve, plan
from selfdistill_jax.study.recipes import Recipe, recipes
from selfdistill_jax.study.table import Result, Table
from selfdistill_jax.study.trial import run_trial
from selfdistill_jax.train.data.tokenized_collection import open_tokenized
from selfdistill_jax.train.job import make_job, split_devices
from selfdistill_jax.train.run_folder import claimed, open_run

_PROBES = (3, 4)  # steps of two runs: the first fills the caches, the second shows the time
_FIRST_STEPS = 10  # of the shortest trials
_PASSES = 5  # over the training data, after which the final run ends even if there is time left
_EVALUATIONS = 8  # on dev during the final run
_FLAGS = flags.FLAGS


def _define() -> None:
    config_flag.define()
    options.define_path("workdir", "Folder for the trials and the run; runs/choose by default.")
    flags.DEFINE_float("minutes", 60.0, "Time for all trials and training steps.", lower_bound=1.0)


def main(argv: list[str]) -> int | None:
    options.refuse_rest(argv)
    show_log()
    keep_compiled()
    split_devices(_FLAGS.config)
    stopped = StopSignal()
    workdir = _FLAGS.workdir or Path("runs/choose")
    text = choose(_FLAGS.config, workdir, minutes=_FLAGS.minutes, stop=stopped)
    if text is None:
        return stopped.exit_status
    print(text, end="")
    return None


def choose(
    config: Any, workdir: Path, *, minutes: float, stop: Callable[[], bool] = lambda: False
) -> str | None:
    """Finds the best recipe for a config's data and trains with it.

    Args:
      config: a config like that of `selfdistill_jax.config`; its loss, negatives, learning rate and
        steps are replaced.
      workdir: folder for ``trials.csv`` and, in ``run/``, the final run.
      minutes: time for the trials and the steps of the final run.
      stop: True stops; the same call resumes.

    Returns:
      The table of trials and the result of the final run; None if it was stopped.

    Raises:
      InputError: a setting or the data are wrong, there is no dev split, or all trials failed.
    """
    job = make_job(config)
    data = open_tokenized(job.data, job.load_model().pretrained)
    if "dev" not in data.collection.splits:
        raise InputError(
            f"{data.collection.name}: there is no dev split to compare recipes on; add "
            "qrels/dev.tsv, or train with selfdistill_jax.main"
        )
    given = (data.examples.negatives >= 0).sum(axis=1)
    known = recipes(drawn=bool((given < job.data.negatives_per_query).any()))
    passes = _PASSES * len(data.examples) // config.train.batch_size
    with claimed(workdir):
        open_run(workdir, job.settings, data=data.collection.fingerprint, restart=False)
        trials = _Trials(config, workdir, stop)
        planned = _plan(trials, known, workdir / "plan.json", 60 * minutes, passes)
        if planned is None:
            return None
        steps, rounds = planned
        LOG.info("Rounds: %s", "; ".join(f"{r.recipes} recipes, {r.steps} steps" for r in rounds))
        found = _search(trials, known, rounds)
        if found is None:
            return None
        winner, reason = found
        LOG.info("Winner: %s; training %d steps", winner.name, steps)
        final = _changed(config, winner, steps, every=-(-steps // _EVALUATIONS))
        text = train_and_report(final, workdir / "run", stop=lambda step: stop())
    if text is None:
        return None
    lengths = ("steps", "warmup_steps", "evaluate_every", "checkpoint_every")
    flags_of_run = [*winner.flags(), *(f"--config.train.{k}={final.train[k]}" for k in lengths)]
    command = " \\\n      ".join(["python -m selfdistill_jax.main", *flags_of_run])
    return (
        f"{trials.text()}\n\n{reason}\n\nWinner: {winner.name}, {steps} steps. The same run alone, "
        f"with your other settings:\n\n  {command}\n\n{text}"
    )


class _Trials:
    """Runs trials and records them in ``trials.csv``.

    Args:
      config: config of the final run.
      workdir: folder of the file, and of the run of a trial while it lasts.
      stop: True stops the trial.
    """

    def __init__(self, config: Any, workdir: Path, stop: Callable[[], bool]):
        self._config, self._stop, self._folder = config, stop, workdir / "trial"
        self._table = Table(workdir / "trials.csv")

    def run(self, recipe: Recipe, steps: int, label: str, *, phase: str = "trial") -> Result | None:
        """Makes a trial unless it was made before.

        Returns:
          Its result, which has the values of dev queries; None if it was stopped.

        Args:
          recipe: the recipe.
          steps: number of steps.
          label: label for the log.
          phase: "trial", or "probe" to measure the time.
        """
        run = self._run(recipe, steps, phase)
        if self._table.find(run) is None:
            LOG.info("%s: %s, %d steps", label, recipe.name, steps)
            changed = _changed(self._config, recipe, steps, every=steps)
            changed.evaluation.split, changed.evaluation.interpolation = "none", ()
            shutil.rmtree(self._folder, ignore_errors=True)  # a trial that was stopped
            found = run_trial(changed, self._folder, stop=self._stop)
            if found is None:
                return None
            self._table.add(Result(run.key(), found.numbers, found.texts, found.dev_values))
        return self._table.find(run)

    def values(self, recipe: Recipe, steps: int) -> np.ndarray:
        """Returns the values of dev queries in a trial that was made; empty if it failed."""
        return self._table.results[self._run(recipe, steps, "trial").key()].values

    def _run(self, recipe: Recipe, steps: int, phase: str) -> Run:
        return Run("", recipe.name, phase, self._config.seed, {"train.steps": steps})

    def text(self) -> str:
        """Returns all trials as a table, the longest and best first."""
        results = [r for r in self._table.results.values() if r.key[2] == "trial"]
        results.sort(key=lambda r: (-_steps(r), -r.numbers.get("dev", -1)))
        rows: list[list[Any]] = [
            [r.key[1], _steps(r), r.numbers.get("dev"), f"{r.numbers['seconds']:.0f}"]
            for r in results
        ]
        start = next((r.numbers["start dev"] for r in results if "start dev" in r.numbers), None)
        rows.append(["start encoder", 0, start, ""])
        return format_table(rows, ["recipe", "steps", f"{MEASURES[0]} on dev", "seconds"])


def _plan(
    trials: _Trials, known: list[Recipe], path: Path, seconds: float, passes: int
) -> tuple[int, list[Rung]] | None:
    """Plans the final run and the trials, and records the plan for a resumed choice.

    Args:
      trials: runs the probes.
      known: all recipes, the default first.
      path: file for the plan.
      seconds: time for all trials and the final run.
      passes: most steps of the final run.

    Returns:
      The steps of the final run and the rounds of trials; None if it was stopped.
    """
    if path.is_file():
        facts = read_json(path)
        rounds = [Rung(*pair) for pair in entry(facts, "rounds", list, where=path)]
        return entry(facts, "steps", int, where=path), rounds
    default = known[0]
    for steps in _PROBES:
        probe = trials.run(default, steps, "To measure the time", phase="probe")
        if probe is None:
            return None
    step_seconds = max(probe.numbers.get("step_seconds", 1.0), 1e-6)
    most = max(min(int(seconds / 2 / step_seconds), passes), _FIRST_STEPS)
    rounds = plan(
        len(known),
        seconds=seconds - most * step_seconds,
        first_steps=_FIRST_STEPS,
        most_steps=most,
        step_seconds=step_seconds,
        other_seconds=max(probe.numbers["seconds"] - _PROBES[-1] * step_seconds, 0.0),
    )
    most = max(most, rounds[-1].steps)  # never shorter than a trial
    write_json(path, {"steps": most, "rounds": rounds})
    return most, rounds


def _search(trials: _Trials, known: list[Recipe], rounds: list[Rung]) -> tuple[Recipe, str] | None:
    """Returns the winner of the trials, and a sentence that gives the reason; None if stopped."""
    total, numbers = sum(rung.recipes for rung in rounds), itertools.count(1)
    default, gains = known[0], []

    def value(recipe: Recipe, steps: int) -> float | None:
        found = trials.run(recipe, steps, f"Trial {next(numbers)} of {total}")
        if found is None:
            return None
        of_default = trials.values(default, steps)  # made first in every round
        if recipe != default and len(of_default) and len(found.values):
            gains.append(found.values - of_default)
        return found.numbers.get("dev", -1.0)  # a failed trial is the worst

    best = halve(known, rounds, value)
    if best is None:
        return None
    steps = rounds[-1].steps
    of_default, of_best = (trials.values(recipe, steps) for recipe in (default, best))
    if not len(of_best):
        if not len(of_default):
            raise InputError("all trials failed; the log has their errors")
        return default, "The trials of all other recipes failed: the default recipe stays."
    if not len(of_default):
        return best, "The trial of the default recipe failed."
    # The best of several recipes exceeds one standard error by luck more often than a single one.
    needed = max(needed_errors(np.array(gains)), 1.0)
    gain, error = mean_and_error(of_best - of_default)
    wins = gain > needed * error
    outcome = "it replaces the default recipe" if wins else "the default recipe stays"
    reason = (
        f"Gain of {best.name} over the default recipe on dev, {steps} steps: {gain:+.4f} ± "
        f"{error:.4f}.\nThe limit for the best of the other recipes is {needed:.1f} standard "
        f"errors: {outcome}."
    )
    return best if wins else default, reason


def _changed(config: Any, recipe: Recipe, steps: int, *, every: int) -> Any:
    changed = copy.deepcopy(config)
    recipe.apply(changed)
    train = changed.train
    train.steps, train.warmup_steps = steps, max(steps // 10, 1)
    train.evaluate_every = train.checkpoint_every = every
    return changed


def _steps(result: Result) -> int:
    return json.loads(result.key[-1])["train.steps"]


if __name__ == "__main__":
    _define()
    run_command(main, parse=config_flag.parse)
