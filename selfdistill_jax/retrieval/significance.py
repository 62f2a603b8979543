"""Paired significance tests over queries: whether one system is better than another."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

_CELLS = 2**22  # resampled values in memory at a time: 32 MB
_FLIPS = 2000  # draws of random signs
_PASSING = 0.8413  # probability that a value is at most one standard error above the mean


@dataclasses.dataclass(frozen=True)
class PairedTest:
    """Result of `paired_test`; differences are b minus a."""

    n: int  # queries
    mean_difference: float
    p_t: float  # two-sided, Student's paired t-test
    p_randomization: float  # two-sided, sign flips
    ci_low: float  # 95 % interval of the mean difference
    ci_high: float
    wins: int  # queries on which b is better
    losses: int
    ties: int


def paired_test(
    a: Mapping[str, float] | Sequence[float] | np.ndarray,
    b: Mapping[str, float] | Sequence[float] | np.ndarray,
    *,
    resamples: int = 10000,
    seed: int = 0,
) -> PairedTest:
    """Compares two systems on the same queries.

    The null hypothesis of both tests is that the systems do not differ. The randomization test,
    which assumes no distribution, flips the sign of each query's difference at random and counts
    how often the mean is at least as far from 0 as the observed one: ``p = (1 + count) /
    (1 + resamples)``. Student's t-test agrees with it on retrieval measures (Smucker, Allan and
    Carterette, CIKM 2007, doi:10.1145/1321440.1321528). The interval is a percentile bootstrap.

    Args:
      a: one measure's values per query, as a dict by query id, or as a sequence in the order of b.
      b: the same for the other system.
      resamples: number of resamples of the randomization test and of the bootstrap.
      seed: random seed of both.

    Raises:
      ValueError: a and b are not for the same queries, or there are no queries.

    Example:
      >>> test = paired_test([0.1, 0.2, 0.3, 0.4], [0.2, 0.4, 0.6, 0.4])
      >>> test.wins, test.losses, test.ties, round(test.mean_difference, 3), round(test.p_t, 3)
      (3, 0, 1, 0.15, 0.103)
    """
    difference = _differences(a, b)
    n = len(difference)
    observed = float(difference.mean())
    flips_rng, bootstrap_rng = np.random.default_rng(seed).spawn(2)

    moved = difference[difference != 0]  # a flip leaves a difference of 0 as it is
    # A flipped sum equal to the observed one must count even if rounding changed its last bits.
    limit = abs(moved.sum()) - 1e-9 * np.abs(moved).sum()

    def flipped_sums(count: int) -> np.ndarray:
        return (2.0 * flips_rng.integers(0, 2, (count, len(moved)), np.int8) - 1) @ moved

    def bootstrap_means(count: int) -> np.ndarray:
        return difference[bootstrap_rng.integers(n, size=(count, n))].mean(axis=1)

    extreme = int((np.abs(_resample(flipped_sums, resamples, n)) >= limit).sum())
    low, high = np.percentile(_resample(bootstrap_means, resamples, n), [2.5, 97.5])
    return PairedTest(
        n=n,
        mean_difference=observed,
        p_t=_t_test(difference),
        p_randomization=(1 + extreme) / (1 + resamples),
        ci_low=float(low),
        ci_high=float(high),
        wins=int((difference > 0).sum()),
        losses=int((difference < 0).sum()),
        ties=n - len(moved),
    )


def _differences(a, b) -> np.ndarray:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.keys() != b.keys():
            raise ValueError(
                f"a and b must hold the same queries; {len(a.keys() ^ b.keys())} are in only one"
            )
        a, b = list(a.values()), [b[query] for query in a]
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise ValueError(
            f"a and b must be [queries] of the same length; got {a.shape} and {b.shape}"
        )
    return b - a


def _resample(draw: Callable[[int], np.ndarray], resamples: int, n: int) -> np.ndarray:
    """Returns ``[resamples]`` values from `draw`, computed in parts that fit in memory."""
    part = max(1, _CELLS // n)
    counts = [min(part, resamples - done) for done in range(0, resamples, part)]
    return np.concatenate([draw(count) for count in counts])


def _t_test(difference: np.ndarray) -> float:
    from scipy import special  # imported here: takes 0.1 s, needed only at the end of a run

    n = len(difference)
    if n == 1 or not difference.any():
        return 1.0  # one query tells nothing about others; no difference is no evidence
    error = difference.std(ddof=1) / np.sqrt(n)
    if error == 0:
        return 0.0  # the same difference for all queries: t goes to infinity
    return float(2 * special.stdtr(n - 1, -abs(difference.mean() / error)))


def needed_errors(gains: np.ndarray) -> float:
    """Returns the standard errors by which the best candidate must be better than a baseline.

    With one candidate and many queries this is the rule of one standard error, which a candidate
    without any gain passes with a probability of 16 %. The best of several would pass it more often
    by luck alone, so the number rises with the candidates, to keep the 16 %. It rises less if they
    are alike, as the steps of one run are. It comes from random signs: each draw flips the gains of
    some queries, for all candidates together, and takes the largest gain in standard errors; the
    number is the 84 % quantile of the draws (Westfall and Young, 1993).

    Args:
      gains: ``[candidates, queries]``, differences to the baseline of every model that was
        compared with it.

    Example:
      >>> draw = np.random.default_rng(0)
      >>> unlike, alike = draw.normal(size=(16, 300)), draw.normal(size=(1, 300)).repeat(16, 0)
      >>> [round(needed_errors(x), 1) for x in (unlike[:1], unlike, alike)]
      [1.0, 2.3, 1.0]
    """
    count = gains.shape[1]
    if count < 2:
        return float("inf")
    draw = np.random.default_rng(0)
    means = np.zeros((_FLIPS, len(gains)))
    for first in range(0, count, _CELLS // _FLIPS):
        part = gains[:, first : first + _CELLS // _FLIPS]
        means += draw.choice([-1.0, 1.0], size=(_FLIPS, part.shape[1])) @ part.T / count
    # Flipped signs do not change the mean of the squares.
    variances = np.maximum(np.mean(gains**2, axis=1) - means**2, 0) / (count - 1)
    errors = np.sqrt(variances)
    in_errors = np.divide(means, errors, out=np.sign(means) * 1e9, where=errors > 1e-12)
    return float(np.quantile(in_errors.max(axis=1), _PASSING, method="higher"))


def mean_and_error(gains: np.ndarray) -> tuple[float, float]:
    """Returns the mean and its standard error, which is infinite for one query."""
    n = len(gains)
    return float(gains.mean()), float(gains.std(ddof=1) / n**0.5) if n > 1 else float("inf")
