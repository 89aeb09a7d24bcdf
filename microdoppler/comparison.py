"""From runs to a verdict: paired differences, their uncertainty, and a choice among sets that the test cannot flatter.

Test windows overlap, so that single images are no independent tests: what is resampled are whole passes, and with them
the folds and the seeds that a conclusion should not depend on. The three are crossed, and the variance is the sum of
what each of them brings when it is resampled on its own.
"""
from dataclasses import dataclass
from typing import Sequence

import numpy as np
from scipy import stats

from microdoppler.arms import BASELINE_OF
from microdoppler.study import Run

REPLICATES = 4000
CONFIDENCE = 0.95
Z = stats.norm.ppf(0.5 + CONFIDENCE / 2)
MOST_SEEDS = 200                            # that anyone would wait for
FACTORS = ("folds", "seeds", "passes")      # what a conclusion should not depend on
BOOTSTRAP_SEED = 0


@dataclass(frozen=True, eq=False)
class Table:
    """Who was right, counted by pass: correct {arm: (folds, seeds, passes)}, of total (folds, passes) test images;
    user_of: (passes,) the user that a pass belongs to."""
    correct: dict[str, np.ndarray]
    total: np.ndarray
    user_of: np.ndarray

    @staticmethod
    def of(runs: Sequence[Run]) -> "Table":
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
        return Table(correct, total, np.array(list(user_of.values())))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Folds, seeds, passes."""
        return next(iter(self.correct.values())).shape


@dataclass(frozen=True, eq=False)
class Weights:
    """How often each fold (b, folds), seed (b, seeds) and pass (b, passes) counts, for b replicates at once."""
    folds: np.ndarray
    seeds: np.ndarray
    passes: np.ndarray

    @staticmethod
    def even(table: Table) -> "Weights":
        return Weights(*(np.ones((1, size)) for size in table.shape))

    @staticmethod
    def resampled(table: Table, factor: str) -> "Weights":
        """REPLICATES bootstrap draws of the folds, the seeds or, within each of `strata`, the passes; the other two
        stay as they are.

        Of n units n - 1 are drawn and weighted by n / (n - 1), without which the variance of a mean of few would be too
        small by that factor (Rao & Wu 1988, section 2).
        """
        rng = np.random.default_rng(BOOTSTRAP_SEED)
        weights = Weights(*(np.ones((REPLICATES, size)) for size in table.shape))
        drawn = getattr(weights, factor)
        of = strata(table) if factor == "passes" else np.zeros(drawn.shape[1])
        for stratum in np.unique(of):
            drawn[:, of == stratum] = _draw(int((of == stratum).sum()), rng)
        return weights

    def among(self, passes: np.ndarray) -> "Weights":
        """The same with only these passes (passes,) bool."""
        return Weights(self.folds, self.seeds, self.passes * passes)


def strata(table: Table) -> np.ndarray:
    """(passes,) within what a pass is drawn: its user; users of one pass are drawn among each other."""
    users, counts = np.unique(table.user_of, return_counts=True)
    return np.where(np.isin(table.user_of, users[counts > 1]), table.user_of, -1)


def _draw(size: int, rng: np.random.Generator) -> np.ndarray:
    if size == 1:
        return np.ones((REPLICATES, 1))
    return rng.multinomial(size - 1, np.full(size, 1 / size), REPLICATES) * size / (size - 1)


def accuracy(table: Table, arm: str, weights: Weights) -> np.ndarray:
    """(b,) the arm's accuracy: over passes in each run, then the mean over folds and seeds."""
    right = np.einsum("bp,fsp->bfs", weights.passes, table.correct[arm])
    of = np.einsum("bp,fp->bf", weights.passes, table.total)
    shares = weights.folds[:, :, None] * weights.seeds[:, None, :] * (of > 0)[:, :, None]
    runs = right / np.maximum(of, 1e-9)[:, :, None]
    return (runs * shares).sum(axis=(1, 2)) / np.maximum(shares.sum(axis=(1, 2)), 1e-9)


def difference(table: Table, arm: str, baseline: str, weights: Weights) -> np.ndarray:
    """(b,) accuracy of the arm less that of its baseline on the same folds, seeds and passes."""
    return accuracy(table, arm, weights) - accuracy(table, baseline, weights)


def compare(table: Table, arm: str, baseline: str) -> dict:
    """The paired difference, its 95 % interval, a verdict, and how many seeds per fold would tell.

    Plain values for summary.json; interval None where there is one run only, which has nothing to vary.
    """
    return _judge(table, float(difference(table, arm, baseline, Weights.even(table))[0]),
                  lambda weights: difference(table, arm, baseline, weights))


def _judge(table: Table, found: float, estimate) -> dict:
    """estimate: Weights → (b,) replicates of what was `found`."""
    num_folds, num_seeds, _ = table.shape
    if num_folds * num_seeds == 1:
        return {"difference": found, "interval_95": None, "verdict": "not distinguishable", "seeds_needed": None}
    variance = {factor: float(np.var(estimate(Weights.resampled(table, factor)))) for factor in FACTORS}
    freedom = dict(zip(FACTORS, np.array(table.shape) - [1, 1, len(np.unique(strata(table)))]))
    half = half_width(variance, freedom)
    low, high = found - half, found + half
    verdict = "helps" if low > 0 else "hurts" if high < 0 else "not distinguishable"
    needed = seeds_needed(found, variance, freedom) if verdict == "not distinguishable" else None
    return {"difference": found, "interval_95": [float(low), float(high)], "verdict": verdict,
            "seeds_needed": needed}


def half_width(variance: dict[str, float], freedom: dict[str, int]) -> float:
    """Of the 95 % interval: the standard error times Student's t, whose degrees of freedom are those of a sum of
    variances that are estimated from few units (Satterthwaite 1946, eq. 17)."""
    spread = sum(variance[factor]**2 / freedom[factor] for factor in FACTORS if freedom[factor])
    quantile = Z if spread == 0 else stats.t.ppf(0.5 + CONFIDENCE / 2, sum(variance.values())**2 / spread)
    return float(quantile * np.sqrt(sum(variance.values())))


def seeds_needed(found: float, variance: dict[str, float], freedom: dict[str, int]) -> int | None:
    """How many seeds per fold would shrink the interval until it leaves out 0, should the difference stay what it is.

    More seeds shrink the variance by seeds, and make it better known; those by folds and by test passes stay. None when
    they alone are too large, or when there is one seed only, whose variance is unknown.
    """
    seeds = freedom["seeds"] + 1
    if seeds == 1:
        return None
    for number in range(seeds + 1, MOST_SEEDS + 1):
        fewer = variance | {"seeds": variance["seeds"] * seeds / number}
        if half_width(fewer, freedom | {"seeds": number - 1}) < abs(found):
            return number
    return None


def halves(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Every other pass, user by user, and the rest: two (passes,) bool."""
    first = np.zeros(len(table.user_of), dtype=bool)
    first[np.argsort(table.user_of, kind="stable")[::2]] = True
    return first, ~first


def cross_fitted(table: Table, candidates: Sequence[str], baseline: str, weights: Weights) -> np.ndarray:
    """(b,) the difference when the best candidate is chosen on one half of the passes and reported on the other.

    Each half chooses once and reports once; the mean counts each half by its test images.
    """
    reported, sizes = [], []
    for choosing, reporting in zip(halves(table), reversed(halves(table))):
        chosen = choose(table, candidates, weights.among(choosing))
        found = np.stack([difference(table, arm, baseline, weights.among(reporting)) for arm in candidates])
        reported.append(found[chosen, np.arange(found.shape[1])])
        sizes.append(weights.among(reporting).passes @ table.total.sum(axis=0))
    return (reported[0] * sizes[0] + reported[1] * sizes[1]) / (sizes[0] + sizes[1])


def choose(table: Table, candidates: Sequence[str], weights: Weights) -> np.ndarray:
    """(b,) the index of the candidate that is most accurate under these weights; the first of equals."""
    return np.stack([accuracy(table, arm, weights) for arm in candidates]).argmax(axis=0)


def best_of(table: Table, kind: str, candidates: Sequence[str]) -> dict:
    """The choice among the sets of one kind of arm: naive (best on all test images, reported on the same), and
    cross-fitted. A single set leaves no choice, and the two are the same."""
    baseline, even = BASELINE_OF[kind], Weights.even(table)
    naive = candidates[int(choose(table, candidates, even)[0])]
    chosen = [candidates[int(choose(table, candidates, even.among(half))[0])] for half in halves(table)]
    flattered = fair = compare(table, naive, baseline)
    if len(candidates) > 1:
        found = float(cross_fitted(table, candidates, baseline, even)[0])
        fair = _judge(table, found, lambda weights: cross_fitted(table, candidates, baseline, weights))
    return {"kind": kind, "baseline": baseline, "num_candidates": len(candidates), "naive_choice": naive,
            "naive": flattered, "choices": chosen, "cross_fitted": fair}
