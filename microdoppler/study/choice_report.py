"""The choice of constants as text, table and figure."""
from typing import Any, Mapping, Sequence

from matplotlib.figure import Figure

from microdoppler.figures.report import Table
from microdoppler.study.choice import NAMES, Measured, Step, described

REFERENCE_STYLES = ("--", ":", "-.")


def steps_table(steps: Sequence[Step]) -> Table:
    """A row per value that was tried."""
    rows = [[NAMES[step.constant], described(value), _percent(measured.accuracy, measured.error),
             _percent(measured.below_best, measured.below_best_error) if measured.below_best else "best",
             "chosen" if value == step.chosen else ""]
            for step in steps for value, measured in step.tried.items()]
    return Table(["constant", "value", "accuracy", "below the best", ""], rows,
                 "On validation images, in %, ± standard error over folds, seeds and passes: real + classical for "
                 "epochs, real + synthetic for all others. Below the best: the paired difference in points. The chosen "
                 "value is the first that is not below the best by more than one standard error.")


def references_table(references: Mapping[str, Measured]) -> Table:
    """A row per arm, on the same validation images."""
    return Table(["trained on", "accuracy"], [[name, _percent(found.accuracy, found.error)]
                                              for name, found in references.items()],
                 "On validation images, in %, ± standard error.")


def chosen_line(chosen: Mapping[str, Any]) -> str:
    """The chosen constants, {key in NAMES: value}, in one line."""
    return ", ".join(f"{name} {described(chosen[constant])}" for constant, name in NAMES.items())


def choice_figure(steps: Sequence[Step], references: Mapping[str, Measured]) -> Figure:
    """The accuracy of each value that was tried, with its standard error; a panel per step. The chosen value is filled;
    lines are arms without synthetic images."""
    figure = Figure(figsize=(2.0 + 2.1 * len(steps), 3.6), layout="constrained")
    for axis, step in zip(figure.subplots(1, len(steps), sharey=True, squeeze=False)[0], steps):
        for place, (value, measured) in enumerate(step.tried.items()):
            axis.errorbar(place, 100 * measured.accuracy, 100 * measured.error, fmt="o", color="tab:blue", capsize=3,
                          markerfacecolor="tab:blue" if value == step.chosen else "white")
        for (name, measured), style in zip(references.items(), REFERENCE_STYLES):
            axis.axhline(100 * measured.accuracy, color="gray", linestyle=style, linewidth=1, label=name)
        axis.set_xticks(range(len(step.tried)), [described(value) for value in step.tried], fontsize=8)
        axis.set_xlim(-0.5, len(step.tried) - 0.5)
        axis.set_xlabel(NAMES[step.constant], fontsize=9)
        axis.grid(axis="y", alpha=0.25)
    figure.axes[0].set_ylabel("accuracy on validation images in %")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _percent(value: float, error: float) -> str:
    return f"{100 * value:.1f} ± {100 * error:.1f}"
