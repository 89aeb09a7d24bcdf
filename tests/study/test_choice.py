"""The choice of constants on validation images: the one-standard-error rule, and the search one constant at a time."""
import numpy as np
import pytest

from microdoppler.study.choice import Candidate, Measured, Step, choose_value, measure, search, simplest_of_the_best
from microdoppler.study.choice_report import choice_figure, steps_table
from microdoppler.study.counts import CorrectCounts

PASSES = 40


def counts_of(arms, images=10):
    """{arm: mean accuracy, or accuracies (passes,)} of one fold with one seed; each pass has as many images."""
    correct = {name: np.broadcast_to(np.asarray(value, float), PASSES)[None, None] * images
               for name, value in arms.items()}
    return CorrectCounts(correct, np.full((1, PASSES), float(images)), np.arange(PASSES) % 4)


def test_an_accuracy_has_the_standard_error_of_a_mean_over_passes():
    """Of independent passes, it is s / sqrt(n) within each of four users: the textbook's stratified mean."""
    values = np.random.default_rng(0).uniform(0.5, 1, PASSES)
    by_user = [values[np.arange(PASSES) % 4 == user] for user in range(4)]
    expected = np.sqrt(sum(own.var(ddof=1) / len(own) for own in by_user)) / 4
    found = measure(counts_of({"arm": values}), "arm")
    assert found.accuracy == pytest.approx(values.mean()) and found.error == pytest.approx(expected, rel=0.05)


def test_the_first_value_wins_unless_another_is_better_by_more_than_a_standard_error():
    noise = np.random.default_rng(1).normal(0, 0.1, PASSES)
    error = noise.std() / np.sqrt(PASSES)
    noise -= noise.mean()

    def choice(gain):
        arms = {"default": np.full(PASSES, 0.7), "other": 0.7 + gain + noise}
        return list(arms)[simplest_of_the_best(counts_of(arms))[1]]
    assert choice(0.0) == choice(-0.2) == choice(0.7 * error) == "default"
    assert choice(1.4 * error) == choice(0.2) == "other"


def test_differences_are_paired():
    """Passes differ by far more than the arms, which differ by the same amount on each pass."""
    passes = np.random.default_rng(2).uniform(0.2, 0.8, PASSES)
    measured, chosen = simplest_of_the_best(counts_of({"default": passes, "other": passes + 0.01}))
    assert chosen == 1 and measured[0].below_best == pytest.approx(0.01) and measured[0].error > 0.02
    assert measured[0].below_best_error == pytest.approx(0, abs=1e-9) and measured[1].below_best == 0


def test_the_search_keeps_the_best_of_each_step_and_trains_the_fewest():
    """The accuracy has its maximum where every constant is best, and the search asks for 2 + 2 + 1 others only."""
    best, asked = {"milestone": 2, "noise_level": 0.5, "ratio": 2.0}, []

    def count(candidates):
        asked.extend(candidates)
        return counts_of({candidate.name: 0.5 + 0.1 * sum(getattr(candidate, name) == value
                                                          for name, value in best.items())
                          for candidate in candidates})
    options = {"milestone": [3, 2, 1], "noise_level": [1.0, 0.75, 0.5], "cond_scale": [1.5], "ratio": [1.0, 2.0],
               "synthetic_shares": [(1.0, 0.0)]}
    chosen, steps = search(options, count)
    assert chosen == Candidate(2, 0.5, 1.5, 2.0, (1.0, 0.0)) and len(set(asked)) == 1 + 2 + 2 + 1
    assert [(step.constant, step.chosen) for step in steps] == list(best.items())
    assert list(steps[1].tried) == [1.0, 0.75, 0.5] and steps[1].tried[0.5].accuracy == pytest.approx(0.7)


def test_a_single_value_needs_no_training():
    assert choose_value("classifier_epochs", [25], lambda: pytest.fail("trained")) == (25, [])
    chosen, [step] = choose_value("classifier_epochs", [25, 50], lambda: counts_of({"short": 0.7, "long": 0.8}))
    assert chosen == step.chosen == 50 and step.tried[25].below_best == pytest.approx(0.1)


def test_names_tell_candidates_apart():
    one = Candidate(3, 1.0, 1.5, 1.0, (1.0, 0.0))
    others = [Candidate(2, 1.0, 1.5, 1.0, (1.0, 0.0)), Candidate(3, 0.5, 1.5, 1.0, (1.0, 0.0)),
              Candidate(3, 1.0, 1.0, 1.0, (1.0, 0.0)), Candidate(3, 1.0, 1.5, 2.0, (1.0, 0.0)),
              Candidate(3, 1.0, 1.5, 1.0, (0.5, 0.5))]
    assert len({one.name, *(other.name for other in others)}) == 6
    assert [other.set_name == one.set_name for other in others] == [False] * 3 + [True] * 2


def test_table_and_figure_show_what_was_chosen():
    step = Step("noise_level", {1.0: Measured(0.91, 0.02, 0.01, 0.015), 0.5: Measured(0.92, 0.02)}, 1.0)
    rows = steps_table([step]).rows
    assert rows == [["noise level", "1", "91.0 ± 2.0", "1.0 ± 1.5", "chosen"],
                    ["noise level", "0.5", "92.0 ± 2.0", "best", ""]]
    axis = choice_figure([step], {"real only": Measured(0.85, 0.02)}).axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "0.5"] and axis.get_xlabel() == "noise level"
    assert [line.get_ydata()[0] for line in axis.get_lines() if line.get_label() == "real only"] == [85.0]
