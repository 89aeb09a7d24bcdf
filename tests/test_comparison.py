"""The verdict: pairing, the interval on data whose answer is known, and a choice that never sees what reports it."""
import numpy as np
import pytest

from microdoppler.arms import Arm
from microdoppler.comparison import (FACTORS, Table, Weights, accuracy, best_of, compare, cross_fitted, difference,
                                     half_width, halves, seeds_needed)
from microdoppler.study import Run

KIND = "real + synthetic"


def table_of(accuracies: dict[str, np.ndarray], images: int = 20, users: int = 3) -> Table:
    """{arm: (folds, seeds, passes)} accuracies → a Table with `images` per pass, the passes dealt out to users."""
    first = next(iter(accuracies.values()))
    return Table({name: values * images for name, values in accuracies.items()},
                 np.full((first.shape[0], first.shape[2]), float(images)), np.arange(first.shape[2]) % users)


def draw(rng, effect: float, folds=3, seeds=3, passes=30, by_fold=0.03, by_seed=0.03, by_pass=0.09,
         users=3):
    """A baseline and an arm that is better by `effect`, with differences that scatter by fold, by seed and by pass."""
    base = 0.8 + rng.normal(0, 0.1, (1, 1, passes)) + rng.normal(0, 0.03, (folds, seeds, passes))
    varies = (rng.normal(0, by_fold, (folds, 1, 1)) + rng.normal(0, by_seed, (1, seeds, 1))
              + rng.normal(0, by_pass, (1, 1, passes)))
    return table_of({"real only": base, "arm": base + effect + varies}, users=users)


def test_counts_come_from_the_runs_and_differences_are_paired():
    def run(kind, fold, seed, right):
        labels = np.array([0, 0, 1, 1])
        predicted = np.where(right, labels, 1 - labels)
        return Run(Arm(kind), fold, seed, np.eye(2)[predicted], labels, ["a", "a", "b", "c"])
    table = Table.of([run("real only", 0, 5, [1, 0, 1, 0]), run(KIND, 0, 5, [1, 1, 1, 0]),
                      run("real only", 2, 5, [0, 0, 1, 1]), run(KIND, 2, 5, [0, 0, 0, 1])])
    assert table.shape == (2, 1, 3) and table.user_of.tolist() == [0, 1, 1]
    assert table.correct[KIND][0, 0].tolist() == [2, 1, 0] and table.total[0].tolist() == [2, 1, 1]
    even = Weights.even(table)
    assert accuracy(table, "real only", even)[0] == pytest.approx(0.5)
    assert difference(table, KIND, "real only", even)[0] == pytest.approx((0.25 - 0.25) / 2)


def test_a_difference_common_to_all_runs_and_passes_has_no_spread():
    rng = np.random.default_rng(0)
    base = rng.uniform(0.5, 0.8, (3, 3, 12))
    found = compare(table_of({"real only": base, "arm": base + 0.1}), "arm", "real only")
    assert found["difference"] == pytest.approx(0.1) and found["verdict"] == "helps"
    assert found["interval_95"] == pytest.approx([0.1, 0.1])


def test_the_spread_is_that_of_a_sum_over_folds_seeds_and_passes():
    """Each factor on its own, against the variance of a mean: s^2 / n with s^2 the sample variance."""
    rng = np.random.default_rng(1)
    for axis, size in enumerate((4, 5, 24)):
        effects = rng.normal(0, 0.05, size)
        shape = [1, 1, 1]
        shape[axis] = size
        base = np.full((4, 5, 24), 0.5)
        table = table_of({"real only": base, "arm": base + effects.reshape(shape)}, users=1)
        for other, factor in enumerate(FACTORS):
            spread = np.std(difference(table, "arm", "real only", Weights.resampled(table, factor)))
            expected = np.std(effects, ddof=1) / np.sqrt(size) if other == axis else 0
            assert spread == pytest.approx(expected, rel=0.06, abs=1e-9)


@pytest.mark.parametrize("scatter", [
    {}, {"seeds": 2, "passes": 60}, {"by_seed": 0, "by_pass": 0}, {"folds": 1, "seeds": 2, "by_fold": 0},
    {"users": 6, "passes": 6, "by_fold": 0, "by_seed": 0}, {"users": 2, "passes": 4, "by_fold": 0}])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(scatter):
    """Also where three folds, two seeds or a pass per user are all there is to judge the scatter by."""
    rng, covered = np.random.default_rng(2), []
    for _ in range(150):
        low, high = compare(draw(rng, effect=0.02, **scatter), "arm", "real only")["interval_95"]
        covered.append(low <= 0.02 <= high)
    assert 0.90 <= np.mean(covered) <= 0.995


@pytest.mark.parametrize("effect, verdict", [(0.3, "helps"), (-0.3, "hurts"), (0.0, "not distinguishable")])
def test_verdict(effect, verdict):
    found = compare(draw(np.random.default_rng(3), effect), "arm", "real only")
    assert found["verdict"] == verdict
    assert verdict == "not distinguishable" or found["seeds_needed"] is None


def test_one_run_has_nothing_to_vary():
    found = compare(draw(np.random.default_rng(0), 0.3, folds=1, seeds=1), "arm", "real only")
    assert found["interval_95"] is None and found["verdict"] == "not distinguishable"


def test_the_half_width_against_students_t_by_hand():
    freedom = {"folds": 2, "seeds": 1, "passes": 27}
    assert half_width({"folds": 4e-4, "seeds": 0, "passes": 0}, freedom) == pytest.approx(4.303 * 0.02, rel=1e-3)
    assert half_width({"folds": 0, "seeds": 4e-4, "passes": 0}, freedom) == pytest.approx(12.706 * 0.02, rel=1e-3)
    both = {"folds": 4e-4, "seeds": 4e-4, "passes": 0}      # 8e-4^2 / (4e-4^2 / 2 + 4e-4^2 / 1) = 2.67 degrees
    assert half_width(both, freedom) == pytest.approx(3.41 * np.sqrt(8e-4), rel=0.01)


def test_more_seeds_shrink_what_comes_from_seeds_and_nothing_else():
    freedom = {"folds": 2, "seeds": 1, "passes": 27}
    # by seeds alone: t with n - 1 degrees of freedom times 0.01 * sqrt(2 / n), below 0.02 from n = 5 on:
    # n = 3 4.303 * 0.00816 = 0.0351, n = 4 3.182 * 0.00707 = 0.0225, n = 5 2.776 * 0.00632 = 0.0176
    assert seeds_needed(0.02, {"folds": 0, "seeds": 1e-4, "passes": 0}, freedom) == 5
    # the folds' standard error alone is 0.014
    assert seeds_needed(0.02, {"folds": 2e-4, "seeds": 1e-4, "passes": 0}, freedom) is None
    assert seeds_needed(0.02, {"folds": 0, "seeds": 1e-4, "passes": 2e-4}, freedom) is None
    assert seeds_needed(0.0, {"folds": 0, "seeds": 1e-4, "passes": 0}, freedom) is None
    assert seeds_needed(0.02, {"folds": 1e-9, "seeds": 0, "passes": 0}, {**freedom, "seeds": 0}) is None


def test_as_many_more_seeds_as_it_says_do_tell():
    """Studies whose difference scatters by seed alone, seen again with the number of seeds that was asked for."""
    told = []
    for number in range(40):
        rng = np.random.default_rng(number)
        found = compare(draw(rng, 0.05, seeds=3, by_fold=0, by_seed=0.03, by_pass=0.0), "arm", "real only")
        if (needed := found["seeds_needed"]) is not None:
            again = compare(draw(rng, found["difference"], seeds=needed, by_fold=0, by_seed=0.03, by_pass=0.0), "arm",
                            "real only")
            told.append(again["verdict"] == "helps")
    assert len(told) > 5 and np.mean(told) > 0.4        # at the needed number it is even odds


def test_a_run_that_is_missing_or_there_twice_is_no_wrong_answer():
    def run(kind, fold, seed):
        return Run(Arm(kind), fold, seed, np.eye(2), np.array([0, 1]), ["a", "b"])
    whole = [run(kind, fold, 0) for kind in ("real only", KIND) for fold in (0, 1)]
    Table.of(whole)
    for wrong in (whole[:-1], [*whole, whole[0]]):
        with pytest.raises(ValueError, match="expected one for each of 2 arms, 2 folds and 1 seeds"):
            Table.of(wrong)


def test_halves_share_each_users_passes_out():
    table = draw(np.random.default_rng(0), 0.0, passes=31)
    first, second = halves(table)
    assert (first ^ second).all()
    for user in range(3):
        assert abs(first[table.user_of == user].sum() - second[table.user_of == user].sum()) <= 1


def test_users_of_one_pass_are_shared_out_too():
    base = np.full((2, 2, 6), 0.7)
    table = table_of({"real only": base, "bad": base - 0.1, "good": base + 0.1}, users=6)
    assert [half.sum() for half in halves(table)] == [3, 3]
    assert best_of(table, KIND, ["bad", "good"])["cross_fitted"]["difference"] == pytest.approx(0.1)


def test_cross_fitting_never_sees_the_reporting_half():
    """Candidate a is best on one half only, b on the other only: chosen by either half, each reports where it fails."""
    table = draw(np.random.default_rng(0), 0.0, folds=1, seeds=1)
    first, second = halves(table)
    base = np.full((1, 1, 30), 0.5)
    table = table_of({"real only": base, "a": base + 0.2 * first, "b": base + 0.2 * second})
    found = cross_fitted(table, ["a", "b"], "real only", Weights.even(table))
    assert found[0] == pytest.approx(0.0)       # where the naive choice would report + 10 points
    # whatever is changed in the half that reports cannot change the choice made in the other
    table.correct["b"][:, :, second] = 20
    chosen = best_of(table, KIND, ["a", "b"])["choices"]
    assert chosen[0] == "a"


def test_the_naive_choice_among_equal_sets_is_flattered_and_the_cross_fitted_one_is_not():
    rng, naive, fitted = np.random.default_rng(4), [], []
    for _ in range(60):
        base = np.full((1, 2, 40), 0.8)
        names = [f"set {i}" for i in range(8)]
        table = table_of({"real only": base, **{name: base + rng.normal(0, 0.1, (1, 1, 40)) for name in names}})
        even = Weights.even(table)
        naive.append(max(difference(table, name, "real only", even)[0] for name in names))
        fitted.append(cross_fitted(table, names, "real only", even)[0])
    assert np.mean(naive) > 0.015 and abs(np.mean(fitted)) < 0.006      # the truth is 0


def test_a_really_better_set_is_chosen_by_both_halves():
    base = np.full((2, 2, 20), 0.7)
    table = table_of({"real only": base, "good": base + 0.1, "bad": base - 0.1})
    found = best_of(table, KIND, ["bad", "good"])
    assert found["naive_choice"] == "good" and found["choices"] == ["good", "good"]
    assert found["cross_fitted"]["difference"] == pytest.approx(0.1) and found["cross_fitted"]["verdict"] == "helps"


def test_a_single_set_leaves_no_choice_and_is_reported_as_the_paired_difference_that_it_is():
    table = draw(np.random.default_rng(5), 0.02, folds=3, seeds=2)
    found = best_of(table, KIND, ["arm"])
    assert found["cross_fitted"] == found["naive"] == compare(table, "arm", "real only")
