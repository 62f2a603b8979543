"""Finds the best recipe for your texts by short runs, then trains with it.

    python -m selfdistill_jax.choose --config=configs/base.py --minutes=60 --config.data.dataset=DIR

Tries losses, sources of negatives and learning rates. Half of the time goes to short runs, compared
on dev: the better half of the recipes gets twice the steps, until two are left. The rest of the
time goes to a training run with the winner, like that of selfdistill_jax.main. Its learning rate is
lower than in the trials, by the square root of the ratio of the steps. Test is read once, at the
end of that run. Everything tried is in trials.csv of --workdir. The same command resumes.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from selfdistill_jax.cli import config_flag, options
from selfdistill_jax.cli.run import run_command
from selfdistill_jax.cli.session import StopSignal, keep_compiled
from selfdistill_jax.errors import InputError
from selfdistill_jax.io import write_json
from selfdistill_jax.json_file import entry, read_json
from selfdistill_jax.main import train_and_report
from selfdistill_jax.progress import LOG, show_log
from selfdistill_jax.retrieval.evaluation import MEASURES
from selfdistill_jax.retrieval.text_table import format_table
from selfdistill_jax.study.definition import Run
from selfdistill_jax.study.halving import halve, plan
from selfdistill_jax.study.recipes import Recipe, recipes
from selfdistill_jax.study.table import Result, Table
from selfdistill_jax.study.trial import run_trial
from selfdistill_jax.train.data.tokenized_collection import open_tokenized
from selfdistill_jax.train.job import make_job, split_devices
from selfdistill_jax.train.run_folder import claimed, open_run

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
      config: a config like that of ``configs/base.py``; its loss, negatives, learning rate and
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
    with claimed(workdir):
        open_run(workdir, job.settings, data=data.collection.fingerprint, restart=False)
        trials = Table(workdir / "trials.csv")
        winner = _search(config, known, trials, workdir / "trial", 30 * minutes, stop)
        if winner is None:
            return None
        passes = _PASSES * len(data.examples) // config.train.batch_size
        longest = _longest(trials, winner)
        steps = _final_steps(workdir / "winner.json", longest, trials, 60 * minutes, passes)
        rate = _final_rate(winner.learning_rate, _steps(longest), steps)
        last = winner._replace(learning_rate=rate)
        LOG.info("Winner: %s; training %d steps at %g", winner.name, steps, rate)
        final = _changed(config, last, steps, every=-(-steps // _EVALUATIONS))
        text = train_and_report(final, workdir / "run", stop=lambda step: stop())
    if text is None:
        return None
    flags_of_run = [*last.flags(), f"--config.train.steps={steps}"]
    command = " \\\n      ".join(["python -m selfdistill_jax.main", *flags_of_run])
    return (
        f"{_table(trials)}\n\nWinner: {winner.name}, {steps} steps. The same run alone, with your "
        f"other settings:\n\n  {command}\n\n{text}"
    )


def _search(
    config: Any,
    known: list[Recipe],
    trials: Table,
    folder: Path,
    seconds: float,
    stop: Callable[[], bool],
) -> Recipe | None:
    """Returns the winner of the trials; None if it was stopped."""

    def trial(recipe: Recipe, steps: int) -> Result | None:
        run = Run("", recipe.name, "trial", config.seed, {"train.steps": steps})
        if trials.find(run) is None:
            LOG.info("Trial: %s, %d steps", recipe.name, steps)
            changed = _changed(config, recipe, steps, every=steps)
            changed.evaluation.split, changed.evaluation.interpolation = "none", ()
            found = run_trial(changed, folder, stop=stop)
            if found is None:
                return None
            trials.add(Result(run.key(), *found))
        return trials.find(run)

    def value(recipe: Recipe, steps: int) -> float | None:
        found = trial(recipe, steps)
        return found and found.numbers.get("dev", -1.0)  # a failed trial is the worst

    # The first trial fills the caches; the second one costs what all others will.
    for steps in (_FIRST_STEPS // 2, _FIRST_STEPS):
        if (first := trial(known[0], steps)) is None:
            return None
    step_seconds = first.numbers.get("step_seconds", 1.0)
    rounds = plan(
        len(known),
        seconds=seconds,
        first_steps=_FIRST_STEPS,
        step_seconds=step_seconds,
        other_seconds=max(first.numbers["seconds"] - _FIRST_STEPS * step_seconds, 0.0),
    )
    LOG.info("Rounds: %s", "; ".join(f"{n} recipes, {steps} steps" for n, steps in rounds))
    winner = halve(known, rounds, value)
    if winner is not None:
        last = trial(winner, rounds[-1].steps)
        if last is not None and "dev" not in last.numbers:
            raise InputError(f"all trials failed: {last.texts['error']}")
    return winner


def _changed(config: Any, recipe: Recipe, steps: int, *, every: int) -> Any:
    changed = copy.deepcopy(config)
    recipe.apply(changed)
    train = changed.train
    train.steps, train.warmup_steps = steps, max(steps // 10, 1)
    train.evaluate_every = train.checkpoint_every = every
    return changed


def _longest(trials: Table, recipe: Recipe) -> Result:
    """Returns the longest trial of a recipe."""
    own = [result for result in trials.results.values() if result.key[1] == recipe.name]
    return max(own, key=_steps)


def _final_rate(learning_rate: float, trial_steps: int, steps: int) -> float:
    """Returns the learning rate of the final run.

    The best rate of a short run is too high for a long one, so it falls with the square root of the
    number of steps. Without that, runs of 42 and 55 steps on pydocs and medquad-short ended 0.005
    nDCG@10 below runs at half the rate.
    """
    return float(f"{learning_rate * (trial_steps / steps) ** 0.5:.1e}")


def _final_steps(path: Path, longest: Result, trials: Table, seconds: float, passes: int) -> int:
    """Returns the steps of the final run: what the time allows, recorded for a resumed choice."""
    if path.is_file():
        return entry(read_json(path), "steps", int, where=path)
    used = sum(result.numbers["seconds"] for result in trials.results.values())
    affordable = int((seconds - used) / max(longest.numbers["step_seconds"], 1e-6))
    # Never shorter than the trial that it won by.
    steps = max(min(affordable, passes), _steps(longest))
    write_json(path, {"recipe": longest.key[1], "steps": steps})
    return steps


def _steps(result: Result) -> int:
    return json.loads(result.key[-1])["train.steps"]


def _table(trials: Table) -> str:
    """Returns all trials as text, the longest and best first."""
    results = sorted(trials.results.values(), key=lambda r: (-_steps(r), -r.numbers.get("dev", -1)))
    rows: list[list[Any]] = [
        [r.key[1], _steps(r), r.numbers.get("dev"), f"{r.numbers['seconds']:.0f}"] for r in results
    ]
    start = next((r.numbers["start dev"] for r in results if "start dev" in r.numbers), None)
    rows.append(["start encoder", 0, start, ""])
    return format_table(rows, ["recipe", "steps", f"{MEASURES[0]} on dev", "seconds"])


if __name__ == "__main__":
    _define()
    run_command(main, parse=config_flag.parse)
