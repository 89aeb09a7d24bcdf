"""What a perfect generator would reach: each metric of one half of the held-out passes, measured like synthetic images.

The passes are divided into halves at random, many times. One half plays the synthetic images, the other is the real
set that they are compared with. The mean over all divisions is what real images give, and the middle 95 % of them are
the interval in which the value of a perfect generator lies. One division alone is no yardstick: the persons may walk
differently in the passes of the one half. Real windows of one pass overlap, synthetic ones do not. So only images of
different passes are neighbours of each other.
"""
from dataclasses import dataclass
from typing import Callable, Sequence

import numpy as np

from microdoppler.fidelity.distributions import (across_groups, diversity, kernel_distance, kernel_distances_of_halves,
                                                 mean_distance, precision_recall)
from microdoppler.fidelity.texture import log_distance

NUM_HALVINGS = 200          # even: of each division, either half plays the synthetic images once
INTERVAL = (2.5, 97.5)      # percentiles of the halvings


@dataclass(frozen=True, eq=False)
class Comparison:
    """One metric of synthetic images beside that of real ones.

    synthetic, real: its values; halvings: (NUM_HALVINGS,) its values of real images in all divisions into halves;
    error: standard error of the synthetic value, where it is measured; num_users: how many users it is a mean of. NaN
    where there are too few images or passes.
    """
    synthetic: float
    real: float
    halvings: np.ndarray
    error: float = np.nan
    num_users: int = 1

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval in which a perfect generator lies; None where it is unknown."""
        known = self.halvings[np.isfinite(self.halvings)]
        low, high = np.percentile(known, INTERVAL) if len(known) else (np.nan, np.nan)
        return (float(low), float(high)) if len(known) else None

    @property
    def is_known(self) -> bool:
        """Whether both values are known."""
        return bool(np.isfinite([self.synthetic, self.real]).all())

    @staticmethod
    def mean_over_users(comparisons: Sequence["Comparison"]) -> "Comparison":
        """The mean over users: those with an interval, so that it is of the same users as the values; or, if none has
        one, all whose values are known.

        Computed on the images of all users at once, a metric would also measure how different the users are.
        """
        known = [one for one in comparisons if one.is_known]
        known = [one for one in known if one.interval] or known
        if not known or known[0].interval is None:
            synthetic, real = np.mean([(one.synthetic, one.real) for one in known] or [(np.nan, np.nan)], axis=0)
            return Comparison(float(synthetic), float(real), np.full(NUM_HALVINGS, np.nan), num_users=len(known))
        # Divisions that leave a half with too few passes for this metric are replaced by others, which are as random.
        halvings = [np.resize(one.halvings[np.isfinite(one.halvings)], NUM_HALVINGS) for one in known]
        return Comparison(float(np.mean([one.synthetic for one in known])), float(np.mean([one.real for one in known])),
                          np.mean(halvings, axis=0), float(np.linalg.norm([one.error for one in known])) / len(known),
                          len(known))


def random_halves(num_passes: int, rng: np.random.Generator) -> np.ndarray:
    """Divisions of the passes into two halves: (NUM_HALVINGS, num_passes) bool, True in the half that plays the
    synthetic images. Of an odd number of passes, one half has one more than the other."""
    places = rng.random((NUM_HALVINGS // 2, num_passes)).argsort(axis=1)
    return np.concatenate([places < num_passes // 2, places >= num_passes // 2])


def compare_values(real: np.ndarray, synthetic: np.ndarray, halves: np.ndarray,
                   statistic: Callable[[np.ndarray], float]) -> Comparison:
    """Compare a metric that a set of images has by itself, such as the share of near-copies.

    real: (n,), synthetic: (m,), what `statistic` makes one value of; halves: (NUM_HALVINGS, n) bool, the divisions of
    the real images. The real value is that of all real images, and the interval shows by how much two halves differ.
    """
    value = statistic(real)
    return Comparison(statistic(synthetic), value, np.array([value + statistic(real[half]) - statistic(real[~half])
                                                             for half in halves]))


def compare_features(real: np.ndarray, synthetic: np.ndarray, passes: np.ndarray, groups: np.ndarray,
                     halves: np.ndarray, rng: np.random.Generator) -> dict[str, Comparison]:
    """Compare the features of a user's real images (n, d) and synthetic images (m, d): {metric: Comparison}.

    passes: (n,) numbered 0, 1, …; groups: (m,) any labels, the same for variations of one training image; halves:
    (NUM_HALVINGS, passes) bool, from `random_halves`.

    precision, recall: of the synthetic images, and of one half, each against the other half. They depend on the number
    of images, so as many are used of both. diversity: the mean distance of two images, divided by that of two real
    ones. kid: the distance of the synthetic images from all real ones, and of the one half from the other.
    """
    distances = across_groups(np.concatenate([real, synthetic]),
                              np.append(passes, passes.max() + 1 + np.unique(groups, return_inverse=True)[1]))
    generated, halves_of_images = len(real) + np.arange(len(synthetic)), halves[:, passes]
    found: dict[str, list[tuple[float, float]]] = {"synthetic": [], "real": []}
    for half in halves_of_images:
        one, other = np.flatnonzero(half), np.flatnonzero(~half)
        for kind, images in (("synthetic", generated), ("real", one)):
            chosen = rng.choice(images, min(len(one), len(synthetic)), replace=False)
            found[kind].append(precision_recall(distances, other, chosen))
    of_halves, of_synthetic = (np.array(found[kind]).T for kind in ("real", "synthetic"))
    comparisons = {name: Comparison(mean_of_known(of_synthetic[i]), mean_of_known(of_halves[i]), of_halves[i])
                   for i, name in enumerate(("precision", "recall"))}

    def diversity_of(images: np.ndarray) -> float:
        return diversity(mean_distance(distances[np.ix_(images, images)]), spread)
    spread = mean_distance(distances[:len(real), :len(real)])
    comparisons["diversity"] = compare_values(np.arange(len(real)), generated, halves_of_images, diversity_of)
    kids = kernel_distances_of_halves(real, passes, halves)
    kid, error = kernel_distance(real, synthetic, passes, groups)
    return comparisons | {"kid": Comparison(kid, mean_of_known(kids), kids, error)}


def compare_spectra(real: np.ndarray, synthetic: np.ndarray, halves: np.ndarray, rng: np.random.Generator
                    ) -> Comparison:
    """Compare power spectra of a user's real images (n, bins) and synthetic images (m, bins): the distance in dB.

    halves: (NUM_HALVINGS, n) bool, the divisions of the real images. The distance is that of the synthetic images, and
    of one half, each from the other half. It depends on the number of images, so as many are used of both.
    """
    distances = []
    for half in halves:
        one, other = real[half], real[~half]
        count = min(len(one), len(synthetic))
        distances.append([log_distance(rng.permutation(spectra)[:count], other) if count and len(other) else np.nan
                          for spectra in (synthetic, one)])
    of_synthetic, of_halves = np.array(distances).T
    return Comparison(mean_of_known(of_synthetic), mean_of_known(of_halves), of_halves)


def median_of_known(values: np.ndarray) -> float:
    """The median of the values that are finite; NaN if there is none."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")


def mean_of_known(values: np.ndarray) -> float:
    """The mean of the values that are finite; NaN if there is none."""
    known = values[np.isfinite(values)]
    return float(np.mean(known)) if len(known) else float("nan")
