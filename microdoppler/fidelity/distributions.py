"""Metrics of sets of feature vectors: kernel distance, precision and recall, diversity, separation of classes."""
import numpy as np
from scipy.spatial.distance import cdist

NEIGHBOURS = 3          # k of the k-th nearest neighbour in precision and recall (Kynkäänniemi et al. 2019, section 3)


def kernel_distance(real: np.ndarray, synthetic: np.ndarray, groups: np.ndarray | None = None,
                    synthetic_groups: np.ndarray | None = None) -> tuple[float, float]:
    """Kernel distance (KID) of the features real (n, d) and synthetic (m, d): (distance, its standard error).

    KID is the unbiased estimate of the squared maximum mean discrepancy with the kernel (x·y / d + 1)^3 (Bińkowski et
    al. 2018, section 4). For equal distributions it scatters around 0, so it can be negative.

    groups: (n,), synthetic_groups: (m,), any labels, such as the pass that a window comes from; default: each vector is
    a group of its own. Windows of one pass overlap and are not independent. Therefore pairs within a group are left
    out, and the standard error is that of a jackknife that leaves out one group at a time (Efron & Stein 1981). Either
    result is NaN where there are too few groups.
    """
    groups, synthetic_groups = (np.unique(np.arange(len(vectors)) if own is None else own, return_inverse=True)[1]
                                for vectors, own in ((real, groups), (synthetic, synthetic_groups)))
    within = [_sums_between_groups(real, groups), _sums_between_groups(synthetic, synthetic_groups)]
    across = np.stack([_sums_by_group(values, groups, synthetic_groups)
                       for values in (_kernel(real, synthetic), np.ones((len(real), len(synthetic))))])

    def distance(*sums: np.ndarray) -> np.ndarray:
        """KID of each replicate: (replicates,); NaN where there are no pairs.

        sums: for pairs of real vectors, of synthetic ones, and of one of each, (2, replicates): the sum of their kernel
        values, and their number.
        """
        return sum(sign * values / np.where(pairs > 0, pairs, np.nan)
                   for sign, (values, pairs) in zip((1, 1, -2), sums))
    totals = [part.sum(axis=(1, 2))[:, None] for part in (*within, across)]
    variance = 0.0
    for left_set, sums in enumerate(within):    # the set from which a group is left out: 0 real, 1 synthetic
        lost = 2 * sums.sum(axis=2) - sums.diagonal(axis1=1, axis2=2)       # the pairs that each group takes part in
        remaining = [total - lost if i == left_set else total for i, total in enumerate(totals[:2])]
        replicates = distance(*remaining, totals[2] - across.sum(axis=2 - left_set))
        variance += (len(replicates) - 1) * float(np.var(replicates))
    return float(distance(*totals)[0]), variance ** 0.5


def _kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The kernel of all pairs of vectors (n, d) and (m, d): (n, m) float64."""
    return (first.astype(np.float64) @ second.T.astype(np.float64) / first.shape[1] + 1) ** 3


def _sums_between_groups(vectors: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """For each pair of different groups of one set: the sum of the kernel over its pairs of vectors, and their number.

    vectors: (n, d); groups: (n,) numbered 0, 1, … → (2, groups, groups), 0 on the diagonals.
    """
    different = (groups[:, None] != groups).astype(np.float64)
    return np.stack([_sums_by_group(values, groups, groups)
                     for values in (_kernel(vectors, vectors) * different, different)])


def _sums_by_group(values: np.ndarray, row_groups: np.ndarray, column_groups: np.ndarray) -> np.ndarray:
    """Sum up (n, m) values over the pairs of each pair of groups: (row groups, column groups).

    row_groups: (n,), column_groups: (m,), both numbered 0, 1, … without gaps.
    """
    for axis, groups in enumerate((row_groups, column_groups)):
        order = np.argsort(groups, kind="stable")
        starts = np.searchsorted(groups[order], np.arange(groups.max() + 1))
        values = np.add.reduceat(values.take(order, axis=axis), starts, axis=axis)
    return values


def kernel_distances_of_halves(vectors: np.ndarray, groups: np.ndarray, halves: np.ndarray) -> np.ndarray:
    """Kernel distance (KID) of one half of a set from its other half, for many ways of halving it: (halvings,).

    vectors: (n, d); groups: (n,) numbered 0, 1, … without gaps; halves: (halvings, groups) bool, the groups in the one
    half. Pairs within a group are left out, and each group counts the same, however many vectors it has: then the mean
    over all ways of halving is exactly 0. NaN where a half has fewer than two groups.
    """
    sizes = np.bincount(groups).astype(np.float64)
    means = _sums_by_group(_kernel(vectors, vectors), groups, groups) / np.outer(sizes, sizes)
    np.fill_diagonal(means, 0)
    one, other = halves.astype(np.float64), (~halves).astype(np.float64)

    def mean(first: np.ndarray, second: np.ndarray, num_pairs: np.ndarray) -> np.ndarray:
        """The mean kernel value between a group of the first half and one of the second: (halvings,)."""
        return ((first @ means) * second).sum(axis=1) / np.where(num_pairs > 0, num_pairs, np.nan)
    count, rest = one.sum(axis=1), other.sum(axis=1)
    return (mean(one, one, count * (count - 1)) + mean(other, other, rest * (rest - 1))
            - 2 * mean(one, other, count * rest))


def across_groups(vectors: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The distance between each two of n vectors (n, d): (n, n), infinite within a group.

    groups: (n,) any labels. Windows of one pass are a group, and variations of one training image: they are closer to
    each other than independent images are. A distance that counts them would make one set look denser than another.
    """
    return np.where(groups[:, None] == groups, np.inf, cdist(vectors, vectors))


def precision_recall(distances: np.ndarray, real: np.ndarray, synthetic: np.ndarray) -> tuple[float, float]:
    """(precision, recall) of two sets of vectors (Kynkäänniemi et al. 2019, eqs. 1 and 2).

    distances: of all vectors, from `across_groups`; real, synthetic: the places of these sets in it, (n,) and (m,)
    int64, which have no group in common.

    Precision is the share of synthetic vectors within the manifold of the real ones, recall the share of real vectors
    within the manifold of the synthetic ones. The manifold of a set is the union of balls around its vectors, each with
    the distance to its NEIGHBOURS-th nearest neighbour in another group as radius. Both are NaN if a vector has fewer
    neighbours than that.
    """
    between = distances[np.ix_(real, synthetic)]
    radii = [_radii(distances[np.ix_(own, own)]) for own in (real, synthetic)]
    if not all(np.isfinite(own).all() and len(own) for own in radii):
        return float("nan"), float("nan")
    return float((between <= radii[0][:, None]).any(axis=0).mean()), float((between <= radii[1]).any(axis=1).mean())


def _radii(distances: np.ndarray) -> np.ndarray:
    """(n,) the distance of each vector to its NEIGHBOURS-th nearest neighbour, from (n, n) distances; infinite where
    there is none."""
    if len(distances) <= NEIGHBOURS:
        return np.full(len(distances), np.inf)
    return np.partition(distances, NEIGHBOURS - 1, axis=1)[:, NEIGHBOURS - 1]


def mean_distance(distances: np.ndarray) -> float:
    """The mean distance between two vectors of different groups, from `across_groups`; NaN if there are none."""
    pairs = distances[np.isfinite(distances)]
    return float(pairs.mean()) if len(pairs) else float("nan")


def diversity(spread: float, reference: float) -> float:
    """The mean distance in one set, divided by that in another: 1 is as diverse as the other, near 0 is collapsed.

    NaN where one of them is unknown, or all images of the other set are the same.
    """
    return spread / reference if reference else float("nan")


def separation(vectors: np.ndarray, labels: np.ndarray) -> float:
    """The share of the variance of vectors (n, d) that lies between classes, SS_between / SS_total (eta squared).

    labels: (n,). 0 when all classes have the same mean, 1 when each class is a single point. For labels at random it is
    about (classes − 1) / (n − 1).
    """
    centred = vectors - vectors.mean(axis=0)
    between = sum((labels == label).sum() * np.square(centred[labels == label].mean(axis=0)).sum()
                  for label in np.unique(labels))
    return float(between / np.square(centred).sum())
