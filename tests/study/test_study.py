"""The study: equal work in every arm, runs made once, and what is said about them."""
import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import toy_set

from groundwork.files import load_arrays
from microdoppler.figures.report import Picture, Section, Table, Verdict, render_report, save_figure
from microdoppler.study.arms import Arm, ImageSet, arms_of
from microdoppler.study.classifier import train_classifier
from microdoppler.study.kinds import CUTS, CUTS_THROUGH_VAE, KINDS, SELECTED, SYNTHETIC
from microdoppler.study.recipe import Recipe
from microdoppler.study.report import (accuracy_figure, confusion_figure, result_tables, study_verdict,
                                       verdict_figure)
from microdoppler.study.runs import Fold, Run, run_study
from microdoppler.study.summary import summarize

MAX_LINE = 76           # letters of a verdict that fit one line of a page 1000 pixels wide
ROW_LETTERS = 115       # of a table's row on such a page
CPU = torch.device("cpu")
REAL_ONLY = KINDS["real only"]
RECIPE = Recipe(epochs=1, batch_size=4, lr=1e-3)


def fold_of(arms, number=0):
    passes = [f"pass {i // 2}" for i in range(6)]
    facts = {arm.name: {"model_step": 7} for arm in arms if arm.kind.is_synthetic}
    paths = [f"ID_{3 + i % 2 * 6}/{i}.png" for i in range(6)]
    return Fold(number, arms, toy_set(3, seed=9 + number), paths, passes, {"split_guard": 4}, facts, users=(3, 9))


def study(folder, arms, seeds=(0, 1), folds=(0,), **recipe):
    return run_study([fold_of(arms, number) for number in folds], num_classes=2, seeds=seeds,
                     recipe=replace(RECIPE, **recipe), device=CPU, folder=folder)


def rows_of(folder) -> list[dict]:
    with open(folder / "runs.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_arm_trains_for_the_same_steps_seeds_and_folds(tmp_path):
    cuts = {CUTS: {"": toy_set(6, 2)}, CUTS_THROUGH_VAE: {"": toy_set(6, 3)}}
    arms = arms_of(toy_set(4, 0), {SYNTHETIC: {"x": toy_set(20, 1)}, SELECTED: {"x": toy_set(5, 1)}, **cuts})
    study(tmp_path, arms, folds=(0, 1))
    rows = rows_of(tmp_path)
    assert len(rows) == 2 * 2 * 13 and {name for name in rows[0] if name.startswith("recall")} == {
        "recall_3", "recall_9"}
    assert {row["num_steps"] for row in rows} == {"2"}
    for arm in arms:
        own = [row for row in rows if (row["arm"], row["synthetic"]) == (arm.kind.name, arm.synthetic_name)]
        assert sorted((row["fold"], row["seed"]) for row in own) == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
    numbers = {row["arm"]: (row["num_real"], row["num_added"], row["model_step"]) for row in rows}
    assert numbers["real only"] == ("8", "0", "") and numbers["synthetic only"] == ("0", "40", "7")
    assert numbers["real + classical + selected"] == ("8", "10", "7") and numbers["real + cuts"] == ("8", "12", "")


def count_trainings(monkeypatch) -> list[int]:
    seeds = []

    def counted(*args, **kwargs):
        seeds.append(kwargs["seed"])
        return train_classifier(*args, **kwargs)
    monkeypatch.setattr("microdoppler.study.runs.train_classifier", counted)
    return seeds


def test_only_missing_runs_are_made_and_they_come_out_the_same(tmp_path, monkeypatch):
    arms = [Arm(REAL_ONLY, toy_set(4, 0)), Arm(KINDS["real + synthetic"], toy_set(4, 0), toy_set(4, 1), "x")]
    first = study(tmp_path, arms)
    trained = count_trainings(monkeypatch)
    study(tmp_path, arms)
    assert trained == []

    lost = rows_of(tmp_path)[2]
    assert (lost["arm"], lost["seed"]) == ("real only", "1")
    (tmp_path / "predictions" / f"{lost['key']}.npz").unlink()
    again = study(tmp_path, arms)
    assert trained == [1] and len(rows_of(tmp_path)) == 4
    for before, after in zip(first, again):
        assert (before.arm.name, before.seed) == (after.arm.name, after.seed)
        np.testing.assert_array_equal(before.probabilities, after.probabilities)


def test_anything_that_determines_a_run_makes_it_anew(tmp_path, monkeypatch):
    real = toy_set(4, 0)
    study(tmp_path, [Arm(REAL_ONLY, real)], seeds=[0])
    trained = count_trainings(monkeypatch)
    changed = ImageSet(real.images.clone(), real.labels)
    changed.images[0, 0, 0, 0] += 1
    study(tmp_path, [Arm(REAL_ONLY, changed)], seeds=[0])
    study(tmp_path, [Arm(REAL_ONLY, ImageSet(real.images, 1 - real.labels))], seeds=[0])
    for changes in ({"lr": 2e-3}, {"epochs": 2}, {"mixing": "concat"}, {"budget": "epochs"}, {"batch_size": 8}):
        study(tmp_path, [Arm(REAL_ONLY, real)], seeds=[0], **changes)
    for kind in ("real + classical", "real + MixUp", "real + CutMix"):
        study(tmp_path, [Arm(KINDS[kind], real)], seeds=[0])
    assert len(trained) == 10
    study(tmp_path, [Arm(replace(REAL_ONLY, name="renamed"), real)], seeds=[0])
    assert len(trained) == 10 and len(rows_of(tmp_path)) == 12


def test_arms_of_the_same_images_share_a_training_and_are_runs_of_their_own(tmp_path, monkeypatch):
    """As when --select keeps every image of a set."""
    trained = count_trainings(monkeypatch)
    arms = arms_of(toy_set(4, 0), {SYNTHETIC: {"x": toy_set(4, 1)}, SELECTED: {"x": toy_set(4, 1)}}, ("classical",))
    for _ in range(2):
        runs = study(tmp_path, arms, seeds=[0])
        assert [run.arm.name for run in runs] == [arm.name for arm in arms]
        assert len(trained) == 5 and len(rows_of(tmp_path)) == 7
    accuracy = {arm["name"]: arm["accuracy"] for arm in summarize(runs, NAMES)["arms"]}
    assert accuracy["real + selected: x"] == accuracy["real + synthetic: x"] > 0


@pytest.mark.parametrize("content", [b"PK half a file", b""])
def test_damaged_predictions_are_made_again(tmp_path, monkeypatch, content):
    arms = [Arm(REAL_ONLY, toy_set(4, 0))]
    study(tmp_path, arms, seeds=[0])
    next((tmp_path / "predictions").glob("*.npz")).write_bytes(content)
    trained = count_trainings(monkeypatch)
    study(tmp_path, arms, seeds=[0])
    assert trained == [0] and len(rows_of(tmp_path)) == 1


def test_stored_predictions_can_be_read_without_the_data_set(tmp_path):
    run, = study(tmp_path, [Arm(REAL_ONLY, toy_set(4, 0))], seeds=[0])
    stored = load_arrays(next((tmp_path / "predictions").glob("*.npz")))
    assert stored["probabilities"].tolist() == run.probabilities.tolist() and stored["users"].tolist() == [3, 9]
    for path, label in zip(stored["paths"], stored["labels"], strict=True):
        assert path.startswith(f"ID_{stored['users'][label]}/")


NAMES = {user: f"user {user}" for user in range(1, 32)}


def fake_run(kind: str, fold: int, seed: int, predicted: list[int], labels: list[int], name: str = "",
             num_classes: int = 3) -> Run:
    arm = Arm(KINDS[kind], toy_set(1, 0), None, name)
    return Run(arm, fold, seed, np.eye(num_classes, dtype=np.float32)[predicted], np.array(labels),
               [f"user {label} pass {i % 2}" for i, label in enumerate(labels)])


def small_summary(name: str = "x", num_classes: int = 3, sets: int = 2, seeds: int = 2,
                  kinds: tuple[str, ...] = ("real + synthetic", "real + classical + synthetic")):
    labels = list(range(num_classes)) * 4
    wrong = [1, *labels[1:]]
    runs = []
    for seed in range(seeds):
        runs += [fake_run(kind, 0, seed, wrong, labels, "", num_classes) for kind in ("real only", "real + classical")]
        for i in range(sets):
            runs += [fake_run(kind, 0, seed, labels if i == 0 else wrong, labels, f"{name}{i}", num_classes)
                     for kind in kinds]
    return summarize(runs, NAMES)


def test_summary_pairs_each_run_with_the_baseline_of_its_kind():
    labels = [0, 0, 1, 1, 2]
    summary = summarize([
        fake_run("real only", 0, 0, [0, 1, 1, 1, 0], labels),                               # 3 of 5
        fake_run("real + classical", 0, 0, [0, 0, 1, 1, 0], labels),                        # 4 of 5
        fake_run("real + classical + synthetic", 0, 0, [0, 0, 1, 1, 2], labels, "x"),       # 5 of 5
        fake_run("real only", 0, 1, [0, 1, 0, 1, 0], labels),                               # 2 of 5
        fake_run("real + classical", 0, 1, [0, 0, 1, 1, 0], labels),                        # 4 of 5
        fake_run("real + classical + synthetic", 0, 1, [1, 1, 0, 1, 2], labels, "x")],       # 2 of 5
        {3: "user 3", 5: "user 5", 9: "user 9"})
    real, classical, synthetic = summary["arms"]
    assert real["accuracy"] == pytest.approx(0.5) and real["baseline"] is None
    assert real["accuracy_std"] == pytest.approx(0.1 * 2**0.5)
    assert classical["baseline"] == "real only" and classical["difference"] == pytest.approx((0.2 + 0.4) / 2)
    assert synthetic["baseline"] == "real + classical" and synthetic["difference"] == pytest.approx((0.2 - 0.4) / 2)
    assert real["confusion"] == [[2, 2, 0], [1, 3, 0], [2, 0, 0]] and real["recalls"] == {3: 0.5, 5: 0.75, 9: 0.0}
    assert (real["worst_user"], real["best_user"]) == (9, 5)
    assert (summary["num_folds"], summary["num_seeds"]) == (1, 2)


def conclusion(summary) -> str:
    return study_verdict(summary).as_text()


@pytest.mark.parametrize("folds, needed", [(1, "more folds, more recordings"), (3, "it takes more recordings")])
def test_where_no_number_of_seeds_would_tell_it_says_what_would(folds, needed):
    summary = small_summary(sets=1) | {"num_folds": folds}
    summary["choices"][0]["cross_fitted"] |= {"interval_95": [-0.02, 0.02], "seeds_needed": None,
                                              "verdict": "not distinguishable"}
    assert "200 seeds per fold would not tell" in conclusion(summary) and needed in conclusion(summary)


def test_words_say_what_was_chosen_where_and_when_one_run_cannot_tell():
    assert "chosen on other passes and seeds than those" in conclusion(small_summary())
    assert "chosen on other passes than those" in conclusion(small_summary(seeds=1))
    assert "chosen" not in conclusion(small_summary(sets=1))
    assert "One run cannot tell" in conclusion(small_summary(seeds=1))
    assert "No synthetic set" in conclusion(small_summary(sets=0))
    assert "real + selected against real only" in conclusion(small_summary(kinds=("real + selected",)))
    assert len(result_tables(small_summary())) == 3 and len(result_tables(small_summary(sets=1))) == 2


def judged(*verdicts: str, folds: int = 3, needed: int | None = None):
    """A summary with a kind of arm for each of these verdicts."""
    kinds = ["real + synthetic", "real + selected", "real + classical + synthetic"][:len(verdicts)]
    summary = small_summary(sets=1, kinds=tuple(kinds)) | {"num_folds": folds}
    for choice, verdict in zip(summary["choices"], verdicts):
        difference = {"helps": 0.02, "hurts": -0.03}.get(verdict, 0.0)
        choice["cross_fitted"] = {"difference": difference, "interval_95": [difference - 0.01, difference + 0.01],
                                  "verdict": verdict, "seeds_needed": needed}
    return summary


@pytest.mark.parametrize("verdicts, folds, line, mood", [
    (["helps", "helps"], 3, "Synthetic images help: +2.0 points.", "good"),
    (["helps", "helps"], 1, "Synthetic images help: +2.0 points (one fold only).", "good"),
    (["hurts"], 3, "Synthetic images hurt: -3.0 points.", "bad"),
    (["helps", "not distinguishable"], 3, "Synthetic images help in 1 of 2 comparisons.", "good"),
    (["hurts", "not distinguishable"], 3, "Synthetic images hurt in 1 of 2 comparisons.", "bad"),
    (["helps", "hurts", "hurts"], 1, "Synthetic images help in 1 and hurt in 2 of 3 comparisons (one fold only).",
     "open"),
    (["not distinguishable"], 3, "This study cannot tell whether synthetic images help.", "open")])
def test_the_verdict_is_one_line(verdicts, folds, line, mood):
    verdict = study_verdict(judged(*verdicts, folds=folds))
    assert (verdict.line, verdict.mood) == (line, mood) and len(line) <= MAX_LINE
    assert len(verdict.details) >= len(verdicts) and max(map(len, verdict.details)) < 120


def test_one_advice_for_several_arms_is_said_once():
    two = "not distinguishable", "not distinguishable"
    assert conclusion(judged(*two)).count("200 seeds per fold") == 1
    different = judged(*two)
    different["choices"][0]["cross_fitted"]["seeds_needed"] = 12
    said = conclusion(different)
    assert "real + synthetic: About 12 seeds" in said and "real + selected: 200 seeds" in said


def test_the_confusion_and_the_names_of_arms_are_of_the_synthetic_set():
    """Even where augmentation alone is the most accurate; a single set's name is not repeated."""
    summary = small_summary(sets=1)
    summary["arms"][1]["accuracy"] = 1.01
    titles = [axis.get_title() for axis in confusion_figure(summary).axes[:2]]
    assert titles[0].startswith("real only: ") and titles[1].startswith("real + synthetic: 100")
    several = [tick.get_text() for tick in accuracy_figure(small_summary(sets=2)).axes[0].get_yticklabels()]
    assert "real + synthetic: x0" in several and "real + synthetic: x1" in several


def test_the_accuracies_are_explained():
    figure = accuracy_figure(small_summary(sets=1, num_classes=2))
    left, right = figure.axes
    assert "chance: 50 %" in left.get_xlabel()
    assert [text.get_text() for text in right.texts] == ["against real only", "against real only",
                                                         "against real + classical"]
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"a run", "mean, with synthetic images", "mean, real images only"} <= set(entries)
    assert len(entries) == len(set(entries)) and ("chance" in entries) == (left.get_xlim()[0] < 50)


@pytest.mark.parametrize("sets", [1, 3])
def test_tables_fit_a_page_and_a_terminal(sets):
    """A row has at most ROW_LETTERS letters, with the longest names and numbers there are."""
    kinds = ("real + synthetic", "real + classical + synthetic", "synthetic only", "real + classical + selected")
    summary = small_summary("checkpoint_7", sets=sets, kinds=kinds) | {"names": dict.fromkeys(NAMES, 20 * "N")}
    for result in [*summary["arms"], *(choice[part] for choice in summary["choices"]
                                       for part in ("naive", "cross_fitted"))]:
        if "interval_95" in result:
            result |= {"difference": -0.221, "interval_95": [-0.381, 0.161], "verdict": "not distinguishable"}
    for table in result_tables(summary):
        assert max(map(len, table.as_text().splitlines())) <= ROW_LETTERS


def test_figures_draw_31_users_and_odd_names(tmp_path):
    summary = small_summary("$\\frac{_x", num_classes=31)
    for name, figure in (("accuracy", accuracy_figure(summary)), ("confusion", confusion_figure(summary)),
                         ("verdict", verdict_figure(summary))):
        save_figure(figure, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    labels = [tick.get_text() for tick in confusion_figure(summary).axes[0].get_yticklabels()]
    assert labels == [str(user) for user in range(1, 32)]


def test_report_is_one_file_and_escapes(tmp_path):
    bad = "<script>alert(1)</script>"
    (tmp_path / "a.png").write_bytes(b"\x89PNG not really")
    render_report(tmp_path / "report.html", bad, Verdict(bad, "open", [bad]), [
        Section(bad, [bad], result_tables(small_summary(bad)), [Picture(tmp_path / "a.png", bad + '" onload="x')])])
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html and html.count("&lt;script&gt;") >= 7 and '" onload' not in html
    assert "data:image/png;base64,iVBORyBub3QgcmVhbGx5" in html and str(tmp_path) not in html


def test_the_verdict_stands_first_with_its_picture_beside_it(tmp_path):
    (tmp_path / "verdict.png").write_bytes(b"\x89PNG not really")
    render_report(tmp_path / "report.html", "Do they?", study_verdict(small_summary(), tmp_path), [
        Section("All arms", tables=result_tables(small_summary()))])
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    order = [html.index(part) for part in ("<h1>", "cannot tell whether synthetic images help.</p>", "<li>",
                                           "data:image/png", "<h2>", "<table>")]
    assert order == sorted(order)


def test_table_as_text_is_aligned():
    assert Table(["arm", "accuracy"], [["a", "9"], ["long name", "10.5"]]).as_text().splitlines() == [
        "arm        accuracy", "---------  --------", "a                 9", "long name      10.5"]
