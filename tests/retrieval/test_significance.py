import itertools

import numpy as np
import pytest
from scipy import stats

from selfdistill_jax.retrieval import significance
from selfdistill_jax.retrieval.significance import paired_test


def values(seed, n, shift=0.0):
    rng = np.random.default_rng(seed)
    a = rng.uniform(0, 1, n)
    return a, a + shift + rng.normal(0, 0.1, n)


@pytest.mark.parametrize("n", [2, 5, 50, 700])
@pytest.mark.parametrize("shift", [0.0, 0.02, -0.05])
def test_t_is_scipys(n, shift):
    a, b = values(n, n, shift)
    assert paired_test(a, b).p_t == pytest.approx(stats.ttest_rel(b, a).pvalue, rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_randomization_approaches_the_exact_test(seed):
    # With tenths, as in measures, many flips give exactly the observed sum.
    difference = np.random.default_rng(seed).integers(-2, 5, 9) / 10
    flips = np.array(list(itertools.product([1, -1], repeat=9)))
    exact = np.mean(
        np.abs((flips * np.round(10 * difference)).sum(1)) >= 10 * abs(sum(difference)) - 1e-6
    )
    found = paired_test(np.zeros(9), difference, resamples=40_000, seed=seed).p_randomization
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 40_000) + 1e-4)


def test_smallest_p_is_one_over_the_resamples():
    a, b = values(0, 200, shift=1.0)
    assert paired_test(a, b, resamples=99).p_randomization == 1 / 100


def test_counts_and_mean():
    test = paired_test([0.0, 0.5, 0.5, 1.0], [1.0, 0.5, 0.25, 1.0])
    assert (test.n, test.wins, test.losses, test.ties) == (4, 1, 1, 2)
    assert test.mean_difference == pytest.approx(0.75 / 4)


def test_interval_is_that_of_the_mean():
    a, b = values(1, 400, shift=0.02)
    test = paired_test(a, b)
    error = stats.sem(b - a)
    middle = (b - a).mean()
    assert test.ci_low == pytest.approx(middle - 1.96 * error, abs=0.1 * error)
    assert test.ci_high == pytest.approx(middle + 1.96 * error, abs=0.1 * error)


def test_swapping_the_systems_mirrors_the_result():
    a, b = values(2, 60, shift=0.03)
    one, other = paired_test(a, b), paired_test(b, a)
    assert one.mean_difference == -other.mean_difference
    assert (one.p_t, one.p_randomization) == (other.p_t, other.p_randomization)
    assert one.ci_low == pytest.approx(-other.ci_high, abs=0.002)
    assert (one.wins, one.losses) == (other.losses, other.wins)


@pytest.mark.parametrize("n", [1, 2, 30])
def test_equal_systems(n):
    test = paired_test([0.3] * n, [0.3] * n)
    assert (test.p_t, test.p_randomization) == (1.0, 1.0)
    assert (test.mean_difference, test.ci_low, test.ci_high, test.ties) == (0.0, 0.0, 0.0, n)


def test_one_query_is_no_evidence():
    test = paired_test([0.0], [1.0])
    assert (test.p_t, test.p_randomization, test.ci_low, test.ci_high) == (1.0, 1.0, 1.0, 1.0)


def test_one_difference_everywhere():
    test = paired_test([0.0] * 20, [0.5] * 20)
    assert (test.p_t, test.ci_low, test.ci_high) == (0.0, 0.5, 0.5)
    assert test.p_randomization < 0.001


def test_dicts_are_paired_by_key():
    a, b = {"x": 0.1, "y": 0.9, "z": 0.5}, {"z": 0.6, "x": 0.1, "y": 1.0}
    test = paired_test(a, b)
    assert (test.wins, test.losses, test.ties) == (2, 0, 1)
    assert test.mean_difference == pytest.approx(0.2 / 3)
    assert test == paired_test(list(a.values()), [b[key] for key in a])


def test_depends_on_the_seed_only():
    a, b = values(3, 40, shift=0.03)
    assert paired_test(a, b) == paired_test(a, b)
    assert paired_test(a, b, seed=1).p_randomization != paired_test(a, b).p_randomization


def test_memory_stays_bounded(monkeypatch):
    monkeypatch.setattr(significance, "_CELLS", 50)  # 5 resamples of 10 queries at one time
    sizes = []
    draw = significance._resample
    monkeypatch.setattr(
        significance,
        "_resample",
        lambda f, *rest: draw(lambda count: sizes.append(count) or f(count), *rest),
    )
    paired_test(*values(4, 10), resamples=23)
    assert sizes == [5, 5, 5, 5, 3] * 2


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ({"x": 1.0}, {"x": 1.0, "y": 1.0}, "1 are in only one"),
        ([1.0], [1.0, 2.0], r"got \(1,\) and \(2,\)"),
        ([], [], "the same length"),
        ({}, {}, "the same length"),
    ],
)
def test_refuses(a, b, message):
    with pytest.raises(ValueError, match=message):
        paired_test(a, b)
