"""From runs to a verdict: paired differences and their uncertainty.

Test windows overlap, so that single images are no independent tests: the units are whole passes, and with them the
folds and the seeds that a conclusion should not depend on. The three are crossed, and the variance is the sum of what
each of them brings.
"""
from dataclasses import dataclass, replace
from typing import Sequence

import numpy as np
from scipy import stats

from microdoppler.study.runs import Run

REPLICATES = 4000
CONFIDENCE = 0.95
Z = stats.norm.ppf(0.5 + CONFIDENCE / 2)
MOST_SEEDS = 200                            # that anyone would wait for
BOOTSTRAP_SEED = 0


@dataclass(frozen=True, eq=False)
class CorrectCounts:
    """Who was right, counted by pass: correct {arm: (folds, seeds, passes)}, of total (folds, passes) test images;
    user_of: (passes,) the user that a pass belongs to."""
    correct: dict[str, np.ndarray]
    total: np.ndarray
    user_of: np.ndarray

    @staticmethod
    def of(runs: Sequence[Run]) -> "CorrectCounts":
        folds, seeds = (sorted({getattr(run, part) for run in runs}) for part in ("fold", "seed"))
        user_of = {name: label for run in runs for name, label in zip(run.passes, run.labels.tolist())}
        passes = {name: i for i, name in enumerate(user_of)}
        correct = {run.arm.name: np.zeros((len(folds), len(seeds), len(passes))) for run in runs}
        total = np.zeros((len(folds), len(passes)))
        cells = {(run.arm.name, run.fold, run.seed) for run in runs}
        if not len(cells) == len(runs) == len(correct) * len(folds) * len(seeds):
            raise ValueError(f"{len(runs)} runs; expected one for each of {len(correct)} arms, {len(folds)} folds and "
                             f"{len(seeds)} seeds")
        for run in runs:
            place = [passes[name] for name in run.passes]
            fold = folds.index(run.fold)
            correct[run.arm.name][fold, seeds.index(run.seed)] = np.bincount(place, run.correct, len(passes))
            total[fold] = np.bincount(place, minlength=len(passes))
        return CorrectCounts(correct, total, np.array(list(user_of.values())))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Folds, seeds, passes."""
        return next(iter(self.correct.values())).shape


def accuracies(counts: CorrectCounts, arm: str, weights: np.ndarray | None = None) -> np.ndarray:
    """(b, folds, seeds): the accuracy of each run of an arm when its passes count as often as weights (b, passes) say,
    for b replicates at once; default: each once. NaN where no pass of a fold counts."""
    weights = np.ones((1, counts.shape[2])) if weights is None else weights
    right, of = np.tensordot(weights, counts.correct[arm], axes=(1, 2)), weights @ counts.total.T
    return right / np.where(of > 0, of, np.nan)[:, :, None]


def differences(counts: CorrectCounts, arm: str, baseline: str, weights: np.ndarray | None = None) -> np.ndarray:
    """(b, folds, seeds): accuracies of the arm less those of its baseline on the same folds, seeds and passes."""
    return accuracies(counts, arm, weights) - accuracies(counts, baseline, weights)


@dataclass(frozen=True)
class Variance:
    """Of a mean difference over folds, seeds and passes, by what it comes from; runs: the scatter of single runs that
    neither their fold nor their seed explains.

    Of folds and seeds these are the moment estimates of a crossed analysis of variance (Searle, Casella & McCulloch
    1992, section 4.3), cut off at 0; they equal a bootstrap of infinitely many replicates that draws n - 1 of n units
    (Rao & Wu 1988, section 2), less the runs' scatter that folds and seeds would both count. Passes are bootstrapped.
    """
    folds: float
    seeds: float
    runs: float
    passes: float

    @staticmethod
    def of(counts: CorrectCounts, arm: str, baseline: str) -> "Variance":
        found = differences(counts, arm, baseline)[0]
        by_fold, by_seed = found.mean(axis=1), found.mean(axis=0)
        rest = found - by_fold[:, None] - by_seed + found.mean()
        runs = float(np.square(rest).sum()) / max(1, (len(by_fold) - 1) * (len(by_seed) - 1)) / found.size
        folds, seeds = (max(0.0, float(np.var(means, ddof=1)) / len(means) - runs) if len(means) > 1 else 0.0
                        for means in (by_fold, by_seed))
        resampled = differences(counts, arm, baseline, resampled_passes(counts))
        return Variance(folds, seeds, runs, float(np.var(np.nanmean(resampled, axis=(1, 2)))))

    def with_seeds(self, share: float) -> "Variance":
        """That of 1 / share as many seeds: folds and test passes stay what they are."""
        return replace(self, seeds=self.seeds * share, runs=self.runs * share)

    @property
    def total(self) -> float:
        return self.folds + self.seeds + self.runs + self.passes


@dataclass(frozen=True)
class DegreesOfFreedom:
    """How many units less one, or less one per stratum, a variance was estimated from."""
    folds: int
    seeds: int
    passes: int


def resampled_passes(counts: CorrectCounts) -> np.ndarray:
    """(REPLICATES, passes): how often each pass counts, drawn within each of `strata`.

    Of n passes n - 1 are drawn and weighted by n / (n - 1), without which the variance of a mean of few would be too
    small by that factor (Rao & Wu 1988, section 2).
    """
    rng, of = np.random.default_rng(BOOTSTRAP_SEED), strata(counts)
    weights = np.ones((REPLICATES, len(of)))
    for stratum in np.unique(of):
        size = int((of == stratum).sum())
        if size > 1:
            weights[:, of == stratum] = (rng.multinomial(size - 1, np.full(size, 1 / size), REPLICATES)
                                         * size / (size - 1))
    return weights


def strata(counts: CorrectCounts) -> np.ndarray:
    """(passes,) within what a pass is drawn: its user; users of one pass are drawn among each other."""
    users, num_passes = np.unique(counts.user_of, return_counts=True)
    return np.where(np.isin(counts.user_of, users[num_passes > 1]), counts.user_of, -1)


def compare(counts: CorrectCounts, arm: str, baseline: str) -> dict:
    """The paired difference, its 95 % interval, a verdict, and how many seeds per fold would tell.

    Plain values for summary.json; interval None where there is one run only, which has nothing to vary.
    """
    found = float(differences(counts, arm, baseline).mean())
    num_folds, num_seeds, num_passes = counts.shape
    if num_folds * num_seeds == 1:
        return {"difference": found, "interval_95": None, "verdict": "not distinguishable", "seeds_needed": None}
    variance = Variance.of(counts, arm, baseline)
    freedom = DegreesOfFreedom(num_folds - 1, num_seeds - 1, num_passes - len(np.unique(strata(counts))))
    half = half_width(variance, freedom)
    low, high = found - half, found + half
    verdict = "helps" if low > 0 else "hurts" if high < 0 else "not distinguishable"
    needed = seeds_needed(found, variance, freedom) if verdict == "not distinguishable" else None
    return {"difference": found, "interval_95": [low, high], "verdict": verdict, "seeds_needed": needed}


def half_width(variance: Variance, freedom: DegreesOfFreedom) -> float:
    """Of the 95 % interval: the standard error times Student's t, whose degrees of freedom are those of a sum of
    variances that are estimated from few units (Satterthwaite 1946, eq. 17). Folds and runs are one such variance, that
    of the folds' means, unless folds bring nothing to it."""
    by_fold = freedom.folds if variance.folds else freedom.folds * freedom.seeds
    parts = ((variance.folds + variance.runs, by_fold), (variance.seeds, freedom.seeds),
             (variance.passes, freedom.passes))
    spread = sum(part**2 / units for part, units in parts if units)
    quantile = Z if spread == 0 else stats.t.ppf(0.5 + CONFIDENCE / 2, variance.total**2 / spread)
    return float(quantile * np.sqrt(variance.total))


def seeds_needed(found: float, variance: Variance, freedom: DegreesOfFreedom) -> int | None:
    """How many seeds per fold would shrink the interval until it leaves out 0, should the difference stay what it is.

    More seeds shrink the variance by seeds and by runs, and make the former better known; those by folds and by test
    passes stay. None when up to MOST_SEEDS do not do it, or when there is one seed only, whose variance is unknown.
    """
    seeds = freedom.seeds + 1
    if seeds == 1:
        return None
    for number in range(seeds + 1, MOST_SEEDS + 1):
        if half_width(variance.with_seeds(seeds / number), replace(freedom, seeds=number - 1)) < abs(found):
            return number
    return None
