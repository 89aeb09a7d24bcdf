"""The results of a study as tables, and their figures as text. `summary` is always the result of `summarize`."""
import math
from typing import Any

from microdoppler.figures.report import Table
from microdoppler.study.kinds import KINDS


def result_tables(summary: dict[str, Any]) -> list[Table]:
    """The tables of contrasts and of accuracies; if there are several synthetic sets, also that of the best sets."""
    choices: dict[str, dict[str, Any]] = {}     # the first contrast of each kind
    for contrast in summary["contrasts"]:
        if contrast["num_candidates"] > 1:
            choices.setdefault(contrast["kind"], contrast)
    tables = [contrasts_table(summary)] if summary["contrasts"] else []
    return [*tables, accuracies_table(summary), *([choices_table(list(choices.values()))] if choices else [])]


def unseen_table(summary: dict[str, Any]) -> Table:
    """A row per arm: how well its classifiers tell unseen persons apart."""
    shown = shown_names(summary)
    rows = [[shown[arm["name"]], *(percent_text(arm["unseen"][name]) for name in ("rank_1", "eer", "open_set_auroc"))]
            for arm in summary["arms"]]
    return Table(["trained on", "rank-1 in %", "EER in %", "open-set AUROC in %"], rows,
                 caption="Persons whom nothing was trained on, told apart by the classifier's features, means over "
                 f"{repeats_text(summary)}. Rank-1: the most similar image of another pass shows the same person. EER: "
                 "equal error rate of deciding whether two images of different passes show the same person; 50 is "
                 "chance. Open-set AUROC: how often a known person's image gets a higher top probability than an "
                 "unseen person's; 50 is chance.")


def percent_text(share: float) -> str:
    """A fraction in per cent; NaN is unknown, as where there are too few passes."""
    return "unknown" if math.isnan(share) else f"{100 * share:.1f}"


def shown_names(summary: dict[str, Any]) -> dict[str, str]:
    """{name of an arm: its name in tables and figures}, without the synthetic set's name if there is only one set."""
    is_single = len({arm["synthetic"] for arm in summary["arms"] if arm["synthetic"]}) == 1
    return {arm["name"]: arm["kind"] if is_single else arm["name"] for arm in summary["arms"]}


def contrasts_table(summary: dict[str, Any]) -> Table:
    """A row per contrast, the primary one first: the difference in points."""
    rows = [[contrast["kind"] + (" (primary)" if contrast["is_primary"] else ""), contrast["baseline"],
             difference_text(contrast), p_text(contrast), contrast["verdict"]]
            for contrast in summary["contrasts"]]
    return Table(["trained on", "against", "points of accuracy", "p", "verdict"], rows,
                 caption="Differences of accuracy, paired by fold and seed, with their 95 % interval. "
                 f"{_how_corrected(summary)} (Holm 1979) and decide about their verdicts; their intervals are not.")


def _how_corrected(summary: dict[str, Any]) -> str:
    """Which contrast is primary, and what the p-values of the others are corrected for."""
    if "conditions" not in summary:         # it is the summary of another condition
        return "All are secondary. Their p-values are corrected together with those of the study"
    is_primary = [contrast["is_primary"] for own in (summary, *summary["conditions"].values())
                  for contrast in own["contrasts"]]
    primary = "The primary contrast was named before the study. " if any(is_primary) else ""
    included = ", those under other conditions included," if summary["conditions"] else ""
    return (f"{primary}The p-values of the {is_primary.count(False)} secondary ones{included} are corrected for their "
            "number")


def accuracies_table(summary: dict[str, Any]) -> Table:
    """A row per arm: metrics on the test images."""
    shown = shown_names(summary)
    rows = [[shown[arm["name"]], accuracy_text(arm), f"{100 * arm['macro_f1']:.1f}", f"{100 * arm['ece']:.1f}",
             f"{arm['nll']:.2f}",
             f"{summary['names'][arm['worst_user']]} ({100 * arm['recalls'][arm['worst_user']]:.0f} %)"]
            for arm in summary["arms"]]
    return Table(["trained on", "accuracy", "macro-F1", "ECE", "NLL", "worst user (recall)"], rows,
                 caption=f"On test images; accuracy: mean ± standard deviation over {repeats_text(summary)}. ECE: "
                 "expected calibration error in points. NLL: negative log-likelihood of the true user, in nats per "
                 "image; lower is better, and label smoothing alone raises the ECE.")


def choices_table(choices: list[dict[str, Any]]) -> Table:
    """A row per contrast with several arms to choose from: the best one, reported naively and cross-fitted."""
    rows = []
    for choice in choices:
        kind, _, name = choice["naive_choice"].partition(": ")
        chosen = name if kind == choice["kind"] else f"{KINDS[kind].augmentation}: {name}"
        rows.append([choice["kind"], chosen, difference_text(choice["naive"]), difference_text(choice)])
    return Table(["best set of", "naive choice", "naive", "cross-fitted"], rows,
                 caption="Differences in points, against the first arm that each kind is held against above. Naive: "
                         "the best on all test passes, reported on the same: too good. Cross-fitted: chosen with one "
                         "half of the seeds on one half of the passes, reported with the others on the others, in "
                         "turn.")


def accuracy_text(arm: dict[str, Any]) -> str:
    """The accuracy in per cent."""
    std = "" if arm["accuracy_std"] is None else f" ± {100 * arm['accuracy_std']:.1f}"
    return f"{100 * arm['accuracy']:.1f}{std} %"


def difference_text(result: dict[str, Any], key: str = "difference") -> str:
    """The difference in points with its confidence interval; `result` is that of `compare`, or contains it.

    key: of the difference; "mean" for a result of `by_user`.
    """
    interval = result["interval_95"]
    return f"{100 * result[key]:+.1f}" + (
        "" if interval is None else f" [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]")


def p_text(contrast: dict[str, Any]) -> str:
    """The p-value that decides about a contrast's verdict: corrected, unless it is primary. "–" if there is none."""
    p_value = contrast["p_value"] if contrast["is_primary"] else contrast["p_holm"]
    return "–" if p_value is None else "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def p_phrase(contrast: dict[str, Any]) -> str:
    """The same within a sentence; "" if there is none."""
    value = p_text(contrast)
    return "" if value == "–" else f"p {value}" if value.startswith("<") else f"p = {value}"


def repeats_text(summary: dict[str, Any]) -> str:
    """The numbers of folds and seeds, such as "3 folds x 2 seeds", and of trainings if a generator has several."""
    counts = [(summary["num_folds"], "fold"), (summary["num_seeds"], "seed")]
    trainings = num_trainings(summary)
    return " x ".join(f"{count} {name}{'s' if count > 1 else ''}" for count, name in counts) + (
        f" with {trainings} trainings of each generator" if trainings > 1 else "")


def num_trainings(summary: dict[str, Any]) -> int:
    """The number of trainings of each generator in a fold."""
    return max(arm.get("trainings", 1) for arm in summary["arms"])      # older files do not have it
