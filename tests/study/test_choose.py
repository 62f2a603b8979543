"""The choice of a recipe: successive halving, the default recipe's priority, resuming."""

import csv
import inspect
import itertools
import json
import re

import numpy as np
import pytest

from configs import base
from selfdistill_jax import choose as choose_module
from selfdistill_jax.choose import choose
from selfdistill_jax.errors import InputError
from selfdistill_jax.losses import LOSSES
from selfdistill_jax.study.halving import Rung, halve, plan
from selfdistill_jax.study.recipes import recipes
from selfdistill_jax.study.trial import Trial
from selfdistill_jax.train.run_folder import flatten
from tests import tiny as helpers


@pytest.mark.parametrize("count", [2, 3, 8, 18])
@pytest.mark.parametrize("seconds", [0, 100, 500, 5000])
def test_a_plan_fits_the_time_and_uses_it(count, seconds):
    cost = {"first_steps": 10, "most_steps": 10, "step_seconds": 1.0, "other_seconds": 8.0}
    rounds = plan(count, seconds=seconds, **cost)

    def total(rounds):
        return sum(n * (8 + steps) for n, steps in rounds)

    assert rounds[-1].recipes == 2
    for one, other in itertools.pairwise(rounds):
        assert other == Rung(-(-one.recipes // 2), 2 * one.steps)
    assert total(rounds) <= seconds or rounds[0].recipes == 2
    if rounds[0].recipes < count:
        more = plan(rounds[0].recipes + 1, seconds=1e9, **cost)
        assert total(more) > seconds


@pytest.mark.parametrize("most", [40, 79, 80, 320, 10_000])
def test_trials_become_longer_if_there_is_time_but_no_longer_than_the_final_run(most):
    cost = {"first_steps": 10, "step_seconds": 1.0, "other_seconds": 8.0}
    rounds = plan(8, seconds=1000, most_steps=most, **cost)
    assert [rung.recipes for rung in rounds] == [8, 4, 2]
    used = sum(n * (8 + steps) for n, steps in rounds)
    assert used <= 1000
    assert rounds[-1].steps <= most
    assert used + sum(n * steps for n, steps in rounds) > 1000 or 2 * rounds[-1].steps > most


def test_halving_finds_the_best_and_spends_little_on_the_worst():
    quality = np.random.default_rng(0).permutation(16)
    quality = np.append(-1, quality)  # the default recipe is the worst and takes part everywhere
    made = []

    def value(recipe, steps):
        made.append((recipe, steps))
        return float(quality[recipe])

    rounds = plan(17, seconds=1e9, first_steps=5, most_steps=5, step_seconds=1, other_seconds=1)
    assert quality[halve(range(17), rounds, value)] == 15
    assert [steps for recipe, steps in made if recipe == 0] == [5, 10, 20, 40, 80]
    assert len(made) == 17 + 9 + 5 + 3 + 2
    assert halve(range(17), rounds, lambda recipe, steps: None) is None


def test_a_short_list_of_recipes_has_every_value():
    known = recipes(drawn=True)
    assert len({r.name for r in known}) == len(known) == 18
    assert known[0].name == "softmax, random negatives, 5e-05"
    assert known[0].learning_rate == base.get_config().train.learning_rate
    first = known[:4]
    assert {r.loss for r in first} == {"softmax", "distributed"}
    assert len({r.negatives for r in first}) == 2
    assert {r.negatives for r in recipes(drawn=False)} == {"random"}


def test_the_printed_command_trains_with_the_options_of_the_trials():
    """A trial has the defaults of the loss's function; the command has those of the config."""
    for recipe in recipes(drawn=True):
        parameters = inspect.signature(LOSSES[recipe.loss]).parameters
        for option, value in base.LOSSES[recipe.loss].items():
            assert parameters[option].default == value, (recipe.loss, option)


def test_a_choice_is_resumed_and_ends_with_a_run(tiny, tmp_path):
    config = tiny.config(evaluation__interpolation=(0.5, 1.0))
    calls = iter(range(10**6))
    assert choose(config, tmp_path, minutes=0.2, stop=lambda: next(calls) > 20) is None
    before = (tmp_path / "trials.csv").read_text()
    text = choose(config, tmp_path, minutes=0.2)
    after = (tmp_path / "trials.csv").read_text()
    assert after.startswith(before)
    rows = list(csv.DictReader(after.splitlines()))
    steps = [json.loads(row["tuned"])["train.steps"] for row in rows]
    assert {*steps} >= {3, 4, 10}
    assert len({(row["method"], row["tuned"]) for row in rows}) == len(rows)
    winner = re.search("Winner: (.*?), (\\d+) steps", text)
    longest = [row["method"] for n, row in zip(steps, rows, strict=True) if n == max(steps)]
    assert len(longest) == 2
    assert winner[1] in longest
    rate = float(re.search("([^ ]+)$", winner[1])[1])
    assert float(re.search("learning_rate=(\\S+)", text)[1]) == rate
    assert "trained − start" in text
    # The printed command makes the same run.
    flags = re.findall(r"--config\.(\S+?)=(\S+)", text)
    record = flatten(json.loads((tmp_path / "run" / "config.json").read_text()))
    for name, value in flags:
        assert str(record[name]) == value or float(record[name]) == float(value)
    changed = {k for k, v in flatten(config.to_dict()).items() if record.get(k) != v}
    allowed = {name for name, _ in flags} | {"train.dtype"}
    assert {k for k in changed if not k.startswith("loss.")} <= allowed
    assert choose(config, tmp_path, minutes=0.2) == text
    with pytest.raises(InputError, match=r"another config: seed is 0 there and 1 here"):
        choose(tiny.config(seed=1, evaluation__interpolation=(0.5, 1.0)), tmp_path, minutes=0.2)


def test_a_choice_that_is_stopped_in_its_first_trial_starts_no_other(tiny, tmp_path, monkeypatch):
    started = []

    def run_trial(config, folder, *, stop):
        started.append(config.train.steps)

    monkeypatch.setattr(choose_module, "run_trial", run_trial)
    assert choose(tiny.config(), tmp_path, minutes=0.2) is None
    assert started == [3]


@pytest.mark.parametrize(("gain", "wins"), [(0.03, True), (0.008, False), (-0.1, False)])
def test_the_default_recipe_wins_unless_another_is_clearly_better(
    tiny, tmp_path, monkeypatch, gain, wins
):
    draw = np.random.default_rng(0)
    default = draw.uniform(0.3, 0.6, size=300)

    def run_trial(config, folder, *, stop):
        values = default
        if config.loss.name == "softmax" and config.data.negatives == "mined":
            noise = draw.normal(scale=0.1, size=300)
            values = default + gain + noise - noise.mean()
        elif config.loss.name != "softmax" or config.data.negatives != "random":
            values = default - 0.2
        numbers = {"dev": values.mean(), "start dev": 0.4, "seconds": 5.0, "step_seconds": 0.2}
        return Trial(numbers, {}, np.zeros(0), values)

    final = []
    monkeypatch.setattr(choose_module, "run_trial", run_trial)
    monkeypatch.setattr(
        choose_module, "train_and_report", lambda config, folder, stop: final.append(config) or ""
    )
    text = choose(tiny.config(), tmp_path, minutes=10)
    assert "Winner: softmax" in text
    assert ("it replaces the default recipe" in text) == wins
    assert ("the default recipe stays" in text) != wins
    assert final[0].data.negatives == ("mined" if wins else "random")
    assert final[0].loss.name == "softmax"


def test_a_choice_needs_dev(tiny, tmp_path):
    folder = helpers.write_collection(tmp_path / "part", splits={"train": range(24)})
    with pytest.raises(InputError, match="there is no dev split to compare recipes on"):
        choose(tiny.config(data__dataset=str(folder)), tmp_path / "run", minutes=0.2)
