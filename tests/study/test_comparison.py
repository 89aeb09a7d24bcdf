"""The verdict: pairing, the interval on data whose answer is known, and a choice that never sees what reports it."""
from dataclasses import replace

import numpy as np
import pytest
import torch

from microdoppler.study.arms import Arm, ImageSet
from microdoppler.study.comparison import compare, half_width, holm, seeds_needed
from microdoppler.study.counts import CorrectCounts, accuracies, accuracy_differences
from microdoppler.study.cross_fitting import best_classical, best_of, choose, composite, halves, quarters
from microdoppler.study.kinds import KINDS
from microdoppler.study.runs import Run
from microdoppler.study.variance import Variance, mean_squares, pass_covariance
from simulated_studies import DESIGNS, Design, check, simulate

KIND = "real + synthetic"
NO_IMAGES = ImageSet(torch.empty(0), torch.empty(0))


def counts_of(accuracies: dict[str, np.ndarray], images: int = 20, users: int = 3) -> CorrectCounts:
    """{arm: (folds, seeds, passes)} accuracies → counts with `images` per pass; users take turns in the passes."""
    first = next(iter(accuracies.values()))
    return CorrectCounts({name: values * images for name, values in accuracies.items()},
                         np.full((first.shape[0], first.shape[2]), float(images)), np.arange(first.shape[2]) % users)


def draw(rng, effect: float, folds=3, seeds=3, passes=30, by_fold=0.03, by_seed=0.03, by_run=0.0, by_pass=0.09,
         users=3):
    """A baseline and an arm that is better by `effect`, with differences that scatter by fold, seed, run and pass."""
    base = 0.8 + rng.normal(0, 0.1, (1, 1, passes)) + rng.normal(0, 0.03, (folds, seeds, passes))
    varies = (rng.normal(0, by_fold, (folds, 1, 1)) + rng.normal(0, by_seed, (1, seeds, 1))
              + rng.normal(0, by_run, (folds, seeds, 1)) + rng.normal(0, by_pass, (1, 1, passes)))
    return counts_of({"real only": base, "arm": base + effect + varies}, users=users)


def test_counts_come_from_the_runs_and_differences_are_paired():
    def run(kind, fold, seed, right):
        labels = np.array([0, 0, 1, 1])
        predicted = np.where(right, labels, 1 - labels)
        return Run(Arm(KINDS[kind], NO_IMAGES), fold, seed, np.eye(2)[predicted], labels, ["a", "a", "b", "c"])
    table = CorrectCounts.of([run("real only", 0, 5, [1, 0, 1, 0]), run(KIND, 0, 5, [1, 1, 1, 0]),
                      run("real only", 2, 5, [0, 0, 1, 1]), run(KIND, 2, 5, [0, 0, 0, 1])])
    assert table.shape == (2, 1, 3) and table.user_of.tolist() == [0, 1, 1]
    assert table.correct[KIND][0, 0].tolist() == [2, 1, 0] and table.total[0].tolist() == [2, 1, 1]
    assert accuracies(table, "real only") == pytest.approx(np.array([[0.5], [0.5]]))
    assert accuracy_differences(table, KIND, "real only") == pytest.approx(np.array([[0.25], [-0.25]]))
    assert accuracies(table, KIND, np.array([0.0, 1.0, 0.0]))[:, 0].tolist() == [1, 0]
    assert np.isnan(accuracies(table, KIND, np.zeros(3))).all()


def test_a_difference_common_to_all_runs_and_passes_has_no_spread():
    rng = np.random.default_rng(0)
    base = rng.uniform(0.5, 0.8, (3, 3, 12))
    found = compare(counts_of({"real only": base, "arm": base + 0.1}), "arm", "real only")
    assert found["difference"] == pytest.approx(0.1) and found["verdict"] == "helps"
    assert found["interval_95"] == pytest.approx([0.1, 0.1]) and found["p_value"] == pytest.approx(0)


@pytest.mark.parametrize("axis, name", [(0, "folds"), (2, "passes")])
def test_each_factor_on_its_own_has_the_variance_of_a_mean(axis, name):
    """s^2 / n with s^2 the sample variance, and nothing for the others."""
    size, shape = (4, 5, 24)[axis], [1, 1, 1]
    shape[axis] = size
    effects, base = np.random.default_rng(1).normal(0, 0.05, size), np.full((4, 5, 24), 0.5)
    found = Variance.of(counts_of({"real only": base, "arm": base + effects.reshape(shape)}, users=1), "arm",
                        "real only")
    expected = dict.fromkeys(["folds", "runs", "passes", "noise"], 0.0) | {name: np.var(effects, ddof=1) / size}
    for factor, value in expected.items():
        assert getattr(found, factor) == pytest.approx(value, abs=1e-12)


def test_each_part_is_on_average_what_the_studies_were_drawn_with():
    """Each effect's share of the variance of a mean of 3 folds, 4 seeds and 24 passes, which all folds test."""
    rng, found = np.random.default_rng(6), []
    for _ in range(300):
        effects = (rng.normal(0, 0.09, (3, 1, 1)) + rng.normal(0, 0.05, (3, 4, 1)) + rng.normal(0, 0.1, (1, 1, 24))
                   + rng.normal(0, 0.3, (3, 4, 24)))
        found.append(Variance.of(counts_of({"real only": np.full((3, 4, 24), 0.5), "arm": 0.5 + effects}), "arm",
                                 "real only"))
    assert np.mean([one.folds for one in found]) == pytest.approx(0.09**2 / 3, rel=0.1)
    assert np.mean([one.runs for one in found]) == pytest.approx(0.05**2 / 12, rel=0.1)
    assert np.mean([one.passes for one in found]) == pytest.approx(0.1**2 / 24, rel=0.1)
    assert np.mean([one.noise for one in found]) == pytest.approx(0.3**2 / (12 * 24), rel=0.1)


@pytest.mark.parametrize("passes", [3, 6])
def test_the_covariance_from_passes_has_no_bias_where_folds_test_other_passes(passes):
    """Also where a fold tests on two passes of a user, and shares one of them with another fold."""
    rng, design, found, expected = np.random.default_rng(3), Design(passes=passes, by_fold_and_pass=0.03,
                                                                    uncertain=0.0), [], []
    for _ in range(800):
        counts, _ = simulate(rng, design)
        found.append(pass_covariance(counts, "arm", "real only")[:, 0, :, 0])
        shares = counts.total / counts.total.sum(axis=1, keepdims=True)
        expected.append(0.05**2 * shares @ shares.T + 0.03**2 * np.diag(np.square(shares).sum(axis=1)))
    assert np.mean(found, axis=0) == pytest.approx(np.mean(expected, axis=0), rel=0.12)


def test_mean_squares_against_the_textbook():
    values = np.random.default_rng(0).normal(0, 1, (3, 4))
    between, within = mean_squares(np.multiply.outer(values, values))
    assert between == pytest.approx(np.var(values.mean(axis=1), ddof=1) / 3)
    assert within == pytest.approx(np.var(values, axis=1, ddof=1).mean() / 12)


@pytest.mark.parametrize("name", ["3 folds x 3 seeds", "3 folds x 2 seeds", "1 fold x 3 seeds", "3 folds x 1 seed",
                                  "few passes", "few passes, 1 fold", "passes alone", "whole users",
                                  "whole users, 2 seeds"])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(name):
    """Over 300 studies 95 % come out as 92 to 98 %. Its half-width is that of Student's t with few degrees of freedom:
    with a normal distribution of known variance it would be 1."""
    coverage, ratio = check(DESIGNS[name], 300)
    assert 0.92 <= coverage <= 0.985 and 1.0 <= ratio < 1.9


@pytest.mark.parametrize("effect, verdict", [(0.3, "helps"), (-0.3, "hurts"), (0.0, "not distinguishable")])
def test_verdict(effect, verdict):
    found = compare(draw(np.random.default_rng(3), effect), "arm", "real only")
    assert found["verdict"] == verdict
    assert verdict == "not distinguishable" or found["seeds_needed"] is None


def test_one_run_has_nothing_to_vary():
    found = compare(draw(np.random.default_rng(0), 0.3, folds=1, seeds=1), "arm", "real only")
    assert found["interval_95"] is None and found["verdict"] == "not distinguishable"


def test_one_run_still_has_the_variance_of_its_passes():
    effects = np.random.default_rng(1).normal(0, 0.05, (1, 1, 24))
    found = Variance.of(counts_of({"real only": np.full((1, 1, 24), 0.5), "arm": 0.5 + effects}, users=1), "arm",
                        "real only")
    assert found.total == pytest.approx(np.var(effects, ddof=1) / 24)


def variance(folds=0.0, runs=0.0, passes=0.0, noise=0.0, leaked=0.0, num_folds=3, num_seeds=2) -> Variance:
    return Variance(folds, runs, passes, noise, leaked, num_folds, num_seeds, pass_degrees=27)


def test_the_half_width_against_students_t_by_hand():
    assert half_width(variance(folds=4e-4)) == pytest.approx(4.303 * 0.02, rel=1e-3)                # 2 degrees
    assert half_width(variance(runs=4e-4)) == pytest.approx(2.571 * 0.02, rel=1e-3)                 # 5
    assert half_width(variance(runs=4e-4, num_folds=1)) == pytest.approx(12.706 * 0.02, rel=1e-3)   # 1
    assert half_width(variance(passes=4e-4)) == pytest.approx(2.052 * 0.02, rel=1e-3)               # 27
    both = variance(folds=4e-4, passes=4e-4)                # 8e-4^2 / (4e-4^2 / 2 + 4e-4^2 / 27) = 7.45 degrees
    assert half_width(both) == pytest.approx(2.336 * np.sqrt(8e-4), rel=1e-3)
    leaked = variance(folds=4e-4, passes=4e-4, leaked=4e-4)         # 8e-4^2 / (8e-4^2 / 2 + 4e-4^2 / 27) = 1.96: 2
    assert half_width(leaked) == pytest.approx(4.303 * np.sqrt(8e-4), rel=1e-3)


def test_the_p_value_agrees_with_the_interval():
    rng = np.random.default_rng(8)
    for effect in np.linspace(-0.1, 0.1, 40):
        found = compare(simulate(rng, Design(seeds=2, passes=3), effect)[0], "arm", "real only")
        low, high = found["interval_95"]
        assert (found["p_value"] < 0.05) == (low > 0 or high < 0) == (found["verdict"] != "not distinguishable")


def test_more_seeds_shrink_what_comes_from_runs_and_noise_and_nothing_else():
    # Cohen's table: a standardised difference of 0.5 needs 34 pairs for a power of 0.8
    assert seeds_needed(0.5, variance(runs=1 / 2, num_folds=1)) == 34
    # 0.02 is 2.8 standard errors (1.96 + 0.84, normal) at 0.00714: runs and noise of 1e-4 with 2 seeds need at least 4
    assert seeds_needed(0.02, variance(runs=5e-5, noise=5e-5)) == 5
    # the folds' standard error alone is 0.014
    assert seeds_needed(0.02, variance(folds=2e-4, runs=1e-4)) is None
    assert seeds_needed(0.02, variance(runs=1e-4, passes=2e-4)) is None
    assert seeds_needed(0.0, variance(runs=1e-4)) is None
    assert seeds_needed(0.02, variance(folds=1e-9, num_seeds=1)) is None


@pytest.mark.parametrize("design", [Design(folds=1, seeds=3, by_run=0.03, by_pass=0, by_user=0, uncertain=0),
                                    Design(folds=1, seeds=3, users=6, by_run=0.02, by_pass=0.02, by_user=0)])
def test_as_many_seeds_as_it_says_tell_in_four_of_five_studies(design):
    """The variance of these studies is known on average; they are drawn again with the seeds that were asked for."""
    rng, effect = np.random.default_rng(0), 0.04
    parts = [Variance.of(simulate(rng, design)[0], "arm", "real only") for _ in range(200)]
    known = replace(parts[0], **{name: float(np.mean([getattr(one, name) for one in parts]))
                                 for name in ("runs", "passes", "noise", "leaked")})
    again = replace(design, seeds=seeds_needed(effect, known))
    told = [compare(simulate(rng, again, effect)[0], "arm", "real only")["verdict"] == "helps" for _ in range(200)]
    assert 3 < again.seeds < 30 and 0.7 < np.mean(told) < 0.92


def test_holm_against_values_of_r_and_a_slow_version():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])       # p.adjust(…, "holm")
    assert holm([]) == [] and holm([0.6]) == [0.6] and holm([0.4, 0.9]) == [0.8, 0.9]
    values = np.random.default_rng(0).uniform(0, 0.1, 9).tolist()
    slow = [min(1, max((9 - sum(other < one for other in values)) * one for one in values if one <= value))
            for value in values]
    assert holm(values) == pytest.approx(slow)


def test_a_run_that_is_missing_or_there_twice_is_no_wrong_answer():
    def run(kind, fold, seed):
        return Run(Arm(KINDS[kind], NO_IMAGES), fold, seed, np.eye(2), np.array([0, 1]), ["a", "b"])
    whole = [run(kind, fold, 0) for kind in ("real only", KIND) for fold in (0, 1)]
    CorrectCounts.of(whole)
    for wrong in (whole[:-1], [*whole, whole[0]]):
        with pytest.raises(ValueError, match="expected one for each of 2 arms, 2 folds and 1 seeds"):
            CorrectCounts.of(wrong)


def test_halves_share_each_users_passes_out():
    table = draw(np.random.default_rng(0), 0.0, passes=31)
    first, second = halves(table)
    assert (first ^ second).all()
    for user in range(3):
        assert abs(first[table.user_of == user].sum() - second[table.user_of == user].sum()) <= 1


def test_users_of_one_pass_are_shared_out_too():
    base = np.full((2, 2, 6), 0.7)
    table = counts_of({"real only": base, "bad": base - 0.1, "good": base + 0.1}, users=6)
    assert [half.sum() for half in halves(table)] == [3, 3]
    assert best_of(table, KIND, "real only", ["bad", "good"])["cross_fitted"]["difference"] == pytest.approx(0.1)


@pytest.mark.parametrize("seeds", [1, 3])
def test_opposite_quarters_share_no_pass_and_no_seed_and_all_report_once(seeds):
    table = draw(np.random.default_rng(0), 0.0, seeds=seeds)
    reported = np.zeros((seeds, 30), dtype=int)
    for (own_seeds, own_passes), (other_seeds, other_passes) in zip(quarters(table), reversed(quarters(table))):
        assert not (own_passes & other_passes).any() and (seeds == 1 or not (own_seeds & other_seeds).any())
        reported[np.ix_(own_seeds, own_passes)] += 1
    assert (reported == 1).all()


def cross_fitted(table: CorrectCounts, candidates: list[str]) -> np.ndarray:
    """The counts of the best candidate, chosen in each quarter for the opposite one."""
    return composite(table, [choose(table, candidates, *quarter) for quarter in quarters(table)])


def test_cross_fitting_never_sees_the_reporting_half():
    """Candidate a is best on one half only, b on the other only: chosen by either half, each reports where it fails."""
    table = draw(np.random.default_rng(0), 0.0, folds=1, seeds=1)
    first, second = halves(table)
    base = np.full((1, 1, 30), 0.5)
    table = counts_of({"real only": base, "a": base + 0.2 * first, "b": base + 0.2 * second})
    found = best_of(table, KIND, "real only", ["a", "b"])
    assert found["naive"]["difference"] == pytest.approx(0.1)
    assert found["choices"] == ["a", "b"] and found["cross_fitted"]["difference"] == pytest.approx(0.0)


def test_what_a_quarter_reports_has_no_say_in_its_choice():
    """Each cell is changed to favour one candidate, with no effect on which candidate reports it."""
    rng = np.random.default_rng(7)
    table = counts_of({name: rng.uniform(0.4, 0.6, (2, 3, 30)) for name in ("a", "b")})
    before = cross_fitted(table, ["a", "b"])
    for seeds, passes in quarters(table):
        where = np.ix_([0, 1], np.flatnonzero(seeds), np.flatnonzero(passes))
        by_a = bool((before[where] == table.correct["a"][where]).all())
        for name, value in (("a", 20 * (not by_a)), ("b", 20 * by_a)):      # what reports is now the worse of the two
            changed = counts_of({arm: counts / 20 for arm, counts in table.correct.items()})
            changed.correct[name][where] = value
            changed.correct["ab".replace(name, "")][where] = 20 - value
            after = cross_fitted(changed, ["a", "b"])
            assert (after[where] == 0).all()


@pytest.mark.parametrize("seeds, by_run", [(1, 0.0), (2, 0.0), (2, 0.02), (5, 0.05)])
def test_the_naive_choice_among_equal_sets_is_flattered_and_the_cross_fitted_one_is_not(seeds, by_run):
    """By passes that suit a set, and by luck in training."""
    rng, naive, fitted = np.random.default_rng(4), [], []
    for _ in range(80):
        base = np.full((2, seeds, 40), 0.8)
        names = [f"set {i}" for i in range(8)]
        table = counts_of({"real only": base, **{name: base + rng.normal(0, 0.1, (1, 1, 40))
                                                + rng.normal(0, by_run, (2, seeds, 1)) for name in names}})
        naive.append(max(accuracy_differences(table, name, "real only").mean() for name in names))
        table.correct["chosen"] = cross_fitted(table, names)
        fitted.append(accuracy_differences(table, "chosen", "real only").mean())
    error = np.std(fitted, ddof=1) / np.sqrt(len(fitted))
    assert np.mean(naive) > 0.015 and abs(np.mean(fitted)) < 3 * error and error < 0.003       # the truth is 0


def test_a_really_better_set_is_chosen_by_all_quarters():
    base = np.full((2, 2, 20), 0.7)
    table = counts_of({"real only": base, "good": base + 0.1, "bad": base - 0.1})
    found = best_of(table, KIND, "real only", ["bad", "good"])
    assert found["naive_choice"] == "good" and found["choices"] == ["good"] * 4
    assert found["cross_fitted"]["difference"] == pytest.approx(0.1) and found["cross_fitted"]["verdict"] == "helps"


def test_a_single_set_leaves_no_choice_and_is_reported_as_the_paired_difference_that_it_is():
    table = draw(np.random.default_rng(5), 0.02, folds=3, seeds=2)
    found = best_of(table, KIND, "real only", ["arm"])
    assert found["cross_fitted"] == found["naive"] == compare(table, "arm", "real only")


CLASSICAL_ARMS = {"real + classical": "real + classical + synthetic", "real + MixUp": "real + MixUp + synthetic",
                  "real + CutMix": "real + CutMix + synthetic"}


def classical_study(table: CorrectCounts, sets: tuple[str, ...] = ("x",)) -> dict:
    """The choice among the classical arms of a table that has them, with synthetic arms of these sets."""
    arms = {KINDS[kind]: [f"{kind}: {name}" for name in sets] for kind in CLASSICAL_ARMS.values()}
    choice, = best_classical(table, {KINDS["real + classical"]: ["real + classical"], **arms})
    return choice


def test_synthetic_images_are_held_against_the_best_classical_arm_with_its_own_augmentation():
    base, gain = np.full((2, 2, 12), 0.6), {"real + classical": 0.0, "real + MixUp": 0.1, "real + CutMix": 0.05}
    table = counts_of({name: base + own for name, own in gain.items()}
                      | {"real + classical + synthetic: x": base + 0.3, "real + MixUp + synthetic: x": base + 0.12,
                         "real + CutMix + synthetic: x": base + 0.02})
    found = classical_study(table)
    assert (found["kind"], found["baseline"]) == ("real + best classical + synthetic", "real + best classical")
    assert found["naive_choice"] == "real + MixUp + synthetic: x" and found["choices"] == [found["naive_choice"]] * 4
    assert found["naive"]["difference"] == pytest.approx(0.02)
    assert found["cross_fitted"]["difference"] == pytest.approx(0.02)


def test_the_best_classical_arm_and_its_set_are_chosen_where_they_do_not_report():
    """One augmentation is best on one half of the passes, another one on the other half; so is a set of its own."""
    base = np.full((1, 1, 12), 0.5)
    first, second = halves(counts_of({"real only": base}))
    table = counts_of({
        "real + classical": base + 0.2 * first, "real + MixUp": base + 0.2 * second, "real + CutMix": base,
        "real + classical + synthetic: x": base + 0.3 * first, "real + classical + synthetic: y": base + 0.04 * second,
        "real + MixUp + synthetic: x": base + 0.06 * first, "real + MixUp + synthetic: y": base + 0.3 * second,
        "real + CutMix + synthetic: x": base, "real + CutMix + synthetic: y": base})
    found = classical_study(table, ("x", "y"))
    assert found["choices"] == ["real + classical + synthetic: x", "real + MixUp + synthetic: y"]
    # reported on the other half: x of classical has nothing there, y of MixUp neither, and both baselines neither
    assert found["cross_fitted"]["difference"] == pytest.approx(0)
    assert found["num_candidates"] == 6


def test_one_classical_arm_is_no_choice():
    base = np.full((1, 1, 12), 0.5)
    table = counts_of({"real + classical": base, "real + classical + synthetic: x": base})
    assert best_classical(table, {KINDS["real + classical + synthetic"]: ["real + classical + synthetic: x"]}) == []
