"""The result of a study as text, tables and figures. `summary` is always the result of `summarize`."""
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from microdoppler.data.split import FOLDS
from microdoppler.figures.report import Table, plain_text
from microdoppler.study.comparison import MAX_SEEDS

MAX_ANNOTATED_USERS = 12    # with more users, numbers in the cells of a confusion matrix would be too small to read
VERDICT_COLOURS = {"helps": "tab:green", "hurts": "tab:red", "not distinguishable": "tab:gray"}


def result_tables(summary: dict[str, Any]) -> list[Table]:
    """The table of arms; if there are several synthetic sets, also the table of the best sets."""
    choices = [choice for choice in summary["choices"] if choice["num_candidates"] > 1]
    return [_arms_table(summary), *([_choices_table(choices)] if choices else [])]


def _arms_table(summary: dict[str, Any]) -> Table:
    """A row per arm: accuracy and its difference from the baseline, in per cent and points."""
    rows = [[arm["name"], _mean_and_std(arm), f"{100 * arm['macro_f1']:.1f}", f"{100 * arm['ece']:.1f}",
             _difference(arm) if arm["baseline"] else "", arm["baseline"] or "",
             arm["verdict"] if arm["baseline"] else "",
             f"{summary['names'][arm['worst_user']]} ({100 * arm['recalls'][arm['worst_user']]:.0f} %)"]
            for arm in summary["arms"]]
    header = ["trained on", "accuracy", "macro-F1", "ECE", "difference", "from", "verdict", "worst user (recall)"]
    return Table(header, rows, caption=f"Accuracy on test images, mean ± standard deviation over {_repeats(summary)}; "
                 "differences in points are paired by fold and seed, with their 95 % interval over folds, seeds and "
                 f"{summary['num_passes']} test passes. ECE: expected calibration error in points.")


def _choices_table(choices: list[dict[str, Any]]) -> Table:
    """A row per kind of arm: its best synthetic set, reported naively and cross-fitted."""
    rows = [[choice["kind"], choice["baseline"], str(choice["num_candidates"]),
             choice["naive_choice"].removeprefix(f"{choice['kind']}: "), _difference(choice["naive"]),
             _difference(choice["cross_fitted"]), choice["cross_fitted"]["verdict"]] for choice in choices]
    return Table(["best set of", "against", "sets", "naive choice", "naive", "cross-fitted", "verdict"], rows,
                 caption="Naive: the best on all test passes, reported on the same: too good. Cross-fitted: chosen "
                         "with one half of the seeds on one half of the passes, reported with the others on the "
                         "others, in turn.")


def conclusion(summary: dict[str, Any]) -> str:
    """Whether synthetic images help, in a sentence per kind of arm, from the cross-fitted differences."""
    if not summary["choices"]:
        return ("No synthetic set to compare. " + ", ".join(f"{arm['name']} {_mean_and_std(arm)}"
                                                             for arm in summary["arms"]) + f" ({_repeats(summary)}).")
    return " ".join(_sentence(choice, summary) for choice in summary["choices"]
                    if choice["kind"] != "synthetic only")


def _sentence(choice: dict[str, Any], summary: dict[str, Any]) -> str:
    """The difference of one kind of arm, its verdict, and what to do when there is none."""
    result, other = choice["cross_fitted"], "passes and seeds" if summary["num_seeds"] > 1 else "passes"
    start = (f"{choice['kind'].capitalize()} against {choice['baseline']}: {_difference(result)} points"
             + (f", the set chosen on other {other} than those that report it" if choice["num_candidates"] > 1 else ""))
    if result["interval_95"] is None:
        return f"{start}; one run cannot tell this from chance: give more --seeds or --folds."
    if result["verdict"] != "not distinguishable":
        limits = [f"one {name}" for name in ("fold", "seed") if summary[f"num_{name}s"] == 1]
        return f"{start}: {result['verdict']}" + (f" (for {' and '.join(limits)} only)." if limits else ".")
    if summary["num_seeds"] == 1:
        return f"{start}: not distinguishable; give more --seeds."
    if result["seeds_needed"] is None:
        folds = "more folds, " if summary["num_folds"] < len(FOLDS) else ""
        return (f"{start}: not distinguishable, and {MAX_SEEDS} seeds per fold would not tell either: it takes {folds}"
                "more recordings or a larger difference.")
    return (f"{start}: not distinguishable; about {result['seeds_needed']} seeds per fold (now {summary['num_seeds']}) "
            "would tell, should the difference stay as it is.")


def accuracy_figure(summary: dict[str, Any]) -> Figure:
    """Left: mean accuracy of each arm, and a dot per run. Right: its difference from the baseline, with interval."""
    arms = summary["arms"]
    figure = Figure(figsize=(11, 1.4 + 0.42 * len(arms)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    for row, arm in enumerate(arms):
        accuracies = [100 * run["accuracy"] for run in arm["runs"]]
        # A line instead of a bar: the axis does not begin at 0, so the length of a bar would mislead.
        left.vlines(100 * arm["accuracy"], row - 0.3, row + 0.3, linewidth=4,
                    color="tab:blue" if arm["synthetic"] else "tab:gray")
        left.scatter(accuracies, [row] * len(accuracies), s=14, color="black", zorder=3)
        if arm["baseline"]:
            difference, colour = 100 * arm["difference"], VERDICT_COLOURS[arm["verdict"]]
            right.plot(difference, row, "o", color=colour, markersize=5)
            if arm["interval_95"]:
                right.plot([100 * end for end in arm["interval_95"]], [row, row], color=colour, linewidth=2)
    lowest = min(run["accuracy"] for arm in arms for run in arm["runs"])
    left.set(xlim=(max(0.0, 100 * lowest - 10), 100), xlabel="test accuracy in %: runs and their mean",
             yticks=range(len(arms)), yticklabels=[plain_text(arm["name"]) for arm in arms])
    left.invert_yaxis()
    right.axvline(0, color="black", linewidth=0.8)
    right.set(xlabel="points above the baseline, 95 % interval")
    for axis in (left, right):
        axis.grid(axis="x", alpha=0.25)
    return figure


def confusion_figure(summary: dict[str, Any]) -> Figure:
    """Confusion matrices of the first arm and of the most accurate other arm side by side, each row in per cent."""
    baseline, *others = summary["arms"]
    shown = [baseline] + ([max(others, key=lambda arm: arm["accuracy"])] if others else [])
    labels = [list(summary["names"]).index(user) for user in baseline["recalls"]]
    names = [plain_text(summary["names"][user].removeprefix("user ")) for user in baseline["recalls"]]
    side = max(4.0, 0.24 * len(labels))
    figure = Figure(figsize=((side + 1) * len(shown), side + 1), layout="constrained")
    for axes, arm in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown):
        counts = np.array(arm["confusion"])[np.ix_(labels, labels)]
        percent = 100 * counts / counts.sum(axis=1, keepdims=True)
        # Colours on a square-root scale, so that rare errors are visible too
        picture = axes.imshow(percent, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=100))
        axes.set_title(f"{plain_text(arm['name'])}: {100 * arm['accuracy']:.1f} %", fontsize=10)
        axes.set_xticks(range(len(labels)), names, fontsize=7, rotation=90 if max(map(len, names)) > 2 else 0)
        axes.set_yticks(range(len(labels)), names, fontsize=7)
        axes.set_xlabel("predicted user")
        axes.set_ylabel("true user")
        if len(labels) <= MAX_ANNOTATED_USERS:
            for (row, column), value in np.ndenumerate(percent):
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8,
                          color="white" if value > 35 else "black")
    figure.colorbar(picture, ax=figure.axes, label="% of the true user's test images", shrink=0.7)
    return figure


def _mean_and_std(arm: dict[str, Any]) -> str:
    """The accuracy in per cent."""
    std = "" if arm["accuracy_std"] is None else f" ± {100 * arm['accuracy_std']:.1f}"
    return f"{100 * arm['accuracy']:.1f}{std} %"


def _difference(result: dict[str, Any]) -> str:
    """The difference in points with its confidence interval; `result` is that of `compare`, or contains it."""
    interval = result["interval_95"]
    return f"{100 * result['difference']:+.1f}" + (
        "" if interval is None else f" [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]")


def _repeats(summary: dict[str, Any]) -> str:
    """The numbers of folds and seeds, such as "3 folds x 2 seeds"."""
    counts = [(summary["num_folds"], "fold"), (summary["num_seeds"], "seed")]
    return " x ".join(f"{count} {name}{'s' if count > 1 else ''}" for count, name in counts)
