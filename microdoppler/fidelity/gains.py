"""Do synthetic images help those persons most whose synthetic images are good? Gain against fidelity, person by person.
"""
from pathlib import Path
from typing import Any, Sequence

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from groundwork.errors import InputError
from groundwork.files import read_json
from microdoppler.fidelity.report import COLOURS, METRICS
from microdoppler.figures.fonts import figure_names, plain_text

SHOWN = ("recognised", "kid", "precision", "recall")        # metrics of fidelity.json, a panel each


def find_fidelity(path: Path, sets: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The fidelity.json at `path`, if it is about one of the synthetic sets of a study; None if it is not there.

    sets: where each set comes from, as facts_of returns it.
    """
    try:
        report = read_json(path)
        made_by = {name: value for name, value in report["made_by"].items() if name != "synthetic_folder"}
        has_users = bool(report["users"])
    except (InputError, KeyError, TypeError, AttributeError):
        return None
    return report if has_users and any(made_by.items() <= own.items() for own in sets) else None


def gains_figure(contrast: dict[str, Any], names: dict[int, str], fidelity: dict[str, Any]) -> Figure:
    """A panel per metric of SHOWN: for each user the gain in recall over its value.

    contrast: one of summary.json, of an arm with synthetic images; names: {user number: name}; fidelity: the content of
    fidelity.json about its set. The title of a panel has Spearman's rank correlation.
    """
    recalls = {int(user): pair for user, pair in contrast["by_user"]["recalls"].items()}
    measured = {int(user): metrics["synthetic"] for user, metrics in fidelity["users"].items()}
    users = [user for user in recalls if user in measured]
    shown = figure_names({user: names[user] for user in users})
    gains = np.array([100 * (recalls[user][1] - recalls[user][0]) for user in users])
    figure = Figure(figsize=(10, 7), layout="constrained")
    for axis, metric in zip(figure.subplots(2, 2, sharey=True).flat, SHOWN):
        values = np.array([measured[user].get(metric) for user in users], dtype=float)      # JSON has null for NaN
        axis.axhline(0, color="0.4", linewidth=0.8)
        axis.plot(values, gains, "o", color=COLOURS["synthetic"], markersize=5)
        for user, value, gain in zip(users, values, gains):
            if np.isfinite(value):
                axis.annotate(plain_text(shown[user].removeprefix("user ")), (value, gain), xytext=(4, 3), fontsize=7,
                              textcoords="offset points")
        axis.set_title(_correlation(values, gains), fontsize=9)
        axis.set_xlabel(f"{METRICS[metric][0]} of the user's synthetic images", fontsize=9)
        axis.grid(alpha=0.25)
    figure.supylabel(f"gain in recall over {contrast['baseline']}, in points", fontsize=9)
    return figure


def _correlation(values: np.ndarray, gains: np.ndarray) -> str:
    """Spearman's rank correlation of those users whose value is known, as text."""
    known = np.isfinite(values)
    if known.sum() < 3 or np.ptp(values[known]) == 0 or np.ptp(gains[known]) == 0:
        return "rank correlation unknown"
    result = spearmanr(values[known], gains[known])
    return f"rank correlation {result.statistic:+.2f} (p = {result.pvalue:.2g}, {known.sum()} users)"
