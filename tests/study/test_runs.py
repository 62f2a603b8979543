"""A study of tiny runs: tuned on dev, resumed, sharded."""

import multiprocessing

import numpy as np
import pytest

from selfdistill_jax.cli.config_flag import load_config
from selfdistill_jax.study import runs, trial
from selfdistill_jax.study import table as tables
from selfdistill_jax.study.definition import Run, Study
from selfdistill_jax.study.runs import best_tuned, execute
from selfdistill_jax.study.table import RUNS, Result, Table


@pytest.fixture
def study(tiny):
    settings = {key: value for key, value in tiny.settings.items() if key != "data.dataset"}
    settings |= {"train.steps": 4, "train.evaluate_every": 4}
    methods = {"softmax": {"loss.name": "softmax"}, "distributed": {"loss.name": "distributed"}}
    rates = {"train.learning_rate": (0.001, 0.02)}
    return Study("s", "T", "", settings, ("tiny", "absent"), methods, rates, {}, (0, 1), "softmax")


def make_config(settings):
    rest = {key: value for key, value in settings.items() if key != "loss.name"}
    return load_config("configs/base.py", settings["loss.name"], rest)


def test_a_study_tunes_on_dev_and_tests_each_seed(tiny, study, tmp_path, monkeypatch):
    options = {"data": tiny.collection.parent, "work": tmp_path / "work"}
    study = study._replace(methods={"softmax": study.methods["softmax"]})
    made = []
    real = runs.run_trial

    def spied(config, folder, **options):
        made.append((options["end_after_steps"], folder.exists()))
        return real(config, folder, **options)

    monkeypatch.setattr(runs, "run_trial", spied)
    table = Table(tmp_path / RUNS)
    calls = iter(range(100))
    assert not execute(study, table, make_config, **options, stop=lambda: next(calls) > 12)
    assert 1 <= len(table.results) < 4
    table = Table(tmp_path / RUNS)
    assert execute(study, table, make_config, **options)
    assert len(table.results) == 2 + 2
    assert execute(study, table, make_config, **options)  # nothing is repeated
    assert made.count((False, False)) in (1, 2)  # the second seed's; and one stopped
    assert list((tmp_path / "work" / "s").iterdir()) == []
    for method in study.methods:
        tuned = best_tuned(study, table, "tiny", method)
        tried = {r.key[-1]: r.numbers["dev"] for r in table.results.values()
                 if r.key[1:3] == (method, "tune")}  # fmt: skip
        best = max(tried, key=tried.get)
        assert str(tuned["train.learning_rate"]) in best
        tested = [r for r in table.results.values() if r.key[1:3] == (method, "test")]
        assert [r.key[-1] for r in tested] == [best] * 2
        assert all(len(r.values) == 8 for r in tested)
        assert all(r.values.mean() == pytest.approx(r.numbers["nDCG@10"], abs=1e-4) for r in tested)
    assert all(not len(r.values) for r in table.results.values() if r.key[2] == "tune")


def test_the_first_seed_is_the_tuned_run_evaluated_on_test(tiny, study, tmp_path, monkeypatch):
    options = {"data": tiny.collection.parent, "work": tmp_path / "work"}
    study = study._replace(methods={"softmax": study.methods["softmax"]}, seeds=(0,))
    study.settings["train.dtype"] = "auto"
    resumed, alone = Table(tmp_path / "1" / RUNS), Table(tmp_path / "2" / RUNS)
    assert execute(study, resumed, make_config, **options)
    for result in resumed.results.values():
        if result.key[2] == "tune":
            alone.add(result)
    trained = []
    real = trial.train
    monkeypatch.setattr(
        trial, "train", lambda *a, **o: trained.append(a[1].exists()) or real(*a, **o)
    )
    assert execute(study, alone, make_config, **options)
    assert trained == [False]  # the tuned run's folder is gone, so the run is made again
    key = next(key for key in alone.results if key[2] == "test")
    assert {r.texts["dtype"] for r in resumed.results.values()} <= {"float32", "bfloat16"}
    a, b = resumed.results[key], alone.results[key]
    assert a.numbers["dev"] == b.numbers["dev"]
    np.testing.assert_array_equal(a.values, b.values)


def test_shards_are_the_study_in_parts(tiny, study, tmp_path):
    options = {"data": tiny.collection.parent, "work": tmp_path / "work"}
    shards = [Table(tmp_path / str(i) / RUNS) for i in range(2)]
    study = study._replace(tuned={}, seeds=(0,))
    for i, table in enumerate(shards):
        assert execute(study, table, make_config, **options, shard=(i, 2))
    assert [[key[1] for key in table.results] for table in shards] == [["softmax"], ["distributed"]]


def add_results(path, name):
    table = Table(path)
    for seed in range(20):
        key = Run("tiny", name, "test", seed, {}).key()
        table.add(Result(key, {"dev": 0.5}, {}, np.ones(3) / 2))


def test_processes_add_to_the_same_table(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=add_results, args=(tmp_path / RUNS, name)) for name in "abc"
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    table = Table(tmp_path / RUNS)
    assert len(table.results) == 3 * 20
    assert all(result.values.tolist() == [0.5] * 3 for result in table.results.values())
    assert {path.name for path in tmp_path.iterdir()} == {RUNS, "queries.csv"}


def test_a_table_that_another_process_writes_meanwhile_is_read_whole(tmp_path, monkeypatch):
    add_results(tmp_path / RUNS, "a")
    read = tables._read

    def read_then_write(path):
        rows = read(path)
        monkeypatch.setattr(tables, "_read", read)
        add_results(tmp_path / RUNS, "b")  # between the two files
        return rows

    monkeypatch.setattr(tables, "_read", read_then_write)
    assert all(len(result.values) == 3 for result in Table(tmp_path / RUNS).results.values())


def test_a_failed_run_is_a_result(tiny, study, tmp_path):
    study = study._replace(methods={"softmax": {"loss.name": "softmax", "data.query_length": 2}})
    table = Table(tmp_path / RUNS)
    assert execute(study, table, make_config, data=tiny.collection.parent, work=tmp_path / "work")
    assert len(table.results) == 2  # of tuning; there is nothing to test
    assert all("query_length" in r.texts["error"] for r in Table(tmp_path / RUNS).results.values())
