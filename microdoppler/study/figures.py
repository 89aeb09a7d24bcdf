"""The results of a study as figures. `summary` is always the result of `summarize`."""
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from microdoppler.figures.fonts import figure_names, plain_text
from microdoppler.study.comparison import HELPS, HURTS, OPEN
from microdoppler.study.kinds import CUTS, CUTS_THROUGH_VAE, KINDS, REAL_ONLY, SELECTED, SYNTHETIC
from microdoppler.study.tables import difference_text, p_phrase, shown_names

MAX_ANNOTATED_USERS = 12    # with more users, numbers in the cells of a confusion matrix would be too small to read
OUTLYING = 4                # times the median interval's farther end: the axis does not follow an interval beyond
VERDICT_COLOURS = {HELPS: "tab:green", HURTS: "tab:red", OPEN: "tab:gray"}
COLOURS = {"": "tab:gray", CUTS: "tab:orange", CUTS_THROUGH_VAE: "tab:orange", SYNTHETIC: "tab:blue",
           SELECTED: "tab:purple"}      # by what is added to the real images


def headline_contrasts(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The contrasts that tell whether synthetic images help, the primary one first: of arms that have real images, too.
    """
    return [contrast for contrast in summary["contrasts"]
            if (kind := KINDS.get(contrast["kind"])) is None or kind.is_synthetic and kind.has_real]


def person_contrasts(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The contrasts that are shown person by person: the primary one, and its arm against real only."""
    shown = [contrast for contrast in summary["contrasts"] if contrast["is_primary"]]
    return shown + [contrast for contrast in summary["contrasts"] if shown and not contrast["is_primary"]
                    and (contrast["kind"], contrast["baseline"]) == (shown[0]["kind"], REAL_ONLY)]


def verdict_figure(summary: dict[str, Any]) -> Figure:
    """The cross-fitted difference of each headline contrast, with its interval, beside "no difference"."""
    contrasts = headline_contrasts(summary)
    rows = [row + 0.3 * (contrasts[0]["is_primary"] and row > 0) for row in range(len(contrasts))]
    figure = Figure(figsize=(5.8, 1.0 + 0.48 * len(contrasts)), layout="constrained")
    axis = figure.subplots()
    for row, contrast in zip(rows, contrasts):
        _draw_interval(axis, row, contrast, VERDICT_COLOURS[contrast["verdict"]], 3.5 if contrast["is_primary"] else 2)
        axis.annotate(", ".join(filter(None, [difference_text(contrast), p_phrase(contrast)])),
                      (100 * contrast["difference"], row), xytext=(0, 6), fontsize=8, ha="center",
                      textcoords="offset points", bbox={"color": "white", "pad": 0.3})
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_ylim(rows[-1] + 0.4, -0.7)
    axis.set_yticks(rows, [f"{contrast['kind']}\nagainst {contrast['baseline']}" for contrast in contrasts], fontsize=8)
    for label, contrast in zip(axis.get_yticklabels(), contrasts):
        label.set_fontweight("bold" if contrast["is_primary"] else "normal")
    axis.set_title("← hurts", fontsize=9, loc="left")
    axis.set_title("helps →", fontsize=9, loc="right")
    axis.set_xlabel("points of accuracy, 95 % interval; bold: primary; p of the others: Holm's", fontsize=8,
                    loc="right")
    axis.tick_params(axis="x", labelsize=8)
    farthest = max(abs(100 * contrast["difference"]) for contrast in contrasts)
    _cut_outlying(axis, contrasts)
    widest = max(1.0, 1.9 * farthest, *(1.1 * abs(limit) for limit in axis.get_xlim()))      # 1.9: figures fit, too
    axis.set_xlim(-widest, widest)
    axis.grid(axis="x", alpha=0.25)
    return figure


def _draw_interval(axis: Axes, row: float, result: dict[str, Any], colour: str, width: float = 2) -> None:
    """A dot at the difference in points, and a line over its interval; result: that of `compare`, or contains it."""
    axis.plot(100 * result["difference"], row, "o", color=colour, markersize=2.5 * width)
    if result["interval_95"]:
        axis.plot([100 * end for end in result["interval_95"]], [row, row], color=colour, linewidth=width)


def _cut_outlying(axis: Axes, results: list[dict[str, Any]]) -> None:
    """Let an interval that is much wider than the others run off the axis: they would be dots beside it. All dots
    stay. results: as `_draw_interval` has drawn them."""
    ends = [100 * max(map(abs, result["interval_95"])) for result in results if result["interval_95"]]
    if ends:
        widest = max(OUTLYING * float(np.median(ends)), *(110 * abs(result["difference"]) for result in results))
        axis.set_xlim(*np.clip(axis.get_xlim(), -widest, widest))


def accuracy_figure(summary: dict[str, Any]) -> Figure:
    """Left: mean accuracy of each arm, and a dot per run. Right: its difference from real only, with interval."""
    arms, shown = summary["arms"], shown_names(summary)
    figure = Figure(figsize=(11, 2.0 + 0.34 * len(arms)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    for row, arm in enumerate(arms):
        accuracies, added = [100 * run["accuracy"] for run in arm["runs"]], KINDS[arm["kind"]].added
        # A line instead of a bar: the axis does not begin at 0, so the length of a bar would mislead.
        left.vlines(100 * arm["accuracy"], row - 0.33, row + 0.33, linewidth=4, color=COLOURS[added],
                    label=f"mean, with {_what(added)}" if added else "mean, real images only")
        left.scatter(accuracies, [row] * len(accuracies), s=14, color="black", zorder=3, label="a run")
        if arm["against_real"]:
            _draw_interval(right, row, arm["against_real"], COLOURS[added])
    chance = 100 / len(arms[0]["confusion"])
    lowest = max(0.0, 100 * min(run["accuracy"] for arm in arms for run in arm["runs"]) - 10)
    if chance > lowest:
        left.axvline(chance, color="black", linestyle="--", linewidth=1, label="chance")
    left.set(xlim=(lowest, 101), xlabel=f"test accuracy in % (chance: {chance:.3g} %)",
             yticks=range(len(arms)), yticklabels=[plain_text(shown[arm["name"]]) for arm in arms])
    left.set_ylim(len(arms) - 0.4, -0.6)
    right.axvline(0, color="black", linewidth=0.8)
    right.set(xlabel=f"points against {REAL_ONLY}, 95 % interval")
    _cut_outlying(right, [arm["against_real"] for arm in arms if arm["against_real"]])
    for axis in (left, right):
        axis.grid(axis="x", alpha=0.25)
    entries = dict(zip(*reversed(left.get_legend_handles_labels())))        # each label once
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=len(entries), fontsize=8)
    return figure


def _what(added: str) -> str:
    return "cuts" if added in (CUTS, CUTS_THROUGH_VAE) else f"{added} images"


def person_figure(summary: dict[str, Any]) -> Figure:
    """A line per user, from the recall of the baseline to that of the arm, for each of `person_contrasts`. Users are
    sorted by the difference in the first of them."""
    contrasts = person_contrasts(summary)
    recalls = contrasts[0]["by_user"]["recalls"]
    users = sorted(recalls, key=lambda user: recalls[user][1] - recalls[user][0], reverse=True)
    shown_users = figure_names({user: summary["names"][user] for user in users})
    figure = Figure(figsize=(5 * len(contrasts) + 1, 1.8 + 0.2 * len(users)), layout="constrained")
    panels = figure.subplots(1, len(contrasts), squeeze=False, sharex=True, sharey=True)[0]
    for axis, contrast in zip(panels, contrasts):
        pairs = [[100 * recall for recall in contrast["by_user"]["recalls"][user]] for user in users]
        for row, (of_baseline, of_arm) in enumerate(pairs):
            colour = VERDICT_COLOURS[HELPS if of_arm > of_baseline else HURTS if of_arm < of_baseline else OPEN]
            axis.plot([of_baseline, of_arm], [row, row], color=colour, linewidth=2.5, solid_capstyle="butt")
            axis.plot(of_baseline, row, "o", color="black", markerfacecolor="white", markersize=5)
            axis.plot(of_arm, row, "o", color=colour, markersize=5)
        axis.set_title(f"{contrast['kind']} against {contrast['baseline']}\nmean over users: "
                       f"{difference_text(contrast['by_user'], 'mean')} points", fontsize=9)
        axis.set(xlabel="recall on test images in %", yticks=range(len(users)))
        axis.set_yticklabels([plain_text(name.removeprefix("user ")) for name in shown_users.values()], fontsize=8)
        axis.grid(axis="x", alpha=0.25)
    panels[0].set_ylim(len(users) - 0.4, -0.6)
    panels[0].set_ylabel("user")
    entries = {"baseline": Line2D([], [], color="black", marker="o", markerfacecolor="white", linestyle=""),
               "better with synthetic images": Line2D([], [], color=VERDICT_COLOURS[HELPS], marker="o"),
               "worse": Line2D([], [], color=VERDICT_COLOURS[HURTS], marker="o"),
               "equal": Line2D([], [], color=VERDICT_COLOURS[OPEN], marker="o")}
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=len(entries), fontsize=8)
    return figure


def confusion_figure(summary: dict[str, Any]) -> Figure:
    """Confusion matrices side by side, each row in per cent: of the first arm, and of the most accurate arm with
    synthetic images (if there is none, of the most accurate other arm)."""
    baseline, *others = summary["arms"]
    candidates = [arm for arm in others if arm["synthetic"]] or others
    shown = [baseline] + ([max(candidates, key=lambda arm: arm["accuracy"])] if candidates else [])
    arm_names = shown_names(summary)
    labels = [list(summary["names"]).index(user) for user in baseline["recalls"]]
    shown_users = figure_names({user: summary["names"][user] for user in baseline["recalls"]})
    names = [plain_text(name.removeprefix("user ")) for name in shown_users.values()]
    side = max(4.0, 0.24 * len(labels))
    figure = Figure(figsize=((side + 1) * len(shown), side + 1), layout="constrained")
    for axes, arm in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown):
        counts = np.array(arm["confusion"])[np.ix_(labels, labels)]
        percent = 100 * counts / counts.sum(axis=1, keepdims=True)
        # Colours on a square-root scale, so that rare errors are visible too
        picture = axes.imshow(percent, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=100))
        axes.set_title(f"{plain_text(arm_names[arm['name']])}: {100 * arm['accuracy']:.1f} %", fontsize=10)
        axes.set_xticks(range(len(labels)), names, fontsize=7, rotation=90 if max(map(len, names)) > 2 else 0)
        axes.set_yticks(range(len(labels)), names, fontsize=7)
        axes.set_xlabel("predicted user")
        axes.set_ylabel("true user")
        if len(labels) <= MAX_ANNOTATED_USERS:
            for (row, column), value in np.ndenumerate(percent):
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8,
                          color="white" if value > 35 else "black")
    figure.colorbar(picture, ax=figure.axes, ticks=[0, 1, 5, 10, 25, 50, 100], format="{x:g}", shrink=0.7,
                    label="% of the true user's test images (colours: square-root scale)")
    return figure
