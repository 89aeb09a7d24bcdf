"""Person by person: does an arm recognise each of them better than its baseline does?"""
from typing import Sequence

import numpy as np
from scipy import stats

from microdoppler.study.comparison import CONFIDENCE
from microdoppler.study.counts import CorrectCounts


def by_user(counts: CorrectCounts, arm: str, baseline: str) -> dict:
    """A paired comparison over users. Plain values for summary.json:

    recalls: {label: [of the baseline, of the arm]}, the mean over folds and seeds of the fraction of the user's test
    images that are classified correctly; mean: the mean over users of the arm's less the baseline's; interval_95 and
    p_value: those of Student's paired t-test over users. They are about other users, with the same folds and seeds;
    None with a single user.
    """
    recalls = {int(label): [_recall(counts, name, counts.user_of == label) for name in (baseline, arm)]
               for label in np.unique(counts.user_of)}
    return {"recalls": recalls, **_paired_test([of_arm - of_baseline for of_baseline, of_arm in recalls.values()])}


def _recall(counts: CorrectCounts, arm: str, passes: np.ndarray) -> float:
    """The recall on these passes (mask), as a mean over seeds and over the folds that test on any of them."""
    total = counts.total[:, passes].sum(axis=1)
    correct = counts.correct[arm][:, :, passes].sum(axis=2)[total > 0]
    return float((correct / total[total > 0, None]).mean())


def _paired_test(differences: Sequence[float]) -> dict:
    """mean, interval_95 and p_value of differences; see `by_user`."""
    mean = float(np.mean(differences))
    if len(differences) == 1:
        return {"mean": mean, "interval_95": None, "p_value": None}
    if np.ptp(differences) == 0:
        return {"mean": mean, "interval_95": [mean, mean], "p_value": float(mean == 0)}
    test = stats.ttest_1samp(differences, 0.0)
    return {"mean": mean, "interval_95": list(map(float, test.confidence_interval(CONFIDENCE))),
            "p_value": float(test.pvalue)}
