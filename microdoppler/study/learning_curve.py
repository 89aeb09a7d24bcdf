"""A learning curve: accuracy against the number of real training images per person, with and without synthetic images.

It tells what a synthetic set is worth: how many real images per person a classifier that is trained on real images only
would need, to be as accurate as one that also has the synthetic set.
"""
from typing import Sequence

import numpy as np
from matplotlib.figure import Figure
from sklearn.isotonic import IsotonicRegression

from microdoppler.study.comparison import CONFIDENCE
from microdoppler.study.counts import CorrectCounts
from microdoppler.study.variance import strata

REPLICATES, BOOTSTRAP_SEED = 2000, 0


def replicated_accuracies(counts: Sequence[CorrectCounts], arm: str) -> np.ndarray:
    """The accuracy of an arm at each of k sizes, measured and bootstrapped: (1 + REPLICATES, k) fractions.

    counts: of each size, all on the same test passes and with the same folds and seeds. The first row is the
    measurement. A replicate draws passes within each user, and runs: n - 1 of n units, which then weigh n / (n - 1)
    each, since with few units n of n would give too small a variance (Rao & Wu 1988, section 2). All sizes and arms get
    the same draws, so that their differences keep being paired.
    """
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    num_folds, num_seeds, num_passes = counts[0].shape
    passes, runs = np.ones((REPLICATES + 1, num_passes)), np.ones((REPLICATES + 1, num_folds * num_seeds))
    stratum_of = strata(counts[0].user_of)
    for weights, groups in ((passes, [stratum_of == one for one in np.unique(stratum_of)]), (runs, [slice(None)])):
        for group in groups:
            size = weights[0, group].size
            if size > 1:
                weights[1:, group] = rng.multinomial(size - 1, np.full(size, 1 / size), REPLICATES) * size / (size - 1)
    columns = []
    for own in counts:
        correct = np.einsum("fsp,bp->bfs", own.correct[arm], passes) / (passes @ own.total.T)[:, :, None]
        columns.append((correct.reshape(len(runs), -1) * runs).sum(axis=1) / runs.sum(axis=1))
    return np.stack(columns, axis=1)


def equivalent_size(sizes: Sequence[int], accuracy: np.ndarray, target: float) -> float:
    """The number of real images at which the curve of real only reaches the accuracy `target`.

    sizes: k rising numbers of images; accuracy: (k,), that of real only with so many images, as a fraction. More images
    do no harm in truth, so the curve is first made monotone (isotonic regression, Barlow et al. 1972). Between two
    sizes it is straight over log(size), since accuracies grow about so. -inf and inf where the target lies below or
    above the whole curve: it is not extended.
    """
    rising = IsotonicRegression().fit_transform(np.log(sizes), accuracy)
    if target < rising[0]:
        return -np.inf
    if target > rising[-1]:
        return np.inf
    place = int(np.searchsorted(rising, target))        # the first size that is at least as accurate
    if rising[place] == target:
        return float(sizes[place])
    share = (target - rising[place - 1]) / (rising[place] - rising[place - 1])
    return float(np.exp((1 - share) * np.log(sizes[place - 1]) + share * np.log(sizes[place])))


def worth(sizes: Sequence[int], real: np.ndarray, other: np.ndarray, place: int) -> dict:
    """What a synthetic set adds at sizes[place], in real images per person. Plain values for JSON.

    real, other: (b, k) accuracies of real only and of the arm with synthetic images, a row per bootstrap replicate;
    the first row is the measurement itself. Returns "size", the number of real images; "equivalent", how many images
    real only would need; "interval_95" of the latter, percentiles of the replicates. Values beyond the curve are 0
    where they lie below it, and None where they lie above it.
    """
    equivalents = np.array([equivalent_size(sizes, curve, row[place]) for curve, row in zip(real, other)])
    ends = np.quantile(equivalents[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], method="nearest")
    equivalent, low, high = (None if value == np.inf else max(0.0, float(value)) for value in (equivalents[0], *ends))
    return {"size": int(sizes[place]), "equivalent": equivalent, "interval_95": [low, high]}


def worth_sentence(result: dict, sizes: Sequence[int], kind: str) -> str:
    """The result of `worth` in words; kind: of the arm with synthetic images."""
    def text(value: float | None) -> str:
        return f"more than {sizes[-1]}" if value is None else f"less than {sizes[0]}" if not value else f"{value:.0f}"
    size, equivalent, (low, high) = result["size"], result["equivalent"], result["interval_95"]
    added = f"; the synthetic set is worth {equivalent - size:+.0f} real images per person" if equivalent else ""
    return (f"{kind} with {size} real images per person is as accurate as {text(equivalent)} real images alone (95 % "
            f"interval {text(low)} to {text(high)}){added}.")


def curve_figure(sizes: Sequence[int], accuracies: dict[str, np.ndarray]) -> Figure:
    """Accuracy over the number of real images per person, a line for each kind of arm, with 95 % bars.

    sizes: k rising numbers; accuracies: {kind: (b, k)}, the measurement in the first row, bootstrap replicates below.
    """
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axis = figure.subplots()
    for place, (kind, rows) in enumerate(accuracies.items()):
        measured = 100 * rows[0]
        ends = 100 * np.quantile(rows[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
        beside = np.array(sizes) * 1.02 ** (place - (len(accuracies) - 1) / 2)     # bars stay apart
        axis.errorbar(beside, measured, abs(ends - measured), marker="o", capsize=3, label=kind)
    axis.set_xscale("log")
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.minorticks_off()
    axis.set(xlabel="real training images per person", ylabel="test accuracy in %, 95 % interval over test passes")
    axis.grid(alpha=0.25)
    axis.legend()
    return figure
