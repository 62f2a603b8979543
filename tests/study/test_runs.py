"""A study of tiny runs: tuned on dev, resumed, sharded; and the choice of a recipe."""

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
from selfdistill_jax.cli.config_flag import load_config
from selfdistill_jax.errors import InputError
from selfdistill_jax.losses import LOSSES
from selfdistill_jax.study import runs
from selfdistill_jax.study.definition import Study
from selfdistill_jax.study.halving import Rung, halve, plan
from selfdistill_jax.study.recipes import recipes
from selfdistill_jax.study.runs import best_tuned, execute
from selfdistill_jax.study.table import RUNS, Table
from tests import tiny as helpers


@pytest.fixture
def study(tiny):
    settings = {key: value for key, value in tiny.settings.items() if key != "data.dataset"}
    settings |= {"train.steps": 4, "train.evaluate_every": 4}
    methods = {"softmax": {"loss.name": "softmax"}, "distributed": {"loss.name": "distributed"}}
    rates = {"train.learning_rate": (0.001, 0.02)}
    return Study("s", "T", "", settings, ("tiny", "absent"), methods, rates, (0, 1), "softmax")


def make_config(settings):
    rest = {key: value for key, value in settings.items() if key != "loss.name"}
    return load_config("configs/base.py", settings["loss.name"], rest)


def test_a_study_tunes_on_dev_and_tests_each_seed(tiny, study, tmp_path, monkeypatch):
    options = {"data": tiny.collection.parent, "work": tmp_path / "work"}
    study = study._replace(methods={"softmax": study.methods["softmax"]})
    splits = []
    real = runs.run_trial

    def spied(config, *rest, **options):
        splits.append(config.evaluation.split)
        return real(config, *rest, **options)

    monkeypatch.setattr(runs, "run_trial", spied)
    table = Table(tmp_path / RUNS)
    calls = iter(range(100))
    assert not execute(study, table, make_config, **options, stop=lambda: next(calls) > 12)
    assert 1 <= len(table.results) < 4
    table = Table(tmp_path / RUNS)
    assert execute(study, table, make_config, **options)
    assert len(table.results) == 2 + 2
    assert execute(study, table, make_config, **options)  # nothing is repeated
    assert splits.count("test") in (2, 3)  # a run that was stopped is made again
    assert list((tmp_path / "work").iterdir()) == []
    for method in study.methods:
        tuned = best_tuned(study, table, "tiny", method)
        tried = {r.key[-1]: r.numbers["dev"] for r in table.results.values()
                 if r.key[1:3] == (method, "tune")}  # fmt: skip
        best = max(tried, key=tried.get)
        assert str(tuned["train.learning_rate"]) in best
        tested = [r for r in table.results.values() if r.key[1:3] == (method, "test")]
        assert [r.key[-1] for r in tested] == [best] * 2
        assert all(len(r.values) == 8 for r in tested)
        assert all(r.values.mean() == pytest.approx(r.numbers["nDCG@10"]) for r in tested)
    assert all(not len(r.values) for r in table.results.values() if r.key[2] == "tune")


def test_shards_are_the_study_in_parts(tiny, study, tmp_path):
    options = {"data": tiny.collection.parent, "work": tmp_path / "work"}
    tables = [Table(tmp_path / str(i) / RUNS) for i in range(2)]
    study = study._replace(tuned={}, seeds=(0,))
    for i, table in enumerate(tables):
        assert execute(study, table, make_config, **options, shard=(i, 2))
    assert [[key[1] for key in table.results] for table in tables] == [["softmax"], ["distributed"]]


def test_a_failed_run_is_a_result(tiny, study, tmp_path):
    study = study._replace(methods={"softmax": {"loss.name": "softmax", "data.query_length": 2}})
    table = Table(tmp_path / RUNS)
    assert execute(study, table, make_config, data=tiny.collection.parent, work=tmp_path / "work")
    assert len(table.results) == 2  # of tuning; there is nothing to test
    assert all("query_length" in r.texts["error"] for r in Table(tmp_path / RUNS).results.values())


@pytest.mark.parametrize("count", [2, 3, 8, 18])
@pytest.mark.parametrize("seconds", [0, 100, 500, 5000])
def test_a_plan_fits_the_time_and_uses_it(count, seconds):
    cost = {"first_steps": 10, "step_seconds": 1.0, "other_seconds": 8.0}
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


def test_halving_finds_the_best_and_spends_little_on_the_worst():
    quality = np.random.default_rng(0).permutation(16)
    made = []

    def value(recipe, steps):
        made.append((recipe, steps))
        return float(quality[recipe])

    rounds = plan(16, seconds=1e9, first_steps=5, step_seconds=1, other_seconds=1)
    assert quality[halve(range(16), rounds, value)] == 15
    assert len(made) == 16 + 8 + 4 + 2
    assert halve(range(16), rounds, lambda recipe, steps: None) is None


def test_a_short_list_of_recipes_has_every_value():
    known = recipes(drawn=True)
    assert len({r.name for r in known}) == len(known) == 18
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
    assert {*steps} >= {5, 10}
    assert len({(row["method"], row["tuned"]) for row in rows}) == len(rows)
    winner = re.search("Winner: (.*?), (\\d+) steps", text)
    best = max(zip(steps, rows, strict=True), key=lambda pair: (pair[0], float(pair[1]["dev"])))
    assert winner[1] == best[1]["method"]
    rates = re.search("learning_rate=(\\S+)", text), re.search("([^ ]+)$", winner[1])
    final, of_trials = (float(found[1]) for found in rates)
    longest = max(n for n, row in zip(steps, rows, strict=True) if row["method"] == winner[1])
    want = of_trials * (longest / int(winner[2])) ** 0.5
    assert final == pytest.approx(want, rel=0.05)
    assert "trained − start" in text
    assert choose(config, tmp_path, minutes=0.2) == text
    with pytest.raises(InputError, match=r"another config: seed is 0 there and 1 here"):
        choose(tiny.config(seed=1, evaluation__interpolation=(0.5, 1.0)), tmp_path, minutes=0.2)


def test_a_choice_that_is_stopped_in_its_first_trial_starts_no_other(tiny, tmp_path, monkeypatch):
    started = []

    def run_trial(config, folder, *, stop):
        started.append(config.train.steps)

    monkeypatch.setattr(choose_module, "run_trial", run_trial)
    assert choose(tiny.config(), tmp_path, minutes=0.2) is None
    assert started == [5]


def test_a_choice_needs_dev(tiny, tmp_path):
    folder = helpers.write_collection(tmp_path / "part", splits={"train": range(24)})
    with pytest.raises(InputError, match="there is no dev split to compare recipes on"):
        choose(tiny.config(data__dataset=str(folder)), tmp_path / "run", minutes=0.2)
