"""Simulated studies whose true difference is known, to see how often the interval contains it.

They have what real ones have: every fold tests other passes, single images are noisy in every run, passes have few
images and unequal numbers of them, and persons differ. python -m tests.study.simulated_studies 2000 prints a table.
"""
import sys
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from microdoppler.study.comparison import half_width
from microdoppler.study.counts import CorrectCounts, accuracy_differences
from microdoppler.study.variance import Variance

UNCERTAIN = 0.4         # the share of images that some runs recognise and others do not


@dataclass(frozen=True)
class Design:
    """The size of a study, and the standard deviations of the effects on a difference of two arms.

    passes: per user; images: of a pass, on average; by_user: of a person, the same in all runs; by_fold, by_run: of a
    fold, of a single run; by_user_and_fold, by_user_and_run: of a person in these; by_pass: of a pass in all runs,
    by_fold_and_pass: in those of a fold. uncertain: the share of images whose recognition is chance. trainings: of the
    generator in a fold, which the seeds use in turn; by_training: of a training.
    """
    folds: int = 3
    seeds: int = 3
    users: int = 8
    passes: int = 6
    images: int = 18
    by_user: float = 0.05
    by_fold: float = 0.01
    by_run: float = 0.01
    by_user_and_fold: float = 0.0
    by_user_and_run: float = 0.0
    by_pass: float = 0.05
    by_fold_and_pass: float = 0.0
    uncertain: float = UNCERTAIN
    trainings: int = 1
    by_training: float = 0.0


DESIGNS = {
    "3 folds x 3 seeds": Design(), "3 folds x 2 seeds": Design(seeds=2), "1 fold x 3 seeds": Design(folds=1),
    "1 fold x 2 seeds": Design(folds=1, seeds=2), "3 folds x 1 seed": Design(seeds=1),
    "few passes": Design(passes=3), "few passes, 1 fold": Design(folds=1, passes=3),
    "few passes, 2 seeds": Design(passes=3, seeds=2), "2 users": Design(users=2), "31 users": Design(users=31),
    "passes alone": Design(by_fold=0, by_run=0), "images alone": Design(by_fold=0, by_run=0, by_pass=0, uncertain=0.6),
    "folds above all": Design(by_fold=0.04, by_pass=0.03),
    "folds above all, 1 seed": Design(seeds=1, by_fold=0.04, by_pass=0.03),
    "runs above all": Design(by_fold=0, by_run=0.05), "runs above all, 1 fold": Design(folds=1, by_run=0.03),
    "whole users": Design(by_user=0.1, by_user_and_fold=0.06, by_user_and_run=0.06),
    "whole users, 2 seeds": Design(seeds=2, by_user=0.1, by_user_and_fold=0.06, by_user_and_run=0.06),
    "whole users, 1 seed": Design(seeds=1, by_user=0.1, by_user_and_fold=0.06, by_user_and_run=0.06),
    "whole users, 1 fold": Design(folds=1, by_user=0.1, by_user_and_run=0.08),
    "passes differ by fold": Design(by_fold=0.02, by_run=0.02, by_fold_and_pass=0.05),
    "2 trainings, 4 seeds, 1 fold": Design(folds=1, seeds=4, trainings=2, by_training=0.05),
    "3 trainings, 6 seeds, 1 fold": Design(folds=1, seeds=6, trainings=3, by_training=0.05),
    "4 trainings, 8 seeds, 1 fold": Design(folds=1, seeds=8, trainings=4, by_training=0.05),
    "3 trainings, 6 seeds": Design(seeds=6, trainings=3, by_training=0.05)}


def simulate(rng: np.random.Generator, design: Design, effect: float = 0.0) -> tuple[CorrectCounts, float]:
    """A study of "arm" and "real only", and the true mean difference: `effect` plus that of its persons.

    As in a contiguous split, fold f trains on the passes of third f of each user, and tests on the others. With one
    fold, its effects are part of the truth, because no study of one fold tells them. Effects of trainings never are.
    """
    folds, seeds, users = design.folds, design.seeds, design.users
    user_of, third = np.repeat(np.arange(users), design.passes), np.tile(np.arange(design.passes) * 3 // design.passes,
                                                                         users)
    sizes = rng.integers(design.images // 2, design.images * 3 // 2 + 1, len(user_of))
    total = np.stack([np.where(third == fold, 0, sizes) for fold in range(folds)]).astype(float)
    of_users = rng.normal(0, design.by_user, users)[user_of]
    of_folds = (rng.normal(0, design.by_fold, (folds, 1, 1))
                + rng.normal(0, design.by_user_and_fold, (folds, 1, users))[..., user_of]) * (folds > 1)
    differences = (effect + of_users + of_folds + rng.normal(0, design.by_run, (folds, seeds, 1))
                   + rng.normal(0, design.by_user_and_run, (folds, seeds, users))[..., user_of]
                   + rng.normal(0, design.by_pass, len(user_of))
                   + rng.normal(0, design.by_fold_and_pass, (folds, 1, len(user_of))) * (folds > 1))
    if design.trainings > 1:
        of_trainings = rng.normal(0, design.by_training, (folds, design.trainings, 1))
        differences = differences + of_trainings[:, np.arange(seeds) % design.trainings]
    base = 0.7 + rng.normal(0, 0.08, len(user_of)) + rng.normal(0, 0.02, (folds, seeds, 1))
    counts = {}
    for name, accuracy in (("real only", base), ("arm", base + differences)):
        images = np.broadcast_to(total[:, None], (folds, seeds, len(user_of)))
        chance = np.round(design.uncertain * images)
        counts[name] = images * accuracy + rng.binomial(chance.astype(int), 0.5) - chance / 2
    weights = total / total.sum(axis=1, keepdims=True)
    return CorrectCounts(counts, total, user_of, {"arm": design.trainings}), effect + float((weights @ of_users).mean())


def check(design: Design, number: int, seed: int = 0, knows_trainings: bool = True) -> tuple[float, float]:
    """Over this number of studies: how often the interval contains the truth, and the ratio of its mean half-width to
    what it is with a normal distribution of known variance. knows_trainings: whether the interval is told of them."""
    rng, covered, halves, errors = np.random.default_rng(seed), [], [], []
    for _ in range(number):
        counts, truth = simulate(rng, design, effect=0.02)
        if not knows_trainings:
            counts = replace(counts, trainings={})
        halves.append(half_width(Variance.of(counts, "arm", "real only")))
        errors.append(accuracy_differences(counts, "arm", "real only").mean() - truth)
        covered.append(abs(errors[-1]) <= halves[-1])
    return float(np.mean(covered)), float(np.mean(halves) / (stats.norm.ppf(0.975) * np.std(errors)))


if __name__ == "__main__":
    print(f"{'design':38} coverage  half-width / (1.96 x true standard deviation)")
    for name, design in DESIGNS.items():
        for knows_trainings in (True, False)[:1 + (design.trainings > 1)]:
            coverage, ratio = check(design, int(sys.argv[1]), knows_trainings=knows_trainings)
            print(f"{name + ', ignored' * (not knows_trainings):38} {coverage:8.1%}  {ratio:.2f}")
