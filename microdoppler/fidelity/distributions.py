"""Two sets of feature vectors compared: distance of their distributions, fidelity, diversity, separation of classes."""
import numpy as np
from scipy.spatial.distance import cdist, pdist

from groundwork.errors import InputError

NEIGHBOURS = 3          # of precision and recall (Kynkäänniemi et al. 2019, section 3)


def kernel_distance(real: np.ndarray, synthetic: np.ndarray, groups: np.ndarray | None = None,
                    synthetic_groups: np.ndarray | None = None) -> tuple[float, float]:
    """KID of (n, d) and (m, d) features, and its standard error.

    The unbiased squared maximum mean discrepancy with the kernel (x·y / d + 1)^3 (Bińkowski et al. 2018, section 4):
    a distance of 0 is estimated by numbers around 0. Groups (n,), (m,): any labels, such as the recording that a window
    comes from; without them each vector is its own. Windows of one recording overlap, so that pairs within a group tell
    nothing of the distribution and are left out, and the standard error is that of a jackknife that leaves out one
    group at a time (Efron & Stein 1981); NaN where too few groups are left for either.
    """
    groups, synthetic_groups = (np.unique(np.arange(len(vectors)) if own is None else own, return_inverse=True)[1]
                                for vectors, own in ((real, groups), (synthetic, synthetic_groups)))
    squares = [_pairs_apart(real, groups), _pairs_apart(synthetic, synthetic_groups)]
    between = np.stack([_by_group(values, groups, synthetic_groups)
                        for values in (_kernel(real, synthetic), np.ones((len(real), len(synthetic))))])

    def distance(*sums: np.ndarray) -> np.ndarray:
        """From (2, replicates) sums of kernel values and of pairs each, of real images, synthetic ones, and one of
        each; NaN where there are no pairs."""
        return sum(sign * values / np.where(pairs > 0, pairs, np.nan)
                   for sign, (values, pairs) in zip((1, 1, -2), sums))
    whole = [part.sum(axis=(1, 2))[:, None] for part in (*squares, between)]
    variance = 0.0
    for which, square in enumerate(squares):
        lost = 2 * square.sum(axis=2) - square.diagonal(axis1=1, axis2=2)       # what leaves with each group
        fewer = [part - lost if place == which else part for place, part in enumerate(whole[:2])]
        left_out = distance(*fewer, whole[2] - between.sum(axis=2 - which))
        variance += (len(left_out) - 1) * float(np.var(left_out))
    return float(distance(*whole)[0]), variance ** 0.5


def _kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first.astype(np.float64) @ second.T.astype(np.float64) / first.shape[1] + 1) ** 3


def _pairs_apart(vectors: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(2, groups, groups): sums of the kernel over pairs of different groups, and the number of these pairs."""
    apart = (groups[:, None] != groups).astype(np.float64)
    return np.stack([_by_group(values, groups, groups) for values in (_kernel(vectors, vectors) * apart, apart)])


def _by_group(pairs: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Of (n, m) values of pairs the sums over pairs of groups, numbered 0, 1, … in rows (n,) and columns (m,)."""
    for axis, own in enumerate((rows, columns)):
        order = np.argsort(own, kind="stable")
        starts = np.searchsorted(own[order], np.arange(own.max() + 1))
        pairs = np.add.reduceat(pairs.take(order, axis=axis), starts, axis=axis)
    return pairs


def precision_recall(real: np.ndarray, synthetic: np.ndarray) -> tuple[float, float]:
    """Precision: the share of synthetic vectors (m, d) within the manifold of the real ones (n, d); recall: the share
    of real ones within that of the synthetic ones (Kynkäänniemi et al. 2019, equations 1 and 2).

    A set's manifold: the balls around its members that reach to their NEIGHBOURS-th neighbour. Raises InputError when a
    set is too small for that.
    """
    if min(len(real), len(synthetic)) <= NEIGHBOURS:
        raise InputError(f"{len(real)} real and {len(synthetic)} synthetic images; expected more than {NEIGHBOURS} of "
                         "each to tell precision and recall")
    between = cdist(real, synthetic)
    return float((between <= _radii(real)[:, None]).any(axis=0).mean()), float(
        (between <= _radii(synthetic)[None]).any(axis=1).mean())


def _radii(vectors: np.ndarray) -> np.ndarray:
    """(n,) distance to the NEIGHBOURS-th nearest other member."""
    return np.partition(cdist(vectors, vectors), NEIGHBOURS, axis=1)[:, NEIGHBOURS]     # the nearest is itself


def diversity_ratio(real: np.ndarray, synthetic: np.ndarray) -> float:
    """The mean distance between two synthetic vectors by that between two real ones: 1 as diverse, near 0 collapsed;
    NaN for fewer than two of either."""
    if min(len(real), len(synthetic)) < 2:
        return float("nan")
    return float(pdist(synthetic).mean() / pdist(real).mean())


def separation(vectors: np.ndarray, labels: np.ndarray) -> float:
    """The share of the variance of vectors (n, d) that lies between the classes (n,), between SS / total SS (eta²): 0
    when all classes have one mean, 1 when each class is one point. By chance about (classes − 1) / (n − 1)."""
    centred = vectors - vectors.mean(axis=0)
    between = sum((labels == label).sum() * np.square(centred[labels == label].mean(axis=0)).sum()
                  for label in np.unique(labels))
    return float(between / np.square(centred).sum())
