"""What a study found: in words, in tables, in figures."""
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from microdoppler.data.split import FOLDS
from microdoppler.figures.report import Table, plain_text
from microdoppler.study.comparison import MOST_SEEDS

ANNOTATED_USERS = 12      # with more users than this, numbers in the cells of a confusion matrix cannot be read
VERDICT_COLOURS = {"helps": "tab:green", "hurts": "tab:red", "not distinguishable": "tab:gray"}


def result_tables(summary: dict[str, Any]) -> list[Table]:
    """`summarize`'s arms, and where there is more than one synthetic set to choose from, the choice."""
    chosen = [choice for choice in summary["choices"] if choice["num_candidates"] > 1]
    return [_arms_table(summary), *([_choices_table(chosen)] if chosen else [])]


def _arms_table(summary: dict[str, Any]) -> Table:
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
    rows = [[choice["kind"], choice["baseline"], str(choice["num_candidates"]),
             choice["naive_choice"].removeprefix(f"{choice['kind']}: "), _difference(choice["naive"]),
             _difference(choice["cross_fitted"]), choice["cross_fitted"]["verdict"]] for choice in choices]
    return Table(["best set of", "against", "sets", "naive choice", "naive", "cross-fitted", "verdict"], rows,
                 caption="Naive: the best on all test passes, reported on the same: too good. Cross-fitted: chosen "
                         "with one half of the seeds on one half of the passes, reported with the others on the "
                         "others, in turn.")


def conclusion(summary: dict[str, Any]) -> str:
    """Whether synthetic images help, from the cross-fitted choices, and how far that can be believed."""
    if not summary["choices"]:
        return ("No synthetic set to compare. " + ", ".join(f"{arm['name']} {_mean_and_std(arm)}"
                                                             for arm in summary["arms"]) + f" ({_repeats(summary)}).")
    return " ".join(_sentence(choice, summary) for choice in summary["choices"]
                    if choice["kind"] != "synthetic only")


def _sentence(choice: dict[str, Any], summary: dict[str, Any]) -> str:
    found, other = choice["cross_fitted"], "passes and seeds" if summary["num_seeds"] > 1 else "passes"
    start = (f"{choice['kind'].capitalize()} against {choice['baseline']}: {_difference(found)} points"
             + (f", the set chosen on other {other} than those that report it" if choice["num_candidates"] > 1 else ""))
    if found["interval_95"] is None:
        return f"{start}; one run cannot tell this from chance: give more --seeds or --folds."
    if found["verdict"] != "not distinguishable":
        limits = [f"one {name}" for name in ("fold", "seed") if summary[f"num_{name}s"] == 1]
        return f"{start}: {found['verdict']}" + (f" (for {' and '.join(limits)} only)." if limits else ".")
    if summary["num_seeds"] == 1:
        return f"{start}: not distinguishable; give more --seeds."
    if found["seeds_needed"] is None:
        folds = "more folds, " if summary["num_folds"] < len(FOLDS) else ""
        return (f"{start}: not distinguishable, and {MOST_SEEDS} seeds per fold would not tell either: it takes {folds}"
                "more recordings or a larger difference.")
    return (f"{start}: not distinguishable; about {found['seeds_needed']} seeds per fold (now {summary['num_seeds']}) "
            "would tell, should the difference stay as it is.")


def accuracy_figure(summary: dict[str, Any]) -> Figure:
    """Left, mean accuracy with a dot per run; right, the difference from the arm's baseline with its interval."""
    arms = summary["arms"]
    figure = Figure(figsize=(11, 1.4 + 0.42 * len(arms)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    for row, arm in enumerate(arms):
        accuracies = [100 * run["accuracy"] for run in arm["runs"]]
        # No bars: cut off below the lowest accuracy, their lengths would mislead.
        left.vlines(100 * arm["accuracy"], row - 0.3, row + 0.3, linewidth=4,
                    color="tab:blue" if arm["synthetic"] else "tab:gray")
        left.scatter(accuracies, [row] * len(accuracies), s=14, color="black", zorder=3)
        if arm["baseline"]:
            found, colour = 100 * arm["difference"], VERDICT_COLOURS[arm["verdict"]]
            right.plot(found, row, "o", color=colour, markersize=5)
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
    """Confusion matrices of "real only" and of the most accurate other arm side by side, rows in per cent."""
    baseline, *others = summary["arms"]
    shown = [baseline] + ([max(others, key=lambda arm: arm["accuracy"])] if others else [])
    users = [user - 1 for user in baseline["recalls"]]
    names = [plain_text(summary["names"][user + 1].removeprefix("user ")) for user in users]
    side = max(4.0, 0.24 * len(users))
    figure = Figure(figsize=((side + 1) * len(shown), side + 1), layout="constrained")
    for axes, arm in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown):
        counts = np.array(arm["confusion"])[np.ix_(users, users)]
        percent = 100 * counts / counts.sum(axis=1, keepdims=True)
        picture = axes.imshow(percent, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=100))    # rare errors show too
        axes.set_title(f"{plain_text(arm['name'])}: {100 * arm['accuracy']:.1f} %", fontsize=10)
        axes.set_xticks(range(len(users)), names, fontsize=7, rotation=90 if max(map(len, names)) > 2 else 0)
        axes.set_yticks(range(len(users)), names, fontsize=7)
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
    return f"{100 * arm['accuracy']:.1f}{std} %"


def _difference(found: dict[str, Any]) -> str:
    interval = found["interval_95"]
    return f"{100 * found['difference']:+.1f}" + (
        "" if interval is None else f" [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]")


def _repeats(summary: dict[str, Any]) -> str:
    counts = [(summary["num_folds"], "fold"), (summary["num_seeds"], "seed")]
    return " x ".join(f"{count} {name}{'s' if count > 1 else ''}" for count, name in counts)
