"""What a study says: its verdict, and how its figures were made. `summary` is always the result of `summarize`."""
import re
from pathlib import Path
from typing import Any

from microdoppler.data.split_settings import FOLDS
from microdoppler.figures.report import Picture, Verdict
from microdoppler.study.comparison import HELPS, HURTS, MAX_SEEDS, OPEN
from microdoppler.study.figures import headline_contrasts, person_contrasts
from microdoppler.study.kinds import PRIMARY_KIND, REAL_ONLY
from microdoppler.study.tables import accuracy_text, difference_text, num_trainings, p_phrase, repeats_text

CHECKPOINT = re.compile(r"checkpoint_(\d+)$")       # the end of a set's name, where its folder is called as by default


def study_verdict(summary: dict[str, Any], folder: Path | None = None) -> Verdict:
    """What diffusion adds, by the primary contrast; then whether synthetic images help, and what to do next.

    folder: holds verdict.png, the result of `verdict_figure`; None: no picture.
    """
    primary = next((contrast for contrast in summary["contrasts"] if contrast["is_primary"]), None)
    if primary is None:
        arms = ", ".join(f"{arm['name']} {accuracy_text(arm)}" for arm in summary["arms"])
        return Verdict("No synthetic set to compare.", "open", [f"{arms} ({repeats_text(summary)})."])
    details = [f"{contrast['kind']} against {contrast['baseline']}{'' if contrast['is_primary'] else ' (secondary)'}: "
               f"{_result(contrast)}" for contrast in person_contrasts(summary)]
    if primary["baseline"] == REAL_ONLY:
        details.append("Cut and shifted windows may add as much: no control set tells. Run generate.py again for one.")
    details += [_persons(primary), *_other_contrasts(summary)]
    if primary["num_candidates"] > 1:
        details.append("Sets were chosen on other "
                       f"{'passes and seeds' if summary['num_seeds'] > 1 else 'passes'} than those that report them.")
    if (trainings := num_trainings(summary)) > 1:
        details.append(f"{trainings} trainings of each generator in a fold: intervals are about others, too.")
    details.append(_advice(primary, summary))
    return Verdict(*_headline(primary, summary), list(filter(None, details)),
                   Picture(folder / "verdict.png", "What the synthetic images change") if folder else None)


def _headline(primary: dict[str, Any], summary: dict[str, Any]) -> tuple[str, str]:
    """(the line, the mood) of a verdict, by the primary contrast alone."""
    limits = [f"one {name}" for name in ("fold", "seed") if summary[f"num_{name}s"] == 1]
    only = f" ({' and '.join(limits)} only)" if limits else ""
    points, mood = 100 * primary["difference"], {HELPS: "good", HURTS: "bad", OPEN: "open"}[primary["verdict"]]
    if primary["baseline"] == REAL_ONLY:
        return {HELPS: f"Synthetic images help: {points:+.1f} points{only}.",
                HURTS: f"Synthetic images hurt: {points:+.1f} points{only}.",
                OPEN: "This study cannot tell whether synthetic images help."}[primary["verdict"]], mood
    return {HELPS: f"Diffusion adds {points:.1f} points to its own training windows{only}.",
            HURTS: f"Diffusion loses {-points:.1f} points to its own training windows{only}.",
            OPEN: "This study cannot tell whether diffusion adds to its training windows."}[primary["verdict"]], mood


def _result(contrast: dict[str, Any]) -> str:
    """The figures and the verdict of a contrast."""
    p_value = p_phrase(contrast) + (" (Holm)" if contrast["p_holm"] is not None else "")
    figures = ", ".join(filter(None, [f"{difference_text(contrast)} points", p_value]))
    return f"{figures}: {contrast['verdict']}."


def _persons(contrast: dict[str, Any]) -> str:
    """How many users are recognised better, and the mean over users."""
    differences = [of_arm - of_baseline for of_baseline, of_arm in contrast["by_user"]["recalls"].values()]
    better, worse = (sum(sign * difference > 0 for difference in differences) for sign in (1, -1))
    return (f"User by user: {better} of {len(differences)} better, {worse} worse; "
            f"mean {difference_text(contrast['by_user'], 'mean')} points.")


def _other_contrasts(summary: dict[str, Any]) -> list[str]:
    """What the other headline contrasts say together: [a sentence], empty where there is none."""
    others = [contrast for contrast in headline_contrasts(summary) if contrast not in person_contrasts(summary)]
    helps, hurts = (sum(contrast["verdict"] == word for contrast in others) for word in (HELPS, HURTS))
    said = f"Other contrasts: synthetic images help in {helps} and hurt in {hurts} of {len(others)}."
    return [said] if others else []


def _advice(result: dict[str, Any], summary: dict[str, Any]) -> str:
    """What to do to learn more about a difference; "" when nothing is missing. result: that of `compare`."""
    trainings = num_trainings(summary)
    if result["interval_95"] is None:
        return "One run cannot tell this from chance: give more --seeds or --folds."
    if result["verdict"] != OPEN:
        return (f"This says nothing about other folds{'' if trainings > 1 else ' or trainings of the generator'}: "
                "add --folds." if summary["num_folds"] == 1 else
                "One seed may be a lucky one: give more --seeds." if summary["num_seeds"] == 1 else "")
    if summary["num_seeds"] == 1:
        return "Give more --seeds."
    unit, now = ("trainings", trainings) if trainings > 1 else ("seeds", summary["num_seeds"])
    if result["seeds_needed"] is None:
        folds = "more folds, " if summary["num_folds"] < len(FOLDS) else ""
        return (f"{MAX_SEEDS} {unit} per fold would not tell either: it takes {folds}more recordings or a larger "
                "difference.")
    needed = result["seeds_needed"] * now // summary["num_seeds"]
    return (f"About {needed} {unit} per fold (now {now}) would tell with 80 % probability, if this is the true "
            "difference.")


def checkpoint_lines(summary: dict[str, Any]) -> list[str]:
    """A line per synthetic set: the accuracy of real + synthetic, and its difference from real only. With several sets
    also which is best: naively, and cross-fitted. Empty without synthetic sets."""
    arms = [arm for arm in summary["arms"] if arm["kind"] == PRIMARY_KIND]
    real = next((arm for arm in summary["arms"] if arm["kind"] == REAL_ONLY), None)
    if not arms or real is None:
        return []
    lines = [f"real only: {100 * real['accuracy']:.1f} %"]
    lines += [f"{set_name(arm['synthetic'])}: {100 * arm['accuracy']:.1f} % "
              f"({100 * (arm['accuracy'] - real['accuracy']):+.2f} points)" for arm in arms]
    if len(arms) > 1:
        best = set_name(max(arms, key=lambda arm: arm["accuracy"])["synthetic"])
        is_checkpoint = all(set_name(arm["synthetic"]).startswith("checkpoint ") for arm in arms)
        fair = next(contrast for contrast in summary["contrasts"]
                    if (contrast["kind"], contrast["baseline"]) == (PRIMARY_KIND, REAL_ONLY))
        chosen = [set_name(name.partition(": ")[2]) for name in dict.fromkeys(fair["choices"])]
        lines += [f"best {'checkpoint' if is_checkpoint else 'set'}: {best.removeprefix('checkpoint ')} "
                  "(naive: chosen by the test accuracies above, so its own is too good)",
                  f"cross-fitted: {difference_text(fair)} points; chosen on other test passes than those that report "
                  f"it: {', '.join(chosen)}"]
    return lines


def set_name(name: str) -> str:
    """The name of a synthetic set as text: checkpoint_75 is "checkpoint 75"."""
    return CHECKPOINT.sub(r"checkpoint \1", name)


def interval_method(summary: dict[str, Any]) -> list[str]:
    """How the intervals were made, and what they are about, in sentences."""
    trainings = num_trainings(summary)
    counts = {"folds": summary["num_folds"], "seeds": summary["num_seeds"], "trainings of the generator": trainings}
    limits = [name for name, number in counts.items() if number > 1]
    about = ["other passes", *(f"other {name}" for name in limits)]
    return [
        f"Intervals are about the same users with {', '.join(about[:-1])}{' and ' if limits else ''}{about[-1]}. Their "
        "variance has a part from folds, from single runs (every fold has random numbers of its own for a seed) and "
        f"from the {summary['num_passes']} test passes, each compared with other passes of the same user. What passes "
        "add to the scatter of folds and runs is counted once. Student's t has the degrees of freedom of Satterthwaite "
        "(1946). " + (_about_trainings(trainings, summary["num_seeds"]) if trainings > 1 else
                      "Every fold has a generator of its own, so that the part from folds holds what another training "
                      "of the generator changes." if summary["num_folds"] > 1 else
                      "With one fold, what another training of the generator changes is unknown."),
        "Whether it works for other users is what the comparison user by user tells: the mean over users of the "
        "difference of their recalls, with Student's paired t-test over users, for these folds and seeds.",
        "The primary contrast was named before the study, and its p-value is not corrected. All other contrasts are "
        "secondary: their p-values are corrected together (Holm 1979)."]


def _about_trainings(number: int, num_seeds: int) -> str:
    """What the intervals are about where a generator was trained several times, in sentences."""
    shared = (f" The {num_seeds // number} seeds of one training count as one run, their mean." if num_seeds > number
              else "")
    return (f"The generator was trained {number} times in every fold, and the seeds use these trainings in turn. So "
            "the part from single runs holds what another training changes, and intervals are about a generator that "
            "is trained in this way, not about one that is trained already." + shared)
