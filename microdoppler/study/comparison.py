"""From runs to a verdict: paired differences of accuracy, their confidence interval, and how many seeds are needed.

Test windows of one pass overlap, so single images are no independent tests. The units are whole passes. Folds and
random seeds are units too, since a conclusion should not depend on which ones were used. The three factors are crossed,
and the variance of a difference is the sum of the parts that come from each of them.
"""
from dataclasses import dataclass, replace
from typing import Sequence

import numpy as np
from scipy import stats

from microdoppler.study.runs import Run

REPLICATES = 4000                           # of the bootstrap
CONFIDENCE = 0.95
Z = stats.norm.ppf(0.5 + CONFIDENCE / 2)
MAX_SEEDS = 200                             # per fold; nobody would wait for more
BOOTSTRAP_SEED = 0


@dataclass(frozen=True, eq=False)
class CorrectCounts:
    """Numbers of correctly classified test images per pass.

    correct: {name of an arm: (folds, seeds, passes)}; total: (folds, passes), the number of test images, 0 where a fold
    does not test on a pass; user_of: (passes,) the label (user number - 1) of the user that a pass belongs to.
    """
    correct: dict[str, np.ndarray]
    total: np.ndarray
    user_of: np.ndarray

    @staticmethod
    def of(runs: Sequence[Run]) -> "CorrectCounts":
        """Count over runs. Raises ValueError unless there is one run for each arm, fold and seed."""
        folds, seeds = (sorted({getattr(run, part) for run in runs}) for part in ("fold", "seed"))
        user_of = {name: label for run in runs for name, label in zip(run.passes, run.labels.tolist())}
        index_of = {name: i for i, name in enumerate(user_of)}      # of a pass
        correct = {run.arm.name: np.zeros((len(folds), len(seeds), len(index_of))) for run in runs}
        total = np.zeros((len(folds), len(index_of)))
        cells = {(run.arm.name, run.fold, run.seed) for run in runs}
        if not len(cells) == len(runs) == len(correct) * len(folds) * len(seeds):
            raise ValueError(f"{len(runs)} runs; expected one for each of {len(correct)} arms, {len(folds)} folds and "
                             f"{len(seeds)} seeds")
        for run in runs:
            pass_indices = [index_of[name] for name in run.passes]
            fold = folds.index(run.fold)
            correct[run.arm.name][fold, seeds.index(run.seed)] = np.bincount(pass_indices, run.correct, len(index_of))
            total[fold] = np.bincount(pass_indices, minlength=len(index_of))
        return CorrectCounts(correct, total, np.array(list(user_of.values())))

    @property
    def shape(self) -> tuple[int, int, int]:
        """The numbers of folds, seeds and passes."""
        return next(iter(self.correct.values())).shape


def accuracies(counts: CorrectCounts, arm: str, weights: np.ndarray | None = None) -> np.ndarray:
    """The accuracy of each run of an arm, for b weightings of the passes at once: (b, folds, seeds).

    weights: (b, passes), how often each pass counts; default: each once, with b = 1. NaN where the test passes of a
    fold have no weight.
    """
    weights = np.ones((1, counts.shape[2])) if weights is None else weights
    correct, total = np.tensordot(weights, counts.correct[arm], axes=(1, 2)), weights @ counts.total.T
    return correct / np.where(total > 0, total, np.nan)[:, :, None]


def accuracy_differences(counts: CorrectCounts, arm: str, baseline: str,
                         weights: np.ndarray | None = None) -> np.ndarray:
    """Accuracies of an arm less those of its baseline with the same folds, seeds and weights: (b, folds, seeds)."""
    return accuracies(counts, arm, weights) - accuracies(counts, baseline, weights)


@dataclass(frozen=True)
class Variance:
    """The variance of a mean difference, as a sum of four parts: from folds, from seeds, from single runs, from passes.

    folds, seeds: moment estimates of a crossed analysis of variance (Searle, Casella & McCulloch 1992, section 4.3), or
    0 where these are negative. They equal the variance of a bootstrap that draws n - 1 of n units (Rao & Wu 1988,
    section 2) with infinitely many replicates, less the part from runs: the folds' means and the seeds' means both
    contain it. runs: the scatter of single runs that neither their fold nor their seed explains. passes: the variance
    of a bootstrap over passes.
    """
    folds: float
    seeds: float
    runs: float
    passes: float

    @staticmethod
    def of(counts: CorrectCounts, arm: str, baseline: str) -> "Variance":
        """Estimate it for the difference of an arm from its baseline."""
        differences = accuracy_differences(counts, arm, baseline)[0]
        by_fold, by_seed = differences.mean(axis=1), differences.mean(axis=0)
        residuals = differences - by_fold[:, None] - by_seed + differences.mean()
        runs = float(np.square(residuals).sum()) / max(1, (len(by_fold) - 1) * (len(by_seed) - 1)) / differences.size
        folds, seeds = (max(0.0, float(np.var(means, ddof=1)) / len(means) - runs) if len(means) > 1 else 0.0
                        for means in (by_fold, by_seed))
        resampled = accuracy_differences(counts, arm, baseline, resampled_passes(counts))
        return Variance(folds, seeds, runs, float(np.var(np.nanmean(resampled, axis=(1, 2)))))

    def with_seeds(self, factor: float) -> "Variance":
        """The variance with 1 / factor times as many seeds: only the parts from seeds and runs change, by `factor`."""
        return replace(self, seeds=self.seeds * factor, runs=self.runs * factor)

    @property
    def total(self) -> float:
        """The sum of the four parts."""
        return self.folds + self.seeds + self.runs + self.passes


@dataclass(frozen=True)
class DegreesOfFreedom:
    """The degrees of freedom of each variance: number of units less one; of passes, less one for each stratum."""
    folds: int
    seeds: int
    passes: int


def resampled_passes(counts: CorrectCounts) -> np.ndarray:
    """Bootstrap weights of the passes, resampled within each stratum: (REPLICATES, passes).

    From the n passes of a stratum, n - 1 are drawn with replacement, and each weighs n / (n - 1). Without this, the
    variance of a mean of few passes would be too small by the factor (n - 1) / n (Rao & Wu 1988, section 2).
    """
    rng, stratum_of = np.random.default_rng(BOOTSTRAP_SEED), strata(counts)
    weights = np.ones((REPLICATES, len(stratum_of)))
    for stratum in np.unique(stratum_of):
        size = int((stratum_of == stratum).sum())
        if size > 1:
            weights[:, stratum_of == stratum] = (rng.multinomial(size - 1, np.full(size, 1 / size), REPLICATES)
                                                 * size / (size - 1))
    return weights


def strata(counts: CorrectCounts) -> np.ndarray:
    """(passes,) the stratum within which a pass is resampled: its user's label.

    Users with a single pass form one stratum together, -1.
    """
    users, num_passes = np.unique(counts.user_of, return_counts=True)
    return np.where(np.isin(counts.user_of, users[num_passes > 1]), counts.user_of, -1)


def compare(counts: CorrectCounts, arm: str, baseline: str) -> dict:
    """Compare an arm with its baseline. Plain values for summary.json:

    difference: mean paired difference of accuracy, as a fraction; interval_95: its confidence interval [low, high],
    None if the arm has only one run, which has no variance; verdict: "helps" if the interval lies above 0, "hurts" if
    below, otherwise "not distinguishable"; seeds_needed: see `seeds_needed`, None if there is a verdict.
    """
    difference = float(accuracy_differences(counts, arm, baseline).mean())
    num_folds, num_seeds, num_passes = counts.shape
    if num_folds * num_seeds == 1:
        return {"difference": difference, "interval_95": None, "verdict": "not distinguishable", "seeds_needed": None}
    variance = Variance.of(counts, arm, baseline)
    degrees = DegreesOfFreedom(num_folds - 1, num_seeds - 1, num_passes - len(np.unique(strata(counts))))
    half = half_width(variance, degrees)
    low, high = difference - half, difference + half
    verdict = "helps" if low > 0 else "hurts" if high < 0 else "not distinguishable"
    needed = seeds_needed(difference, variance, degrees) if verdict == "not distinguishable" else None
    return {"difference": difference, "interval_95": [low, high], "verdict": verdict, "seeds_needed": needed}


def half_width(variance: Variance, degrees: DegreesOfFreedom) -> float:
    """Half the width of the 95 % confidence interval: the standard error times a quantile of Student's t.

    The degrees of freedom of t are those of a sum of estimated variances (Satterthwaite 1946, eq. 17). The parts from
    folds and runs count as one variance, that of the folds' means. If the part from folds is 0, only runs remain, with
    the degrees of freedom of the interaction. If no part has both a variance and degrees of freedom, the quantile is
    that of the normal distribution.
    """
    folds_and_runs = degrees.folds if variance.folds else degrees.folds * degrees.seeds
    parts = ((variance.folds + variance.runs, folds_and_runs), (variance.seeds, degrees.seeds),
             (variance.passes, degrees.passes))
    denominator = sum(part**2 / part_degrees for part, part_degrees in parts if part_degrees)
    quantile = Z if denominator == 0 else stats.t.ppf(0.5 + CONFIDENCE / 2, variance.total**2 / denominator)
    return float(quantile * np.sqrt(variance.total))


def seeds_needed(difference: float, variance: Variance, degrees: DegreesOfFreedom) -> int | None:
    """How many seeds per fold would make the confidence interval exclude 0, if the difference stays the same.

    More seeds reduce the variance from seeds and from runs, and add degrees of freedom. The variance from folds and
    from passes stays the same. None when MAX_SEEDS are not enough, or when there is only one seed so far: the variance
    from seeds is then unknown.
    """
    seeds = degrees.seeds + 1
    if seeds == 1:
        return None
    for number in range(seeds + 1, MAX_SEEDS + 1):
        if half_width(variance.with_seeds(seeds / number), replace(degrees, seeds=number - 1)) < abs(difference):
            return number
    return None
