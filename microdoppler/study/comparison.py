"""From runs to a verdict: paired differences of accuracy, their confidence interval, and how many seeds are needed."""
from typing import Sequence

import numpy as np
from scipy import stats

from microdoppler.study.counts import CorrectCounts, accuracy_differences
from microdoppler.study.variance import Variance

CONFIDENCE = 0.95
POWER = 0.8             # the probability of a verdict that "needed" means (Cohen 1988)
MAX_SEEDS = 200         # per fold; nobody would wait for more
HELPS, HURTS, OPEN = "helps", "hurts", "not distinguishable"


def compare(counts: CorrectCounts, arm: str, baseline: str) -> dict:
    """Compare an arm with its baseline. Plain values for summary.json:

    difference: mean paired difference of accuracy, as a fraction; interval_95: its confidence interval [low, high] for
    other passes of the same users, other seeds and other folds; p_value: two-sided, of no difference; both None if the
    arm has only one run, which has no variance; verdict: see `verdict`; seeds_needed: see `seeds_needed`, None if there
    is a verdict.
    """
    difference = float(accuracy_differences(counts, arm, baseline).mean())
    num_folds, num_seeds, _ = counts.shape
    if num_folds * num_seeds == 1:
        return {"difference": difference, "interval_95": None, "p_value": None, "verdict": OPEN, "seeds_needed": None}
    variance = Variance.of(counts, arm, baseline)
    seeds_of_run = num_seeds // variance.num_seeds          # above 1 where seeds share trainings of a generator
    half, p_value = half_width(variance), p_value_of(difference, variance)
    found = verdict(difference, p_value)
    needed = seeds_needed(difference, variance) if found == OPEN else None
    return {"difference": difference, "interval_95": [difference - half, difference + half], "p_value": p_value,
            "verdict": found, "seeds_needed": needed and needed * seeds_of_run}


def verdict(difference: float, p_value: float | None) -> str:
    """"helps" or "hurts" if the p-value is below 1 - CONFIDENCE (so that 0 is outside of the interval), otherwise "not
    distinguishable"."""
    if p_value is None or p_value >= 1 - CONFIDENCE:
        return OPEN
    return HELPS if difference > 0 else HURTS


def half_width(variance: Variance) -> float:
    """Half the width of the confidence interval: the standard error times a quantile of Student's t."""
    return float(stats.t.ppf(0.5 + CONFIDENCE / 2, variance.degrees_of_freedom) * np.sqrt(variance.total))


def p_value_of(difference: float, variance: Variance) -> float:
    """The two-sided p-value of the hypothesis that there is no difference, by Student's t."""
    if variance.total == 0:
        return float(difference == 0)
    return float(2 * stats.t.sf(abs(difference) / np.sqrt(variance.total), variance.degrees_of_freedom))


def seeds_needed(difference: float, variance: Variance) -> int | None:
    """How many seeds per fold would give a verdict with a probability of POWER, if the true difference is as found.

    More seeds reduce the variance from runs and noise, and may add degrees of freedom. The variance from folds and from
    passes stays the same. None when MAX_SEEDS are not enough, or when there is only one seed so far: the variance from
    runs is then unknown.
    """
    if variance.num_seeds == 1 or variance.total == 0:
        return None
    numbers = range(variance.num_seeds + 1, MAX_SEEDS + 1)
    enough = np.flatnonzero(power(difference, [variance.with_seeds(number) for number in numbers]) >= POWER)
    return numbers[enough[0]] if len(enough) else None


def power(difference: float, variances: Sequence[Variance]) -> np.ndarray:
    """(n,) the probability that a study with each of these variances finds its true difference, on the right side:
    that of a noncentral t above the quantile (Cohen 1988)."""
    degrees = np.array([min(variance.degrees_of_freedom, 1e4) for variance in variances])   # more make no difference
    errors = np.sqrt([variance.total for variance in variances])
    return stats.nct.sf(stats.t.ppf(0.5 + CONFIDENCE / 2, degrees), degrees, abs(difference) / errors)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of one family, adjusted so that the chance of any false verdict stays below 1 - CONFIDENCE (Holm 1979).

    The smallest of n is multiplied by n, the next by n - 1, and so on; none gets below a smaller one, or above 1.
    """
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(np.sort(p_values) * np.arange(len(p_values), 0, -1)))
    return adjusted.tolist()
