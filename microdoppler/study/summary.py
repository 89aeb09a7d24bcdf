"""All that a study found, as plain values: what summary.json holds and the report shows."""
from typing import Any, Sequence

import numpy as np

from microdoppler.study.arms import BASELINE_OF, Arm
from microdoppler.study.comparison import CorrectCounts, compare
from microdoppler.study.cross_fitting import best_of
from microdoppler.study.runs import Run
from microdoppler.study.scores import score, user_recalls


def summarize(runs: Sequence[Run], names: dict[int, str]) -> dict[str, Any]:
    """The arms in their order, and the choice among the sets of each kind of arm; names: of the users {number: name}.

    Accuracies, F1, calibration errors, recalls and differences are fractions. A difference is paired: the arm's
    accuracy less that of its baseline on the same fold with the same seed.
    """
    table = CorrectCounts.of(runs)
    arms = list({run.arm.name: run.arm for run in runs}.values())
    kinds: dict[str, list[str]] = {}
    for arm in arms:
        if arm.synthetic_name:
            kinds.setdefault(arm.kind, []).append(arm.name)
    num_folds, num_seeds, num_passes = table.shape
    return {"num_folds": num_folds, "num_seeds": num_seeds, "num_passes": num_passes,
            "num_test": int(table.total.sum()), "names": names,
            "arms": [_summarize_arm(arm, [run for run in runs if run.arm.name == arm.name], table) for arm in arms],
            "choices": [best_of(table, kind, names) for kind, names in kinds.items()]}


def _summarize_arm(arm: Arm, runs: list[Run], table: CorrectCounts) -> dict[str, Any]:
    scores = [score(run.probabilities, run.labels) for run in runs]
    confusion = np.sum([found["confusion"] for found in scores], axis=0)
    recalls = user_recalls(confusion)
    means = {name: float(np.mean([found[name] for found in scores])) for name in ("accuracy", "macro_f1", "ece")}
    baseline = BASELINE_OF.get(arm.kind)
    return {"name": arm.name, "kind": arm.kind, "synthetic": arm.synthetic_name, **means,
            "accuracy_std": float(np.std([found["accuracy"] for found in scores], ddof=1)) if len(runs) > 1 else None,
            "runs": [{"fold": run.fold, "seed": run.seed, "accuracy": found["accuracy"]}
                     for run, found in zip(runs, scores)],
            "baseline": baseline, **(compare(table, arm.name, baseline) if baseline else {}),
            "recalls": recalls, "worst_user": min(recalls, key=recalls.__getitem__),
            "best_user": max(recalls, key=recalls.__getitem__), "confusion": confusion.tolist()}
