"""The variance of a mean difference of accuracy, and its degrees of freedom, from the differences of single passes.

Test windows of one pass overlap, so single images are no independent tests; the units are whole passes. The persons are
given: passes are compared with other passes of the same person. The model of a difference of two arms is

    difference(fold, seed, pass) = mean of the person + fold + run + pass + (fold, pass) + (fold, seed, pass)

with independent effects. Runs are nested in folds: a seed stands for other random numbers in each fold (see runs.py).
Where a generator was trained several times, a run is the mean of the seeds that use the same training, since these are
not independent.
"""
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from microdoppler.study.counts import CorrectCounts, accuracy_differences


@dataclass(frozen=True)
class Variance:
    """The variance of a mean difference over all folds, seeds and passes, as the sum of its first four parts.

    folds: from folds; runs: from single runs, which their fold does not explain; passes: from the choice of passes, as
    all runs of a fold share it; noise: from passes too, of each run on its own. leaked: what passes, beside noise, add
    to the mean square that folds and runs are estimated from. num_seeds: runs per fold. pass_degrees: number of passes
    less that of strata.
    """
    folds: float
    runs: float
    passes: float
    noise: float
    leaked: float
    num_folds: int
    num_seeds: int
    pass_degrees: int

    @staticmethod
    def of(counts: CorrectCounts, arm: str, baseline: str) -> "Variance":
        """Estimate it for the difference of an arm from its baseline.

        The mean squares of runs nested in folds (Searle, Casella & McCulloch 1992, chapter 3) contain variance from
        passes, which `passes` holds already: it is subtracted. Where the scatter of the folds' means is then less than
        that of single runs explains, folds have no part, and both mean squares are pooled (restricted maximum
        likelihood).
        """
        if (trainings := counts.trainings_of(arm, baseline)) > 1:
            counts = counts.per_training(trainings)
        differences = accuracy_differences(counts, arm, baseline)
        num_folds, num_seeds, _ = counts.shape
        covariance = pass_covariance(counts, arm, baseline)
        between_passes, within_passes = mean_squares(covariance)
        between, within = np.subtract(mean_squares(np.multiply.outer(differences, differences)),
                                      (between_passes, within_passes))
        if num_folds == 1 or num_seeds > 1 and between < within:
            weights = np.array([num_folds - 1, num_folds * (num_seeds - 1)]) / max(1, num_folds * num_seeds - 1)
            folds, runs = 0.0, max(0.0, float(weights @ [between, within]))
            leaking = weights @ [between_passes, within_passes]
        else:
            runs = float(max(0.0, within))
            folds, leaking = float(max(0.0, between)) - runs, between_passes
        from_passes = max(0.0, float(covariance.mean()))
        noise = float(np.clip(within_passes, 0.0, from_passes))
        return Variance(folds, runs, from_passes - noise, noise, max(0.0, float(leaking) - noise), num_folds, num_seeds,
                        len(counts.user_of) - len(np.unique(strata(counts.user_of))))

    @property
    def total(self) -> float:
        """The sum of the four parts."""
        return self.folds + self.runs + self.passes + self.noise

    @cached_property
    def degrees_of_freedom(self) -> float:
        """Those of a sum of mean squares (Satterthwaite 1946, eq. 17), but not fewer than the fewest of its terms.

        The terms are the mean square that folds and runs are estimated from, as it is before variance from passes is
        subtracted, and the variance from passes. Infinite where no term has both a variance and degrees of freedom.
        """
        of_runs = self.num_folds - 1 if self.folds else self.num_folds * self.num_seeds - 1
        mean_square = self.folds + self.runs + self.noise + self.leaked if self.folds + self.runs else 0.0
        terms = [(value, degrees) for value, degrees in ((mean_square, of_runs),
                                                         (self.passes + self.noise, self.pass_degrees))
                 if value and degrees]
        if not terms:
            return np.inf
        return max(self.total**2 / sum(value**2 / degrees for value, degrees in terms),
                   min(degrees for _, degrees in terms))

    def with_seeds(self, number: int) -> "Variance":
        """What it would be with this number of seeds: only the parts from runs and noise change."""
        factor = self.num_seeds / number
        return replace(self, runs=self.runs * factor, noise=self.noise * factor, num_seeds=number)


def mean_squares(moments: np.ndarray) -> np.ndarray:
    """Mean squares of values of runs nested in folds: [between folds, within folds], each as a variance of the mean of
    all values.

    moments: (folds, seeds, folds, seeds), the products of the values, or their covariances: the mean squares are linear
    in these, so covariances give expected mean squares. 0 where there is a single fold, or a single seed.
    """
    num_folds, num_seeds = moments.shape[:2]
    own = np.einsum("fsfs", moments) / (num_folds * num_seeds)
    same_fold = np.einsum("fsft->", moments) / (num_folds * num_seeds**2)
    return np.array([(same_fold - moments.mean()) / (num_folds - 1) if num_folds > 1 else 0.0,
                     (own - same_fold) / (num_seeds - 1) / num_folds if num_seeds > 1 else 0.0])


def pass_covariance(counts: CorrectCounts, arm: str, baseline: str) -> np.ndarray:
    """The covariance of the runs' differences that comes from passes: (folds, seeds, folds, seeds).

    Estimated from products of the passes' deviations, in one run and another, from the mean of their stratum (see
    `strata`; a fold has strata of its own). Deviations from means are smaller than the effects themselves. Each product
    is divided by its expectation for effects of variance 1 that both runs share, so that few passes are no bias. 0 from
    a stratum of a single pass.
    """
    num_folds, num_seeds, num_passes = counts.shape
    together = counts.user_of.max() + 1
    groups = np.full((num_folds, num_passes), together)
    deviations = np.zeros(counts.shape)
    weights = np.zeros((num_folds, num_passes))             # of a pass in the mean of its stratum
    correct = counts.correct[arm] - counts.correct[baseline]
    for fold, total in enumerate(counts.total):
        tested = total > 0
        groups[fold, tested] = strata(counts.user_of[tested])
        groups[fold][groups[fold] < 0] = together
        members = np.eye(together + 1)[groups[fold]]        # (passes, strata)
        sizes = np.maximum(1, total @ members)[groups[fold]]
        means = (correct[fold] @ members)[:, groups[fold]] / sizes
        deviations[fold] = (correct[fold] - means * total) / total.sum()
        weights[fold] = total / sizes
    covariance = np.zeros((num_folds, num_seeds, num_folds, num_seeds))
    for one in range(num_folds):
        for other in range(num_folds):
            joint = groups[one] * (together + 1) + groups[other]
            shared = np.bincount(joint, weights[one] * weights[other])[joint]
            expected = 1 - weights[one] - weights[other] + shared
            usable = (counts.total[one] > 0) & (counts.total[other] > 0) & (expected > 1e-9)
            covariance[one, :, other] = (deviations[one][:, usable] / expected[usable]) @ deviations[other][:, usable].T
    return covariance


def strata(users: np.ndarray) -> np.ndarray:
    """The stratum of each pass: its user's label, or -1 for all users with a single pass, who form one stratum together
    (so that differences between users count as those between passes).

    users: (passes,) labels.
    """
    labels, num_passes = np.unique(users, return_counts=True)
    return np.where(np.isin(users, labels[num_passes > 1]), users, -1)
