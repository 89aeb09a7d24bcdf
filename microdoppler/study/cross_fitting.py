"""Cross-fitting: choose the best synthetic set, or the best classical augmentation, without a bias in its reported
accuracy.

What is chosen on the test images and reported on the same ones looks too good. Here it is chosen with some seeds on
some passes, and reported with the other seeds on the other passes.
"""
from typing import Mapping, Sequence

import numpy as np

from microdoppler.study.comparison import compare
from microdoppler.study.counts import CorrectCounts, accuracies
from microdoppler.study.kinds import CLASSICAL_KINDS, SYNTHETIC, Kind
from microdoppler.study.persons import by_user


def halves(counts: CorrectCounts) -> tuple[np.ndarray, np.ndarray]:
    """Split the passes in two halves: every other pass, in the order of the users, and the others.

    Returns two masks (passes,) bool.
    """
    first = np.zeros(len(counts.user_of), dtype=bool)
    first[np.argsort(counts.user_of, kind="stable")[::2]] = True
    return first, ~first


def quarters(counts: CorrectCounts) -> list[tuple[np.ndarray, np.ndarray]]:
    """The four combinations of a half of the seeds and a half of the passes: masks ((seeds,) bool, (passes,) bool).

    Opposite quarters in the list (first and last, second and third) share no seed and no pass, and no training where a
    generator was trained several times. With a single seed there are two parts, which both contain it.
    """
    num_seeds, trainings = counts.shape[1], counts.trainings_of(*counts.correct)
    even = np.arange(num_seeds) % (trainings if trainings > 1 else num_seeds) % 2 == 0
    seed_halves = (even, ~even) if num_seeds > 1 else (even,)
    return [(seeds, passes) for seeds in seed_halves for passes in halves(counts)]


def choose(counts: CorrectCounts, candidates: Sequence[str], seeds: np.ndarray, passes: np.ndarray) -> str:
    """The candidate with the highest mean accuracy with these seeds on these passes; of equals, the first.

    candidates: names of arms; seeds, passes: masks (seeds,) bool and (passes,) bool.
    """
    return max(candidates, key=lambda arm: np.nanmean(accuracies(counts, arm, passes)[:, seeds]))


def composite(counts: CorrectCounts, choices: Sequence[str]) -> np.ndarray:
    """The correct counts of an arm that is put together: in each quarter it is the arm that was chosen in the opposite
    one.

    So every count comes from an arm that was chosen with other seeds on other passes (with one seed, on other passes).
    The folds are the same, because the choice is among these arms, not among ways to make new ones.

    choices: the name of the arm chosen in each quarter. Returns (folds, seeds, passes) counts.
    """
    joined = np.zeros(counts.shape)
    for chosen, (seeds, passes) in zip(choices, reversed(quarters(counts))):
        where = np.ix_(np.ones(len(joined), dtype=bool), seeds, passes)
        joined[where] = counts.correct[chosen][where]
    return joined


def best_of(counts: CorrectCounts, kind: str, baseline: str, candidates: Sequence[str]) -> dict:
    """The best synthetic set of one kind of arm, as plain values for summary.json.

    candidates: names of the kind's arms, one per set. naive: the set that is best on all test images, reported on the
    same images; cross_fitted: see `composite`. Both are results of `compare`. With one candidate they are the same.
    """
    return best_pair(counts, kind, baseline, {baseline: candidates})


def best_pair(counts: CorrectCounts, kind: str, baseline: str, candidates: Mapping[str, Sequence[str]]) -> dict:
    """The best of several baselines, and the best arm of those that are held against it: values as of `best_of`.

    candidates: {name of a baseline: names of the arms that are held against it}, such as each classical arm with those
    that have synthetic images too. First the baseline is chosen, then the arm, both in the same quarter. kind,
    baseline: what the two chosen arms are called.
    """
    def chosen_in(seeds: np.ndarray, passes: np.ndarray) -> tuple[str, str]:
        best = choose(counts, list(candidates), seeds, passes)
        return best, choose(counts, candidates[best], seeds, passes)
    _, num_seeds, num_passes = counts.shape
    naive_baseline, naive = chosen_in(np.ones(num_seeds, dtype=bool), np.ones(num_passes, dtype=bool))
    baselines, arms = zip(*(chosen_in(*quarter) for quarter in quarters(counts)))
    fitted = CorrectCounts({kind: composite(counts, arms), baseline: composite(counts, baselines)}, counts.total,
                           counts.user_of, {kind: counts.trainings_of(*arms)})
    return {"kind": kind, "baseline": baseline, "num_candidates": sum(map(len, candidates.values())),
            "naive_choice": naive, "naive": compare(counts, naive, naive_baseline), "choices": list(arms),
            "cross_fitted": compare(fitted, kind, baseline), "by_user": by_user(fitted, kind, baseline)}


def best_classical(counts: CorrectCounts, arms_of_kind: Mapping[Kind, Sequence[str]]) -> list[dict]:
    """What synthetic images add to the best classical arm: [the result of `best_pair`].

    arms_of_kind: {kind: names of its arms}. The list is empty where fewer than two classical arms have a counterpart
    with synthetic images.
    """
    candidates = {baseline.name: names for kind, names in arms_of_kind.items() for baseline in CLASSICAL_KINDS
                  if kind.added == SYNTHETIC and kind.augmentation == baseline.augmentation}
    if len(candidates) < 2:
        return []
    return [best_pair(counts, "real + best classical + synthetic", "real + best classical", candidates)]
