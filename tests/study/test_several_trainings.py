"""A generator that was trained several times: which run uses which training, and what the interval makes of it."""
from dataclasses import replace

import numpy as np
import pytest
from toys import toy_set

from microdoppler.study.arms import arms_of
from microdoppler.study.comparison import compare, seeds_needed
from microdoppler.study.counts import CorrectCounts, accuracy_differences
from microdoppler.study.cross_fitting import best_of, quarters
from microdoppler.study.kinds import SYNTHETIC
from microdoppler.study.report import interval_method, study_verdict
from microdoppler.study.summary import summarize
from microdoppler.study.variance import Variance
from simulated_studies import DESIGNS, Design, check, simulate
from test_study import count_trainings, fold_of, rows_of, study

SETS = {SYNTHETIC: {"x_training3": toy_set(4, 3), "x_training1": toy_set(4, 1)}}
NAMES = {3: "user 3", 9: "user 9"}


def test_repetitions_use_the_trainings_in_turn():
    fold = fold_of(arms_of(toy_set(4, 0), SETS, ()))
    for repetition in range(4):
        real, mixed, alone = fold.arms_in(repetition)
        assert (real.name, mixed.name, alone.name) == ("real only", "real + synthetic: x", "synthetic only: x")
        expected = "x_training1" if repetition % 2 == 0 else "x_training3"
        assert mixed.added is alone.added is SETS[SYNTHETIC][expected]


def test_a_stored_run_is_used_for_its_own_training_alone(tmp_path, monkeypatch):
    trained = count_trainings(monkeypatch)
    arms = arms_of(toy_set(4, 0), SETS, ())
    study(tmp_path, arms, seeds=(0, 1))
    study(tmp_path, arms[::-1], seeds=(0, 1))
    assert sorted(trained) == [0, 0, 0, 1, 1, 1]
    assert [(row["arm"], row["seed"], row["training"]) for row in rows_of(tmp_path) if row["training"]] == [
        (kind, seed, training) for seed, training in (("0", "1"), ("1", "3"))
        for kind in ("synthetic only", "real + synthetic")]     # in the order of the study that was asked for last
    alone = {SYNTHETIC: {"x_training3": SETS[SYNTHETIC]["x_training3"]}}
    study(tmp_path, arms_of(toy_set(4, 0), alone, ()), seeds=(0, 1))
    assert sorted(trained) == [0, 0, 0, 0, 0, 1, 1, 1]          # seed 0 had another training, seed 1 this one


def test_seeds_of_one_training_are_one_run():
    """The variance is that of a study with one seed of each training, whose accuracy is the mean of these seeds."""
    rng = np.random.default_rng(0)
    counts, _ = simulate(rng, Design(seeds=6, trainings=3, by_training=0.05))
    means = replace(counts, trainings={}, correct={
        name: np.stack([own[:, [number, number + 3]].mean(axis=1) for number in range(3)], axis=1)
        for name, own in counts.correct.items()})
    assert Variance.of(counts, "arm", "real only") == Variance.of(means, "arm", "real only")
    found, of_means = compare(counts, "arm", "real only"), compare(means, "arm", "real only")
    assert found["interval_95"] == pytest.approx(of_means["interval_95"])
    chosen = best_of(counts, "real + synthetic", "real only", ["arm"])
    assert chosen["cross_fitted"] == chosen["naive"] == found


def test_what_is_needed_is_counted_in_seeds():
    counts, _ = simulate(np.random.default_rng(5), Design(seeds=6, trainings=3, by_training=0.05), 0.03)
    needed, found = compare(counts, "arm", "real only")["seeds_needed"], Variance.of(counts, "arm", "real only")
    difference = accuracy_differences(counts, "arm", "real only").mean()
    assert needed == 2 * seeds_needed(difference, found) and found.num_seeds == 3       # two seeds of each training


@pytest.mark.parametrize("name", ["4 trainings, 8 seeds, 1 fold", "3 trainings, 6 seeds"])
def test_the_interval_is_about_other_trainings_too(name):
    coverage, ratio = check(DESIGNS[name], 300)
    assert 0.92 <= coverage <= 0.985 and 1.0 <= ratio < 1.9
    ignored, narrow = check(DESIGNS[name], 300, knows_trainings=False)
    assert ignored < coverage and narrow < ratio


def test_a_study_of_one_fold_that_ignores_trainings_is_wrong_too_often():
    assert check(DESIGNS["4 trainings, 8 seeds, 1 fold"], 300, knows_trainings=False)[0] < 0.88


@pytest.mark.parametrize("seeds, trainings", [(2, 2), (3, 3), (6, 3), (8, 4), (4, 2)])
def test_the_best_set_is_not_chosen_by_the_training_that_reports_it(seeds, trainings):
    shape = (2, seeds, 8)
    counts = CorrectCounts({"a": np.ones(shape)}, np.ones((2, 8)), np.arange(8) % 2, {"a": trainings})
    parts = quarters(counts)
    assert len(parts) == 4
    for (own, _), (other, _) in zip(parts, reversed(parts)):
        assert (own ^ other).all()
        assert not set(np.flatnonzero(own) % trainings) & set(np.flatnonzero(other) % trainings)


def test_the_report_says_whether_it_is_about_one_training_or_about_any(tmp_path):
    runs = study(tmp_path, arms_of(toy_set(4, 0), SETS, ()), seeds=range(4))
    assert [run.arm.training for run in runs if run.arm.kind.name == "synthetic only"] == [1, 3, 1, 3]
    summary = summarize(runs, NAMES)
    said = " ".join(interval_method(summary))
    assert "other passes, other seeds and other trainings of the generator" in said
    assert "trained 2 times in every fold" in said and "The 2 seeds of one training count as one run" in said
    assert "not about one that is trained already" in said and "is unknown" not in said
    difference = accuracy_differences(CorrectCounts.of(runs), "real + synthetic: x", "real only").mean()
    assert summary["contrasts"][0]["difference"] == pytest.approx(difference)
    summary["contrasts"][0] |= {"verdict": "not distinguishable", "interval_95": [-0.1, 0.3], "seeds_needed": 12}
    assert "About 6 trainings per fold (now 2) would tell with 80 % probability" in study_verdict(summary).details[-1]
    assert study_verdict(summary).details[-2].startswith("2 trainings of each generator in a fold")
    summary["contrasts"][0] |= {"verdict": "helps"}
    assert study_verdict(summary).details[-1] == "This says nothing about other folds: add --folds."
    alone = study(tmp_path, arms_of(toy_set(4, 0), {SYNTHETIC: {"x": toy_set(4, 1)}}, ()), seeds=range(2))
    said = " ".join(interval_method(summarize(alone, NAMES)))
    assert "With one fold, what another training of the generator changes is unknown." in said
