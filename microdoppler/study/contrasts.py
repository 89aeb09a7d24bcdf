"""The contrasts of a study: every kind of arm against each of its baselines, one of them primary."""
from typing import Any, Mapping, Sequence

from microdoppler.study.comparison import holm, verdict
from microdoppler.study.counts import CorrectCounts
from microdoppler.study.cross_fitting import best_classical, best_of
from microdoppler.study.kinds import PRIMARY_BASELINES, PRIMARY_KIND, Kind


def contrasts_of(counts: CorrectCounts, arms_of_kind: Mapping[Kind, Sequence[str]], has_primary: bool = True
                 ) -> list[dict[str, Any]]:
    """Compare each kind of arm with those of its baselines that the study has, the primary contrast first. Plain values
    for summary.json:

    kind, baseline: names; arm: the arm's name, or the kind's where several sets are to choose from; is_primary: whether
    it was named before the data were looked at (see kinds.py); difference, interval_95, p_value, verdict, seeds_needed:
    see `compare`, cross-fitted over the sets; p_holm: None, until `correct` sets it; num_candidates, choices,
    naive_choice, naive, by_user: see `best_pair`.

    arms_of_kind: {kind: names of its arms, one per synthetic set}; has_primary: False for another condition than that
    of the test images, where all contrasts are secondary.
    """
    chosen = [best_of(counts, kind.name, baseline, arms) for kind, arms in arms_of_kind.items()
              for baseline in kind.baselines if baseline in counts.correct] + best_classical(counts, arms_of_kind)
    pairs = [(one["kind"], one["baseline"]) for one in chosen]
    primary = next((pair for pair in ((PRIMARY_KIND, baseline) for baseline in PRIMARY_BASELINES)
                    if has_primary and pair in pairs), None)
    contrasts = []
    for pair, one in zip(pairs, chosen):
        result = one.pop("cross_fitted")
        arm = one["naive_choice"] if one["num_candidates"] == 1 else one["kind"]
        contrasts.append({"arm": arm, **one, "is_primary": pair == primary, **result, "p_holm": None})
    rank = {primary: 0} if primary else {}
    return sorted(contrasts, key=lambda contrast: (rank.get((contrast["kind"], contrast["baseline"]), 1),
                                                   contrast["kind"] != PRIMARY_KIND))


def correct(contrasts: Sequence[dict[str, Any]]) -> None:
    """Set p_holm of the secondary ones among all contrasts of a study: the p-value after Holm's correction for all of
    them. It decides about their verdict. Nothing is set where there are no p-values, since each arm has one run."""
    secondary = [contrast for contrast in contrasts if not contrast["is_primary"]]
    if not secondary or secondary[0]["p_value"] is None:
        return
    for contrast, adjusted in zip(secondary, holm([contrast["p_value"] for contrast in secondary])):
        contrast |= {"p_holm": adjusted, "verdict": verdict(contrast["difference"], adjusted)}
