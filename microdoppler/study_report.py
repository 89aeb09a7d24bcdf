"""What a study found: in words, in a table, in figures."""
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from microdoppler.report import Table

ANNOTATED_USERS = 12      # with more users than this, numbers in the cells of a confusion matrix cannot be read


def results_table(summary: dict[str, Any]) -> Table:
    """`summarize`'s result, a row per arm."""
    rows = []
    for arm in summary["arms"]:
        is_baseline = arm["name"] == summary["baseline"]
        rows.append([arm["name"], _mean_and_std(arm), "" if is_baseline else _difference(arm),
                     "baseline" if is_baseline else arm["verdict"],
                     *(f"{user} ({100 * arm['recalls'][user]:.1f} %)"
                       for user in (arm["worst_user"], arm["best_user"]))])
    header = ["trained on", "accuracy", "difference (points)", "verdict", "worst user (recall)", "best user (recall)"]
    return Table(header, rows, caption=f"Test accuracy, mean ± standard deviation over {_seeds(summary)}; differences "
                                       "from the baseline are paired by seed, with their 95 % interval")


def conclusion(summary: dict[str, Any]) -> str:
    """The best arm, and in the same breath how far that can be believed."""
    arms = {arm["name"]: arm for arm in summary["arms"]}
    best, baseline = arms[summary["best"]], arms[summary["baseline"]]
    if len(arms) == 1:
        return (f"{baseline['name']}: accuracy {_mean_and_std(baseline)} ({_seeds(summary)}); "
                "there is no synthetic set to compare.")
    sets = len(arms) - 1
    if best is baseline:
        return (f"Best arm: {baseline['name']}, {_mean_and_std(baseline)}: "
                + ("the synthetic set does not raise" if sets == 1 else f"none of the {sets} synthetic sets raises")
                + " the accuracy.")
    text = (f"Best arm: {best['name']}, {_mean_and_std(best)} against {_mean_and_std(baseline)} of {baseline['name']}, "
            f"a difference of {_difference(best)} percentage points")
    if sets > 1:
        text += (f"; it was chosen as the best of {sets} synthetic sets on the very test images that report it, "
                 "so this number is optimistic")
    if best["difference_interval_95"] is None:
        return text + "; with one seed nothing tells this difference from chance: not distinguishable."
    if best["verdict"] == "not distinguishable":
        return text + "; its 95 % interval over the seeds includes 0: not distinguishable from the baseline."
    return text + ". The 95 % interval covers the seeds only, not the choice of test images, which overlap in time."


def accuracy_figure(summary: dict[str, Any]) -> Figure:
    """Bars of mean accuracy, a dot per seed, a line at the baseline."""
    arms = summary["arms"]
    figure = Figure(figsize=(7, 1.2 + 0.55 * len(arms)))
    axes = figure.add_subplot()
    for row, arm in enumerate(arms):
        axes.barh(row, 100 * arm["accuracy_mean"], height=0.6, color="tab:orange" if arm["name"] == summary["best"]
                  else "tab:gray" if row == 0 else "tab:blue", alpha=0.75)
        axes.scatter([100 * accuracy for accuracy in arm["accuracies"]], [row] * len(arm["accuracies"]), s=18,
                     color="black", zorder=3)
    axes.axvline(100 * arms[0]["accuracy_mean"], color="tab:gray", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(arms)), [_plain(arm["name"]) for arm in arms])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"test accuracy in % (dots: {_seeds(summary)})")
    return figure


def confusion_figure(summary: dict[str, Any]) -> Figure:
    """Confusion matrices of the baseline and of the best other arm side by side, rows in per cent."""
    baseline, *others = summary["arms"]
    shown = [baseline] + ([max(others, key=lambda arm: arm["accuracy_mean"])] if others else [])
    users = [user - 1 for user in baseline["recalls"]]
    side = max(4.0, 0.24 * len(users))
    figure = Figure(figsize=((side + 1) * len(shown), side + 1), layout="constrained")
    for axes, arm in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown):
        counts = np.array(arm["confusion"])[np.ix_(users, users)]
        percent = 100 * counts / counts.sum(axis=1, keepdims=True)
        picture = axes.imshow(percent, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=100))    # rare errors show too
        axes.set_title(f"{_plain(arm['name'])}: {100 * arm['accuracy_mean']:.1f} %", fontsize=10)
        axes.set_xticks(range(len(users)), [str(user + 1) for user in users], fontsize=7)
        axes.set_yticks(range(len(users)), [str(user + 1) for user in users], fontsize=7)
        axes.set_xlabel("predicted user")
        axes.set_ylabel("true user")
        if len(users) <= ANNOTATED_USERS:
            for (row, column), value in np.ndenumerate(percent):
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8,
                          color="white" if value > 35 else "black")
    figure.colorbar(picture, ax=figure.axes, label="% of the true user's test images", shrink=0.7)
    return figure


def _mean_and_std(arm: dict[str, Any]) -> str:
    std = "" if arm["accuracy_std"] is None else f" ± {100 * arm['accuracy_std']:.1f}"
    return f"{100 * arm['accuracy_mean']:.1f}{std} %"


def _difference(arm: dict[str, Any]) -> str:
    interval = arm["difference_interval_95"]
    return f"{100 * arm['difference_mean']:+.1f}" + (
        "" if interval is None else f" [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]")


def _seeds(summary: dict[str, Any]) -> str:
    return f"{len(summary['seeds'])} seed{'s' if len(summary['seeds']) > 1 else ''}"


def _plain(name: str) -> str:
    """matplotlib would read text between dollar signs as a formula."""
    return name.replace("$", r"\$")
