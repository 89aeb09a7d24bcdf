"""The results of a study as plain values: the content of summary.json, from which the report is made."""
from typing import Any, Sequence

import numpy as np

from microdoppler.study.arms import Arm
from microdoppler.study.comparison import compare
from microdoppler.study.contrasts import contrasts_of, correct
from microdoppler.study.counts import CorrectCounts
from microdoppler.study.kinds import REAL_ONLY, Kind
from microdoppler.study.runs import Run
from microdoppler.study.scores import class_recalls, score


def summarize(runs: Sequence[Run], names: dict[int, str]) -> dict[str, Any]:
    """Summarize the runs: every arm on its own, and the contrasts, see `contrasts_of`.

    "conditions" has a summary of each other condition, {its name: summary}, without a primary contrast. All secondary
    contrasts, those under other conditions too, are corrected together.

    names: {user number: name}, in the order of the labels. Accuracies, F1, calibration errors, recalls and differences
    are fractions. A difference is paired: the arm's accuracy less that of its baseline on the same fold with the same
    seed. Raises ValueError unless there is one run for each arm, fold and seed.
    """
    conditions = {name: _summarize([run.conditions[name] for run in runs], names, has_primary=False)
                  for name in runs[0].conditions}
    summary = {**_summarize(runs, names, has_primary=True), "conditions": conditions}
    correct([contrast for own in (summary, *conditions.values()) for contrast in own["contrasts"]])
    return summary


def _summarize(runs: Sequence[Run], names: dict[int, str], has_primary: bool) -> dict[str, Any]:
    """The summary of one condition; see `contrasts_of`."""
    counts = CorrectCounts.of(runs)
    arms = list({run.arm.name: run.arm for run in runs}.values())
    arms_of_kind: dict[Kind, list[str]] = {}
    for arm in arms:
        arms_of_kind.setdefault(arm.kind, []).append(arm.name)
    contrasts = contrasts_of(counts, arms_of_kind, has_primary)
    users = list(names)
    for contrast in contrasts:
        recalls = contrast["by_user"]["recalls"]
        contrast["by_user"]["recalls"] = {users[label]: pair for label, pair in recalls.items()}
    num_folds, num_seeds, num_passes = counts.shape
    return {"num_folds": num_folds, "num_seeds": num_seeds, "num_passes": num_passes,
            "num_test": int(counts.total.sum()), "names": names,
            "arms": [_summarize_arm(arm, [run for run in runs if run.arm.name == arm.name], counts, users)
                     for arm in arms],
            "contrasts": contrasts}


def _summarize_arm(arm: Arm, runs: list[Run], counts: CorrectCounts, users: list[int]) -> dict[str, Any]:
    """One entry of "arms". runs: those of this arm, one per fold and seed; users: the user number of each label.

    trainings: of the generator, in which the seeds take turns; unseen: means over the runs of the metrics on unseen
    persons, see unseen.py.
    against_real: the comparison with real only, not corrected for the number of arms; None of real only itself.
    """
    scores = [score(run.probabilities, run.labels) for run in runs]
    confusion = np.sum([one["confusion"] for one in scores], axis=0)
    recalls = {users[label]: recall for label, recall in class_recalls(confusion).items()}
    means = {name: float(np.mean([one[name] for one in scores])) for name in ("accuracy", "macro_f1", "ece", "nll")}
    is_compared = arm.name != REAL_ONLY and REAL_ONLY in counts.correct
    return {"name": arm.name, "kind": arm.kind.name, "synthetic": arm.synthetic_name, **means,
            "accuracy_std": float(np.std([one["accuracy"] for one in scores], ddof=1)) if len(runs) > 1 else None,
            "runs": [{"fold": run.fold, "seed": run.seed, "accuracy": one["accuracy"]}
                     for run, one in zip(runs, scores)],
            "against_real": compare(counts, arm.name, REAL_ONLY) if is_compared else None,
            "trainings": counts.trainings_of(arm.name),
            "unseen": {name: float(np.mean([run.unseen[name] for run in runs])) for name in runs[0].unseen},
            "recalls": recalls, "worst_user": min(recalls, key=recalls.__getitem__),
            "best_user": max(recalls, key=recalls.__getitem__), "confusion": confusion.tolist()}
