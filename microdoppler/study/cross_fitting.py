"""A choice among synthetic sets that the test cannot flatter: made with other seeds on other passes than report it."""
from typing import Sequence

import numpy as np

from microdoppler.study.arms import BASELINE_OF
from microdoppler.study.comparison import CorrectCounts, accuracies, compare


def halves(counts: CorrectCounts) -> tuple[np.ndarray, np.ndarray]:
    """Every other pass, user by user, and the rest: two (passes,) bool."""
    first = np.zeros(len(counts.user_of), dtype=bool)
    first[np.argsort(counts.user_of, kind="stable")[::2]] = True
    return first, ~first


def quarters(counts: CorrectCounts) -> list[tuple[np.ndarray, np.ndarray]]:
    """Every other seed (seeds,) bool with one half of the passes (passes,) bool, in turn: opposite quarters, the first
    and the last, the second and the last but one, share neither. A single seed is in all, and there are two."""
    num_seeds = counts.shape[1]
    even = np.arange(num_seeds) % 2 == 0
    of_seeds = (even, ~even) if num_seeds > 1 else (even,)
    return [(seeds, passes) for seeds in of_seeds for passes in halves(counts)]


def choose(counts: CorrectCounts, candidates: Sequence[str], seeds: np.ndarray, passes: np.ndarray) -> str:
    """The candidate that is most accurate with these seeds on these passes; the first of equals."""
    return max(candidates, key=lambda arm: np.nanmean(accuracies(counts, arm, passes[None].astype(float))[0][:, seeds]))


def cross_fitted(counts: CorrectCounts, candidates: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """(folds, seeds, passes) correct counts of an arm that is, in each of the quarters, the candidate which was best in
    the opposite one; and the choice that each quarter made.

    So every count comes from a candidate that was chosen with other seeds on other passes. The folds are the same: the
    choice is among these sets, not among ways to make new ones.
    """
    composite = np.zeros(counts.shape)
    choices = [choose(counts, candidates, *quarter) for quarter in quarters(counts)]
    for chosen, (seeds, passes) in zip(choices, reversed(quarters(counts))):
        where = np.ix_(np.ones(len(composite), dtype=bool), seeds, passes)
        composite[where] = counts.correct[chosen][where]
    return composite, choices


def best_of(counts: CorrectCounts, kind: str, candidates: Sequence[str]) -> dict:
    """The choice among the sets of one kind of arm: naive (best on all test images, reported on the same), and
    cross-fitted. A single set leaves no choice, and the two are the same."""
    baseline, (_, num_seeds, num_passes) = BASELINE_OF[kind], counts.shape
    naive = choose(counts, candidates, np.ones(num_seeds, dtype=bool), np.ones(num_passes, dtype=bool))
    composite, choices = cross_fitted(counts, candidates)
    fair = CorrectCounts({kind: composite, baseline: counts.correct[baseline]}, counts.total, counts.user_of)
    return {"kind": kind, "baseline": baseline, "num_candidates": len(candidates), "naive_choice": naive,
            "naive": compare(counts, naive, baseline), "choices": choices,
            "cross_fitted": compare(fair, kind, baseline)}
