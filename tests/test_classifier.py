"""The classifier, and the study that compares arms: what is learnt, what is repeated, what the numbers are."""
import csv

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from microdoppler.classifier import batches, build_classifier, lr_factor, predict, train_classifier
from microdoppler.report import Picture, Section, Table, render_report
from microdoppler.study import Arm, ImageSet, Run, mean_interval, run_study, summarize
from microdoppler.study_report import accuracy_figure, conclusion, confusion_figure, results_table

CPU = torch.device("cpu")
RECIPE = {"num_steps": 3, "batch_size": 4, "lr": 1e-3}


def toy_set(per_class: int, seed: int) -> ImageSet:
    """Noise whose brighter half is the upper one (label 0) or the lower one (label 1)."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 100, (2 * per_class, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.arange(2 * per_class) % 2
    images[labels == 0, :, :16] += 100
    images[labels == 1, :, 16:] += 100
    return ImageSet(images, labels)


def fake_run(arm: str, seed: int, predicted: list[int], labels: list[int], num_classes: int = 3) -> Run:
    return Run(arm, seed, np.eye(num_classes, dtype=np.float32)[predicted], np.array(labels))


def study(folder, arms, seeds=(0, 1), **recipe):
    return run_study(arms, toy_set(3, seed=9), num_classes=2, seeds=seeds, recipe={**RECIPE, **recipe}, device=CPU,
                     folder=folder)


def rows_of(folder) -> list[dict]:
    with open(folder / "runs.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_learns_what_can_be_seen():
    train, test = toy_set(16, seed=0), toy_set(16, seed=1)
    model = train_classifier(train.images, train.labels, num_classes=2, num_steps=25, batch_size=8, lr=1e-3, seed=0,
                             device=CPU)
    probabilities = predict(model, test.images, batch_size=5)
    assert probabilities.shape == (32, 2) and probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities.sum(1), torch.ones(32))
    assert (probabilities.argmax(1) == test.labels).all()


def test_result_follows_from_the_seed_alone():
    data = toy_set(8, seed=0)
    results = []
    for seed in (3, 3, 4):
        torch.rand(seed)        # another global state each time
        model = train_classifier(data.images, data.labels, num_classes=2, seed=seed, device=CPU, **RECIPE)
        results.append(predict(model, data.images))
    assert torch.equal(results[0], results[1])
    assert not torch.allclose(results[0], results[2], atol=1e-3)


def test_building_leaves_the_global_random_state():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_classifier(2, seed=0)
    assert torch.equal(torch.rand(3), expected)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 12), st.integers(0, 3))
def test_batches_are_full_and_use_every_image_equally_often(num_images, batch_size, num_steps, seed):
    drawn = list(batches(num_images, batch_size, num_steps, seed))
    assert [len(batch) for batch in drawn] == [batch_size] * num_steps
    counts = torch.bincount(torch.cat(drawn), minlength=num_images)
    assert counts.max() - counts.min() <= 1


def test_learning_rate_rises_to_its_peak_and_falls_to_nearly_zero():
    factors = [lr_factor(step, 100) for step in range(100)]
    assert factors[:10] == pytest.approx([i / 10 for i in range(1, 11)])
    assert factors[9:] == sorted(factors[9:], reverse=True) and max(factors) == 1
    assert 0 < factors[-1] < 1e-3


def test_every_arm_trains_for_the_same_steps_and_seeds(tmp_path):
    arms = [Arm("real only", toy_set(4, 0)), Arm("real + x", toy_set(4, 0), toy_set(20, 1))]
    study(tmp_path, arms)
    rows = rows_of(tmp_path)
    assert [(row["arm"], row["seed"]) for row in rows] == [("real only", "0"), ("real + x", "0"), ("real only", "1"),
                                                           ("real + x", "1")]
    assert {row["num_steps"] for row in rows} == {"3"}
    assert [(row["num_real"], row["num_synthetic"]) for row in rows[:2]] == [("8", "0"), ("8", "40")]


def count_trainings(monkeypatch) -> list[int]:
    seeds = []

    def counted(*args, **kwargs):
        seeds.append(kwargs["seed"])
        return train_classifier(*args, **kwargs)
    monkeypatch.setattr("microdoppler.study.train_classifier", counted)
    return seeds


def test_only_missing_runs_are_made_and_they_come_out_the_same(tmp_path, monkeypatch):
    arms = [Arm("real only", toy_set(4, 0)), Arm("real + x", toy_set(4, 0), toy_set(4, 1))]
    first = study(tmp_path, arms)
    trained = count_trainings(monkeypatch)
    study(tmp_path, arms)
    assert trained == []

    lines = (tmp_path / "runs.csv").read_text().splitlines()
    (tmp_path / "runs.csv").write_text("\n".join(lines[:3] + lines[4:]) + "\n")     # loses (real only, seed 1)
    again = study(tmp_path, arms)
    assert trained == [1] and len(rows_of(tmp_path)) == 4
    for before, after in zip(first, again):
        assert (before.arm, before.seed) == (after.arm, after.seed)
        np.testing.assert_array_equal(before.probabilities, after.probabilities)


def test_anything_that_determines_a_run_makes_it_anew(tmp_path, monkeypatch):
    real = toy_set(4, 0)
    study(tmp_path, [Arm("real only", real)], seeds=[0])
    trained = count_trainings(monkeypatch)
    changed = ImageSet(real.images.clone(), real.labels)
    changed.images[0, 0, 0, 0] += 1
    study(tmp_path, [Arm("real only", changed)], seeds=[0])
    study(tmp_path, [Arm("real only", ImageSet(real.images, 1 - real.labels))], seeds=[0])
    study(tmp_path, [Arm("real only", real)], seeds=[0], lr=2e-3)
    study(tmp_path, [Arm("real only", real)], seeds=[0], num_steps=4)
    assert len(trained) == 4
    study(tmp_path, [Arm("renamed", real)], seeds=[0])
    assert len(trained) == 4 and len(rows_of(tmp_path)) == 5


def test_damaged_predictions_are_made_again(tmp_path, monkeypatch):
    arms = [Arm("real only", toy_set(4, 0))]
    study(tmp_path, arms, seeds=[0])
    next((tmp_path / "predictions").glob("*.npz")).write_bytes(b"PK half a file")
    trained = count_trainings(monkeypatch)
    study(tmp_path, arms, seeds=[0])
    assert trained == [0] and len(rows_of(tmp_path)) == 1


def test_summary_against_numbers_computed_by_hand():
    labels = [0, 0, 1, 1, 2]
    summary = summarize([
        fake_run("real only", 0, [0, 1, 1, 1, 0], labels),      # 3 of 5
        fake_run("real + x", 0, [0, 0, 1, 1, 0], labels),       # 4 of 5
        fake_run("real only", 1, [0, 1, 0, 1, 0], labels),      # 2 of 5
        fake_run("real + x", 1, [0, 0, 1, 1, 2], labels)])      # 5 of 5
    baseline, arm = summary["arms"]
    assert (summary["baseline"], summary["best"], summary["num_test"]) == ("real only", "real + x", 5)
    assert baseline["accuracy_mean"] == pytest.approx(0.5) and arm["accuracy_mean"] == pytest.approx(0.9)
    assert baseline["accuracy_std"] == pytest.approx(0.1 * 2**0.5)
    assert arm["differences"] == pytest.approx([0.2, 0.6])
    assert arm["difference_mean"] == pytest.approx(0.4)
    assert arm["difference_std"] == pytest.approx(0.4 / 2**0.5)
    assert arm["difference_interval_95"] == pytest.approx((0.4 - 12.706 * 0.2, 0.4 + 12.706 * 0.2))
    assert arm["verdict"] == "not distinguishable"
    assert baseline["confusion"] == [[2, 2, 0], [1, 3, 0], [2, 0, 0]]
    assert baseline["recalls"] == {1: 0.5, 2: 0.75, 3: 0.0}
    assert (baseline["worst_user"], baseline["best_user"]) == (3, 2)


def test_interval_is_students():
    # scipy.stats.t.interval(0.95, 4, loc=3, scale=scipy.stats.sem([1, 2, 3, 4, 5]))
    assert mean_interval(np.array([1.0, 2, 3, 4, 5])) == pytest.approx((1.036757, 4.963243), abs=1e-3)
    assert mean_interval(np.array([0.3])) is None


@pytest.mark.parametrize("correct, verdict", [([90, 90, 91], "helps"), ([70, 71, 70], "hurts"),
                                              ([75, 92, 79], "not distinguishable")])
def test_verdict_weighs_the_difference_against_the_spread_of_the_seeds(correct, verdict):
    labels = [0] * 100
    runs = [fake_run("real only", seed, [0] * 80 + [1] * 20, labels) for seed in range(3)]
    runs += [fake_run("real + x", seed, [0] * n + [1] * (100 - n), labels) for seed, n in enumerate(correct)]
    summary = summarize(runs)
    assert summary["arms"][1]["verdict"] == verdict
    assert ("not distinguishable" in conclusion(summary)) == (verdict == "not distinguishable")


def two_arm_summary(name: str, num_classes: int = 3):
    labels = list(range(num_classes)) * 2
    wrong = [1] + labels[1:]
    return summarize([fake_run("real only", 0, wrong, labels, num_classes),
                      fake_run(name, 0, labels, labels, num_classes),
                      fake_run("real + other", 0, wrong, labels, num_classes)])


def test_choice_among_several_sets_is_called_optimistic():
    text = conclusion(two_arm_summary("real + x"))
    assert "Best arm: real + x" in text and "optimistic" in text and "one seed" in text


def test_figures_draw_31_users_and_odd_names(tmp_path):
    from microdoppler.report import save_figure
    summary = two_arm_summary("real + $\\frac{_x", num_classes=31)
    for name, figure in (("accuracy", accuracy_figure(summary)), ("confusion", confusion_figure(summary))):
        save_figure(figure, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    labels = [tick.get_text() for tick in confusion_figure(summary).axes[0].get_yticklabels()]
    assert labels == [str(user) for user in range(1, 32)]


def test_report_is_one_file_and_escapes(tmp_path):
    bad = "real + <script>alert(1)</script>"
    (tmp_path / "a.png").write_bytes(b"\x89PNG not really")
    render_report(tmp_path / "report.html", bad, [
        Section(bad, [bad], [results_table(two_arm_summary(bad))], [Picture(tmp_path / "a.png", bad + '" onload="x')])])
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html and html.count("&lt;script&gt;") >= 5 and '" onload' not in html
    assert "data:image/png;base64,iVBORyBub3QgcmVhbGx5" in html and str(tmp_path) not in html


def test_table_as_text_is_aligned():
    assert Table(["arm", "accuracy"], [["a", "9"], ["long name", "10.5"]]).as_text().splitlines() == [
        "arm        accuracy", "---------  --------", "a                 9", "long name      10.5"]
