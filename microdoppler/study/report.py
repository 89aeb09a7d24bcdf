"""The result of a study as text, tables and figures. `summary` is always the result of `summarize`."""
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from microdoppler.data.split_settings import FOLDS
from microdoppler.figures.fonts import figure_names, plain_text
from microdoppler.figures.report import Picture, Table, Verdict
from microdoppler.study.comparison import MAX_SEEDS

MAX_ANNOTATED_USERS = 12    # with more users, numbers in the cells of a confusion matrix would be too small to read
VERDICT_COLOURS = {"helps": "tab:green", "hurts": "tab:red", "not distinguishable": "tab:gray"}


def result_tables(summary: dict[str, Any]) -> list[Table]:
    """The tables of comparisons and of accuracies; if there are several synthetic sets, also that of the best sets."""
    choices = [choice for choice in summary["choices"] if choice["num_candidates"] > 1]
    return [_comparisons_table(summary), _accuracies_table(summary), *([_choices_table(choices)] if choices else [])]


def shown_names(summary: dict[str, Any]) -> dict[str, str]:
    """{name of an arm: its name in tables and figures}, without the synthetic set's name if there is only one set."""
    is_single = len({arm["synthetic"] for arm in summary["arms"] if arm["synthetic"]}) == 1
    return {arm["name"]: arm["kind"] if is_single else arm["name"] for arm in summary["arms"]}


def _comparisons_table(summary: dict[str, Any]) -> Table:
    """A row per arm that has a baseline: the difference in points."""
    shown = shown_names(summary)
    rows = [[shown[arm["name"]], arm["baseline"], _difference(arm), arm["verdict"]]
            for arm in summary["arms"] if arm["baseline"]]
    return Table(["trained on", "against", "difference in points", "verdict"], rows,
                 caption="Differences of accuracy are paired by fold and seed, with their 95 % interval over folds, "
                 f"seeds and {summary['num_passes']} test passes.")


def _accuracies_table(summary: dict[str, Any]) -> Table:
    """A row per arm: metrics on the test images in per cent."""
    shown = shown_names(summary)
    rows = [[shown[arm["name"]], _mean_and_std(arm), f"{100 * arm['macro_f1']:.1f}", f"{100 * arm['ece']:.1f}",
             f"{summary['names'][arm['worst_user']]} ({100 * arm['recalls'][arm['worst_user']]:.0f} %)"]
            for arm in summary["arms"]]
    return Table(["trained on", "accuracy", "macro-F1", "ECE", "worst user (recall)"], rows,
                 caption=f"On test images; accuracy: mean ± standard deviation over {_repeats(summary)}. ECE: expected "
                 "calibration error in points.")


def _choices_table(choices: list[dict[str, Any]]) -> Table:
    """A row per kind of arm: its best synthetic set, reported naively and cross-fitted."""
    rows = [[choice["kind"], str(choice["num_candidates"]), choice["naive_choice"].removeprefix(f"{choice['kind']}: "),
             _difference(choice["naive"]), _difference(choice["cross_fitted"]), choice["cross_fitted"]["verdict"]]
            for choice in choices]
    return Table(["best set of", "sets", "naive choice", "naive", "cross-fitted", "verdict"], rows,
                 caption="Differences in points. Naive: the best on all test passes, reported on the same: too good. "
                         "Cross-fitted: chosen with one half of the seeds on one half of the passes, reported with the "
                         "others on the others, in turn.")


def study_verdict(summary: dict[str, Any], folder: Path | None = None) -> Verdict:
    """Whether synthetic images help: one line, the cross-fitted difference of each kind of arm, and what to do next.

    folder: holds verdict.png, the result of `verdict_figure`; None: no picture.
    """
    choices = compared_choices(summary)
    if not choices:
        return Verdict("No synthetic set to compare.", "open", [
            ", ".join(f"{arm['name']} {_mean_and_std(arm)}" for arm in summary["arms"]) + f" ({_repeats(summary)})."])
    other = "passes and seeds" if summary["num_seeds"] > 1 else "passes"
    details = [f"{choice['kind']} against {choice['baseline']}: {_difference(choice['cross_fitted'])} points, "
               f"{choice['cross_fitted']['verdict']}." for choice in choices]
    if any(choice["num_candidates"] > 1 for choice in choices):
        details.append(f"Sets were chosen on other {other} than those that report them.")
    advised: dict[str, list[str]] = {}      # {advice: the kinds of arms that it is for}
    for choice in choices:
        if advice := _advice(choice["cross_fitted"], summary):
            advised.setdefault(advice, []).append(choice["kind"])
    details += [advice if len(kinds) == len(choices) else f"{' and '.join(kinds)}: {advice}"
                for advice, kinds in advised.items()]
    return Verdict(*_headline(choices, summary), details,
                   Picture(folder / "verdict.png", "What the synthetic images change") if folder else None)


def compared_choices(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices that tell whether synthetic images help: of all kinds of arms that have real images, too."""
    return [choice for choice in summary["choices"] if choice["kind"] != "synthetic only"]


def _headline(choices: list[dict[str, Any]], summary: dict[str, Any]) -> tuple[str, str]:
    """(the line, the mood) of a verdict."""
    results = [choice["cross_fitted"] for choice in choices]
    helps, hurts = (sum(result["verdict"] == word for result in results) for word in ("helps", "hurts"))
    if not helps and not hurts:
        return "This study cannot tell whether synthetic images help.", "open"
    limits = [f"one {name}" for name in ("fold", "seed") if summary[f"num_{name}s"] == 1]
    only = f" ({' and '.join(limits)} only)" if limits else ""
    if len(results) in (helps, hurts):
        points = sorted({f"{100 * result['difference']:+.1f}" for result in results}, key=float)
        found = f"{'help' if helps else 'hurt'}: {' to '.join(dict.fromkeys((points[0], points[-1])))} points"
    else:
        parts = [f"{word} in {count}" for word, count in (("help", helps), ("hurt", hurts)) if count]
        found = f"{' and '.join(parts)} of {len(results)} comparisons"
    return f"Synthetic images {found}{only}.", "bad" if not helps else "open" if hurts else "good"


def _advice(result: dict[str, Any], summary: dict[str, Any]) -> str:
    """What to do to learn more about a difference; "" when nothing is missing. result: that of `compare`."""
    if result["interval_95"] is None:
        return "One run cannot tell this from chance: give more --seeds or --folds."
    if result["verdict"] != "not distinguishable":
        return ("This says nothing about other folds: add --folds." if summary["num_folds"] == 1 else
                "One seed may be a lucky one: give more --seeds." if summary["num_seeds"] == 1 else "")
    if summary["num_seeds"] == 1:
        return "Give more --seeds."
    if result["seeds_needed"] is None:
        folds = "more folds, " if summary["num_folds"] < len(FOLDS) else ""
        return (f"{MAX_SEEDS} seeds per fold would not tell either: it takes {folds}more recordings or a larger "
                "difference.")
    return (f"About {result['seeds_needed']} seeds per fold (now {summary['num_seeds']}) would tell, should the "
            "difference stay as it is.")


def verdict_figure(summary: dict[str, Any]) -> Figure:
    """The cross-fitted difference of each kind of arm, with its interval, beside "no difference"."""
    choices = compared_choices(summary)
    figure = Figure(figsize=(5.4, 1.0 + 0.62 * len(choices)), layout="constrained")
    axis = figure.subplots()
    for row, choice in enumerate(choices):
        result = choice["cross_fitted"]
        _draw_difference(axis, row, result)
        axis.annotate(_difference(result), (100 * result["difference"], row), xytext=(0, 7), fontsize=9, ha="center",
                      textcoords="offset points", bbox={"color": "white", "pad": 0.5})
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_ylim(len(choices) - 0.4, -0.7)
    axis.set_yticks(range(len(choices)), [f"{choice['kind']}\nagainst {choice['baseline']}" for choice in choices],
                    fontsize=9)
    axis.set_title("← hurts", fontsize=9, loc="left")
    axis.set_title("helps →", fontsize=9, loc="right")
    axis.set_xlabel("points of accuracy, 95 % interval", fontsize=9)
    axis.tick_params(axis="x", labelsize=9)
    widest = 1.15 * max(1.0, *map(abs, axis.get_xlim()))
    axis.set_xlim(-widest, widest)
    axis.grid(axis="x", alpha=0.25)
    return figure


def _draw_difference(axis: Axes, row: int, result: dict[str, Any]) -> None:
    """A dot at the difference in points, and a line over its interval; result: that of `compare`, or contains it."""
    colour = VERDICT_COLOURS[result["verdict"]]
    axis.plot(100 * result["difference"], row, "o", color=colour, markersize=5)
    if result["interval_95"]:
        axis.plot([100 * end for end in result["interval_95"]], [row, row], color=colour, linewidth=2)


def accuracy_figure(summary: dict[str, Any]) -> Figure:
    """Left: mean accuracy of each arm, and a dot per run. Right: its difference from the baseline, with interval."""
    arms, shown = summary["arms"], shown_names(summary)
    figure = Figure(figsize=(11, 2.0 + 0.42 * len(arms)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    for row, arm in enumerate(arms):
        accuracies = [100 * run["accuracy"] for run in arm["runs"]]
        # A line instead of a bar: the axis does not begin at 0, so the length of a bar would mislead.
        left.vlines(100 * arm["accuracy"], row - 0.3, row + 0.3, linewidth=4,
                    color="tab:blue" if arm["synthetic"] else "tab:gray",
                    label="mean, with synthetic images" if arm["synthetic"] else "mean, real images only")
        left.scatter(accuracies, [row] * len(accuracies), s=14, color="black", zorder=3, label="a run")
        if arm["baseline"]:
            _draw_difference(right, row, arm)
            right.text(1.02, row, f"against {arm['baseline']}", transform=right.get_yaxis_transform(), va="center",
                       fontsize=8)
    chance = 100 / len(arms[0]["confusion"])
    lowest = max(0.0, 100 * min(run["accuracy"] for arm in arms for run in arm["runs"]) - 10)
    if chance > lowest:
        left.axvline(chance, color="black", linestyle="--", linewidth=1, label="chance")
    left.set(xlim=(lowest, 101), xlabel=f"test accuracy in % (chance: {chance:.3g} %)",
             yticks=range(len(arms)), yticklabels=[plain_text(shown[arm["name"]]) for arm in arms])
    left.invert_yaxis()
    right.axvline(0, color="black", linewidth=0.8)
    right.set(xlabel="difference in points, 95 % interval")
    for axis in (left, right):
        axis.grid(axis="x", alpha=0.25)
    verdicts = {arm["verdict"]: Line2D([], [], marker="o", color=VERDICT_COLOURS[arm["verdict"]])
                for arm in arms if arm["baseline"]}
    entries = dict(zip(*reversed(left.get_legend_handles_labels()))) | verdicts         # each label once
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
