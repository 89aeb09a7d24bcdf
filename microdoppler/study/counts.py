"""Correctly classified test images, counted per pass: what all comparisons are computed from."""
from dataclasses import dataclass, field, replace
from typing import Sequence

import numpy as np

from microdoppler.study.runs import Run


@dataclass(frozen=True, eq=False)
class CorrectCounts:
    """Numbers of correctly classified test images per pass.

    correct: {name of an arm: (folds, seeds, passes)}; total: (folds, passes), the number of test images, 0 where a fold
    does not test on a pass; user_of: (passes,) the label (user number - 1) of the user that a pass belongs to.

    trainings: {name of an arm: number of trainings of its generator, which the seeds use in turn}; 1 for all others.
    """
    correct: dict[str, np.ndarray]
    total: np.ndarray
    user_of: np.ndarray
    trainings: dict[str, int] = field(default_factory=dict)

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
        trainings: dict[str, set[int]] = {}
        for run in runs:
            trainings.setdefault(run.arm.name, set()).add(run.arm.training)
        return CorrectCounts(correct, total, np.array(list(user_of.values())),
                             {name: len(own) for name, own in trainings.items()})

    def trainings_of(self, *arms: str) -> int:
        """The number of trainings of a generator that these arms' runs share; 1 where every seed is on its own."""
        return max((self.trainings.get(name, 1) for name in arms), default=1)

    def per_training(self, number: int) -> "CorrectCounts":
        """With the seeds of each of `number` trainings as one run, their mean."""
        folds, _, passes = self.shape
        return replace(self, correct={name: own.reshape(folds, -1, number, passes).mean(axis=1)
                                      for name, own in self.correct.items()})

    @property
    def shape(self) -> tuple[int, int, int]:
        """The numbers of folds, seeds and passes."""
        return next(iter(self.correct.values())).shape


def accuracies(counts: CorrectCounts, arm: str, weights: np.ndarray | None = None) -> np.ndarray:
    """The accuracy of each run of an arm: (folds, seeds).

    weights: (passes,), how often each pass counts; default: once. NaN where the test passes of a fold have no weight.
    """
    weights = np.ones(counts.shape[2]) if weights is None else weights
    total = counts.total @ weights
    return counts.correct[arm] @ weights / np.where(total > 0, total, np.nan)[:, None]


def accuracy_differences(counts: CorrectCounts, arm: str, baseline: str) -> np.ndarray:
    """Accuracies of an arm less those of its baseline with the same fold and seed: (folds, seeds)."""
    return accuracies(counts, arm) - accuracies(counts, baseline)
