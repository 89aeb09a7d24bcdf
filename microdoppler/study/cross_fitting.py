"""Cross-fitting: choose the best synthetic set without a bias in its reported accuracy.

A set that is chosen on the test images and reported on the same ones looks too good. Here it is chosen with some seeds
on some passes, and reported with the other seeds on the other passes.
"""
from typing import Sequence

import numpy as np

from microdoppler.study.arms import BASELINE_OF
from microdoppler.study.comparison import compare
from microdoppler.study.counts import CorrectCounts, accuracies


def halves(counts: CorrectCounts) -> tuple[np.ndarray, np.ndarray]:
    """Split the passes in two halves: every other pass, in the order of the users, and the others.

    Returns two masks (passes,) bool.
    """
    first = np.zeros(len(counts.user_of), dtype=bool)
    first[np.argsort(counts.user_of, kind="stable")[::2]] = True
    return first, ~first


def quarters(counts: CorrectCounts) -> list[tuple[np.ndarray, np.ndarray]]:
    """The four combinations of a half of the seeds and a half of the passes: masks ((seeds,) bool, (passes,) bool).

    Opposite quarters in the list (first and last, second and third) share no seed and no pass. With a single seed there
    are two parts, which both contain it.
    """
    num_seeds = counts.shape[1]
    even = np.arange(num_seeds) % 2 == 0
    seed_halves = (even, ~even) if num_seeds > 1 else (even,)
    return [(seeds, passes) for seeds in seed_halves for passes in halves(counts)]


def choose(counts: CorrectCounts, candidates: Sequence[str], seeds: np.ndarray, passes: np.ndarray) -> str:
    """The candidate with the highest mean accuracy with these seeds on these passes; of equals, the first.

    candidates: names of arms; seeds, passes: masks (seeds,) bool and (passes,) bool.
    """
    return max(candidates, key=lambda arm: np.nanmean(accuracies(counts, arm, passes)[:, seeds]))


def cross_fitted(counts: CorrectCounts, candidates: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The correct counts of a composite arm: in each quarter it is the candidate that was best in the opposite quarter.

    So every count comes from a candidate that was chosen with other seeds on other passes (with one seed, on other
    passes). The folds are the same, because the choice is among these sets, not among ways to make new ones.

    Returns ((folds, seeds, passes) counts, the name of the candidate that was best in each quarter).
    """
    composite = np.zeros(counts.shape)
    choices = [choose(counts, candidates, *quarter) for quarter in quarters(counts)]
    for chosen, (seeds, passes) in zip(choices, reversed(quarters(counts))):
        where = np.ix_(np.ones(len(composite), dtype=bool), seeds, passes)
        composite[where] = counts.correct[chosen][where]
    return composite, choices


def best_of(counts: CorrectCounts, kind: str, candidates: Sequence[str]) -> dict:
    """The best synthetic set of one kind of arm, as plain values for summary.json.

    candidates: names of the kind's arms, one per set. naive: the set that is best on all test images, reported on the
    same images; cross_fitted: see `cross_fitted`. Both are results of `compare`. With one candidate they are the same.
    """
    baseline, (_, num_seeds, num_passes) = BASELINE_OF[kind], counts.shape
    naive = choose(counts, candidates, np.ones(num_seeds, dtype=bool), np.ones(num_passes, dtype=bool))
    composite, choices = cross_fitted(counts, candidates)
    fitted = CorrectCounts({kind: composite, baseline: counts.correct[baseline]}, counts.total, counts.user_of)
    return {"kind": kind, "baseline": baseline, "num_candidates": len(candidates), "naive_choice": naive,
            "naive": compare(counts, naive, baseline), "choices": choices,
            "cross_fitted": compare(fitted, kind, baseline)}
