"""Tests comparisons of methods against their definitions."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from selfdistill_jax.errors import InputError
from selfdistill_jax.study.analysis import compare, holm, interval, over_collections
from selfdistill_jax.study.definition import Study
from selfdistill_jax.study.page import write_page
from selfdistill_jax.study.table import RUNS, Result, Table
from selfdistill_jax.study.transfer import correlation, transfers

STUDY = Study(
    "mine", "Title", "Text.", {}, ("one", "two", "three"),
    {"a": {}, "b": {}, "c": {}}, {"train.learning_rate": (1e-5, 1e-4)}, {}, (0, 1, 2), "a",
)  # fmt: skip
GAIN = {"a": 0.0, "b": 0.05, "c": -0.1}
TUNED = '{"train.learning_rate": 0.0001}'


def filled(folder: Path) -> Table:
    """Fills a table of 3 collections, 3 methods and 3 seeds; "c" was not run on the third."""
    table, draw = Table(folder / RUNS), np.random.default_rng(0)
    for collection in STUDY.collections:
        queries = draw.uniform(0.2, 0.7, 40)
        for method in STUDY.methods:
            if (collection, method) == ("three", "c"):
                continue
            for seed in STUDY.seeds:
                values = np.clip(queries + GAIN[method] + draw.normal(0, 0.05, 40), 0, 1).round(4)
                numbers = {"nDCG@10": values.mean(), "start nDCG@10": 0.4, "train_seconds": 10.0}
                key = (collection, method, "test", str(seed), TUNED)
                table.add(Result(key, numbers, {"date": "2026-11-28"}, values))
            table.add(
                Result((collection, method, "tune", "0", TUNED), {"dev": 0.5}, {}, values[:0])
            )
    return table


def test_a_table_is_read_as_it_was_written(tmp_path):
    table, again = filled(tmp_path), Table(tmp_path / RUNS)
    assert table.results.keys() == again.results.keys()
    for key, result in table.results.items():
        np.testing.assert_allclose(again.results[key].values, result.values, atol=1e-9)
        for name, value in result.numbers.items():
            assert again.results[key].numbers[name] == pytest.approx(value, rel=1e-5)


def test_a_damaged_table_is_named(tmp_path):
    filled(tmp_path)
    text = (tmp_path / "runs.csv").read_text()
    (tmp_path / "runs.csv").write_text(text.replace("0.4,", "x,"))
    with pytest.raises(InputError, match="damaged"):
        Table(tmp_path / RUNS)


def test_comparisons_follow_their_definitions(tmp_path):
    table = filled(tmp_path)
    found = {(row.collection, row.method): row for row in compare(STUDY, table)}
    assert len(found) == 8
    for (collection, method), row in found.items():
        of = {
            name: np.array([table.results[collection, name, "test", str(s), TUNED].values
                            for s in STUDY.seeds]) for name in ("a", method)
        }  # fmt: skip
        means = of[method].mean(1)
        low, high = stats.t.interval(0.95, 2, means.mean(), stats.sem(means))
        assert row.value.mean == pytest.approx(means.mean(), rel=1e-5)
        assert row.value.half_width == pytest.approx((high - low) / 2, abs=1e-5)
        if method == "a":
            continue
        difference = of[method].mean(0) - of["a"].mean(0)
        assert row.difference == pytest.approx(difference.mean(), rel=1e-4)
        assert row.ci_low < row.difference < row.ci_high
        p = stats.ttest_1samp(difference, 0).pvalue
        assert 0.999 * p <= row.p <= 2.001 * p  # two tests on a collection, one on the third
    overall = over_collections(list(found.values()))
    assert overall["b"].count == 3
    assert overall["c"].count == 2
    assert overall["b"].mean == pytest.approx(0.05, abs=0.02)


def test_holm_rejects_what_its_step_down_procedure_rejects():
    draw = np.random.default_rng(0)
    for _ in range(200):
        p, level = draw.uniform(size=5) ** 3, 0.05
        order, rejected = np.argsort(p), np.zeros(5, bool)
        for rank, i in enumerate(order):
            if p[i] > level / (5 - rank):
                break
            rejected[i] = True
        np.testing.assert_array_equal(holm(p) <= level, rejected)


def test_one_value_has_no_interval():
    assert str(interval(np.array([0.5]))) == "0.5000"


def test_a_page_says_what_is_missing_and_what_is_at_the_edge(tmp_path):
    text = write_page(STUDY, filled(tmp_path), tmp_path)
    assert "24 of 27 tested runs" in text
    assert "learning_rate 0.0001*" in text
    assert (tmp_path / "README.md").read_text() == text
    assert (tmp_path / "differences.svg").read_text().startswith("<svg")
    assert write_page(STUDY, Table(tmp_path / RUNS), tmp_path) == text  # from the files alone
    empty = write_page(STUDY, Table(tmp_path / "none" / RUNS), tmp_path / "none")
    assert "No method has been compared" in empty


def test_changes_on_other_collections(tmp_path):
    table = Table(tmp_path / RUNS)
    names = ["one", "two", "three", "far"]
    starts, similarity = dict(zip(names, (0.2, 0.4, 0.6, 0.8), strict=True)), [0.1, 0.3, 0.2, 0.7]
    change = dict(zip(names, (0.05, -0.02, 0.01, -0.09), strict=True))
    for collection in STUDY.collections:
        for seed in STUDY.seeds:
            others = {
                name: {"start": starts[name], "trained": starts[name] + change[name] + 0.01 * seed,
                       "similarity": similarity[i]}
                for i, name in enumerate(names) if name != collection
            }  # fmt: skip
            result = Result(
                (collection, "a", "test", str(seed), TUNED), {"nDCG@10": 0.5, "train_seconds": 1.0,
                 "start nDCG@10": 0.4}, {"retention": json.dumps(others)}, np.ones(3),
            )  # fmt: skip
            table.add(result)
    found = transfers(STUDY, Table(tmp_path / RUNS), "a")
    assert len(found) == 3 * 3
    for one in found:
        assert one.trained_on != one.tested_on
        assert one.change.mean == pytest.approx(change[one.tested_on] + 0.01)
        assert one.change.count == 3
    r, low, high, n = correlation(found)
    assert r == pytest.approx(stats.pearsonr([change[n] for n in names], similarity).statistic)
    wanted = stats.pearsonr([change[n] for n in names], similarity).confidence_interval(0.95)
    assert (low, high) == pytest.approx(tuple(wanted), abs=1e-3)
    assert n == 4
    assert correlation([one for one in found if one.tested_on != "far"]) is None
    text = write_page(STUDY, table, tmp_path)
    assert "## On other collections" in text
    assert "-0.0800 ± 0.0248" in text.split("### a")[1].splitlines()[4]  # one, tested on far
