"""What is said about the runs of a study: summary, contrasts, tables, figures and the verdict."""
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from toys import toy_set

from microdoppler.figures.report import Picture, Section, Table, Verdict, render_report, save_figure
from microdoppler.study.arms import Arm
from microdoppler.study.comparison import holm
from microdoppler.study.figures import (accuracy_figure, confusion_figure, headline_contrasts, person_contrasts,
                                        person_figure, verdict_figure)
from microdoppler.study.kinds import KINDS
from microdoppler.study.report import checkpoint_lines, interval_method, study_verdict
from microdoppler.study.runs import Run
from microdoppler.study.summary import summarize
from microdoppler.study.tables import contrasts_table, result_tables

MAX_LINE = 76           # letters of a verdict that fit one line of a page 1000 pixels wide
ROW_LETTERS = 115       # of a table's row on such a page
NAMES = {user: f"user {user}" for user in range(1, 32)}
TWO_KINDS = ("real + synthetic", "real + classical + synthetic")


def fake_run(kind: str, fold: int, seed: int, predicted: list[int], labels: list[int], name: str = "",
             num_classes: int = 3) -> Run:
    arm = Arm(KINDS[kind], toy_set(1, 0), None, name)
    return Run(arm, fold, seed, np.eye(num_classes, dtype=np.float32)[predicted], np.array(labels),
               [f"user {label} pass {i % 2}" for i, label in enumerate(labels)])


def small_summary(name: str = "x", num_classes: int = 3, sets: int = 2, seeds: int = 2,
                  kinds: tuple[str, ...] = TWO_KINDS, baselines: tuple[str, ...] = ("real only", "real + classical")):
    """One fold; only the first set has no error, all other arms have one."""
    labels = list(range(num_classes)) * 4
    wrong = [1, *labels[1:]]
    runs = []
    for seed in range(seeds):
        runs += [fake_run(kind, 0, seed, wrong, labels, "", num_classes) for kind in baselines]
        for i in range(sets):
            runs += [fake_run(kind, 0, seed, labels if i == 0 else wrong, labels, f"{name}{i}", num_classes)
                     for kind in kinds]
    return summarize(runs, NAMES)


def whole_study(sets: tuple[str, ...] = ("checkpoint_50", "checkpoint_75"), users: int = 31, folds: int = 2):
    """Runs of all kinds of arms, three seeds, predictions with a few errors."""
    rng, labels, runs = np.random.default_rng(0), np.repeat(np.arange(users), 8), []
    for kind in KINDS.values():
        for name in (sets if kind.is_synthetic else ("",)):
            for fold in range(folds):
                for seed in range(3):
                    is_wrong = rng.random(len(labels)) < (0.1 if kind.is_synthetic and kind.has_real else 0.2)
                    predicted = np.where(is_wrong, rng.integers(0, users, len(labels)), labels)
                    runs.append(fake_run(kind.name, fold, seed, predicted.tolist(), labels.tolist(), name, users))
    return runs


def whole_summary(*arguments, **options):
    return summarize(whole_study(*arguments, **options), NAMES)


def test_summary_scores_arms_and_pairs_each_run_with_real_only():
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
    assert real["accuracy"] == pytest.approx(0.5) and real["against_real"] is None
    assert real["accuracy_std"] == pytest.approx(0.1 * 2**0.5)
    assert classical["against_real"]["difference"] == pytest.approx((0.2 + 0.4) / 2)
    assert synthetic["against_real"]["difference"] == pytest.approx((0.4 + 0.0) / 2)
    assert real["confusion"] == [[2, 2, 0], [1, 3, 0], [2, 0, 0]] and real["recalls"] == {3: 0.5, 5: 0.75, 9: 0.0}
    assert (real["worst_user"], real["best_user"]) == (9, 5)
    assert (summary["num_folds"], summary["num_seeds"]) == (1, 2)
    of_classical, of_synthetic = summary["contrasts"]
    assert (of_synthetic["baseline"], of_synthetic["is_primary"]) == ("real + classical", False)
    assert of_synthetic["difference"] == pytest.approx((0.2 - 0.4) / 2)


def test_there_is_a_contrast_for_every_kind_and_each_of_its_baselines_and_the_primary_one_is_first():
    contrasts = whole_summary(users=4)["contrasts"]
    pairs = [(one["kind"], one["baseline"]) for one in contrasts]
    assert len(pairs) == len(set(pairs)) == sum(len(kind.baselines) for kind in KINDS.values()) + 1
    assert pairs[:3] == [("real + synthetic", name) for name in ("real + cuts", "real + cuts through the VAE",
                                                                 "real only")]
    assert [one["is_primary"] for one in contrasts] == [True] + [False] * (len(pairs) - 1)
    assert ("real + best classical + synthetic", "real + best classical") in pairs


def test_only_secondary_contrasts_are_corrected_and_their_verdicts_follow_from_that():
    primary, *secondary = whole_summary(users=6)["contrasts"]
    assert primary["p_holm"] is None and (primary["p_value"] < 0.05) == (primary["verdict"] != "not distinguishable")
    assert all(one["p_holm"] >= one["p_value"] for one in secondary)
    assert max(secondary, key=lambda one: one["p_value"])["p_holm"] >= max(one["p_value"] for one in secondary)
    smallest = min(secondary, key=lambda one: one["p_value"])
    assert smallest["p_holm"] == pytest.approx(min(1, len(secondary) * smallest["p_value"]))
    assert {(one["p_holm"] < 0.05) == (one["verdict"] != "not distinguishable") for one in secondary} == {True}


def test_contrasts_under_other_conditions_are_secondary_and_of_one_family_with_those_of_the_study():
    """Each condition more is another chance of a verdict that is false."""
    kinds = ("real only", "real + classical", "real + cuts", "real + synthetic")
    runs = [run for run in whole_study(("x",), users=6, folds=1) if run.arm.kind.name in kinds]
    alone = summarize(runs, NAMES)["contrasts"]
    summary = summarize([replace(run, conditions={"Bag": run}) for run in runs], NAMES)
    conditions = [one for condition in summary["conditions"].values() for one in condition["contrasts"]]
    assert len(conditions) == len(alone) and not any(one["is_primary"] for one in conditions)
    family = [*summary["contrasts"][1:], *conditions]
    assert [one["p_holm"] for one in family] == holm([one["p_value"] for one in family])
    assert all((one["p_holm"] < 0.05) == (one["verdict"] != "not distinguishable") for one in family)
    assert summary["contrasts"][0] == alone[0]
    own, of_bag = (contrasts_table(one).caption for one in (summary, summary["conditions"]["Bag"]))
    assert f"the {len(family)} secondary ones, those under other conditions included," in own
    assert "primary contrast was" not in of_bag and "corrected together with those of the study" in of_bag


def test_without_cuts_the_primary_contrast_is_against_real_only():
    primary = small_summary()["contrasts"][0]
    assert primary["is_primary"] and (primary["kind"], primary["baseline"]) == ("real + synthetic", "real only")
    assert not any(one["is_primary"] for one in small_summary(sets=0)["contrasts"])


def test_users_are_compared_one_by_one():
    """Three users with recalls of 1/2, 3/4 and 0, of which synthetic images make 1, 3/4 and 1/2, over two seeds."""
    labels = [0, 0, 1, 1, 2, 2]
    summary = summarize([fake_run("real only", 0, 0, [0, 1, 1, 1, 0, 0], labels),
                         fake_run("real only", 0, 1, [0, 1, 0, 1, 0, 0], labels),
                         fake_run("real + synthetic", 0, 0, [0, 0, 1, 1, 2, 0], labels, "x"),
                         fake_run("real + synthetic", 0, 1, [0, 0, 1, 0, 0, 2], labels, "x")],
                        {3: "user 3", 5: "user 5", 9: "user 9"})
    found = summary["contrasts"][0]["by_user"]
    assert found["recalls"] == {3: [0.5, 1.0], 5: [0.75, 0.75], 9: [0.0, 0.5]}
    assert found["mean"] == pytest.approx(1 / 3)
    error = np.std([0.5, 0.0, 0.5], ddof=1) / np.sqrt(3)
    assert found["interval_95"] == pytest.approx([1 / 3 - 4.303 * error, 1 / 3 + 4.303 * error], rel=1e-3)
    assert found["p_value"] == pytest.approx(2 * stats.t.sf(1 / 3 / error, 2))
    assert "User by user: 2 of 3 better, 0 worse; mean +33.3 [" in conclusion(summary)


def conclusion(summary) -> str:
    return study_verdict(summary).as_text()


@pytest.mark.parametrize("folds, needed", [(1, "more folds, more recordings"), (3, "it takes more recordings")])
def test_where_no_number_of_seeds_would_tell_it_says_what_would(folds, needed):
    said = conclusion(judged("not distinguishable", folds=folds))
    assert "200 seeds per fold would not tell" in said and needed in said
    assert "About 12 seeds per fold (now 2) would tell" in conclusion(judged("not distinguishable", needed=12))


def test_words_say_what_was_chosen_where_and_when_one_run_cannot_tell():
    assert "chosen on other passes and seeds than those" in conclusion(small_summary())
    assert "chosen on other passes than those" in conclusion(small_summary(seeds=1))
    assert "chosen" not in conclusion(small_summary(sets=1))
    assert "One run cannot tell" in conclusion(small_summary(seeds=1))
    assert "No synthetic set" in conclusion(small_summary(sets=0))
    assert len(result_tables(small_summary())) == 3 and len(result_tables(small_summary(sets=1))) == 2
    assert "no control set tells" in conclusion(small_summary())
    assert "no control set" not in conclusion(judged("helps", cuts=True))


def judged(primary: str, plain: str = "helps", folds: int = 3, needed: int | None = None, cuts: bool = False):
    """A summary with these verdicts of the primary contrast, and (if there are cuts) of that against real only."""
    baselines = ("real only", "real + classical") + (("real + cuts",) if cuts else ())
    summary = small_summary(sets=1, baselines=baselines) | {"num_folds": folds}
    for contrast, verdict in zip(summary["contrasts"], (primary, plain) if cuts else (primary,)):
        difference = {"helps": 0.02, "hurts": -0.03}.get(verdict, 0.0)
        contrast |= {"difference": difference, "interval_95": [difference - 0.01, difference + 0.01],
                     "verdict": verdict, "p_value": 0.0123, "p_holm": None if contrast["is_primary"] else 0.0345,
                     "seeds_needed": needed}
    return summary


@pytest.mark.parametrize("verdict, folds, cuts, line, mood", [
    ("helps", 3, True, "Diffusion adds 2.0 points to its own training windows.", "good"),
    ("helps", 1, True, "Diffusion adds 2.0 points to its own training windows (one fold only).", "good"),
    ("hurts", 1, True, "Diffusion loses 3.0 points to its own training windows (one fold only).", "bad"),
    ("not distinguishable", 3, True, "This study cannot tell whether diffusion adds to its training windows.", "open"),
    ("helps", 3, False, "Synthetic images help: +2.0 points.", "good"),
    ("helps", 1, False, "Synthetic images help: +2.0 points (one fold only).", "good"),
    ("hurts", 3, False, "Synthetic images hurt: -3.0 points.", "bad"),
    ("not distinguishable", 3, False, "This study cannot tell whether synthetic images help.", "open")])
def test_the_verdict_is_one_line_of_the_primary_contrast_and_the_plain_question_follows(verdict, folds, cuts, line,
                                                                                        mood):
    found = study_verdict(judged(verdict, folds=folds, cuts=cuts))
    assert (found.line, found.mood) == (line, mood) and len(line) <= MAX_LINE
    first, second = found.details[:2]
    assert first.startswith(f"real + synthetic against {'real + cuts' if cuts else 'real only'}: ")
    assert ", p = 0.012: " in first
    assert not cuts or second == ("real + synthetic against real only (secondary): +2.0 [+1.0, +3.0] points, "
                                  "p = 0.035 (Holm): helps.")
    assert max(map(len, found.details)) < 120


def test_each_checkpoint_has_its_line_and_the_best_is_told_twice():
    """As the user's own script prints them; points against real only."""
    labels = list(range(4)) * 10
    def accurate(wrong):
        return [label if i >= wrong else (label + 1) % 4 for i, label in enumerate(labels)]
    runs = []
    for seed in range(2):
        runs += [fake_run("real only", 0, seed, accurate(4), labels, "", 4),
                 fake_run("real + synthetic", 0, seed, accurate(3), labels, "checkpoint_50", 4),
                 fake_run("real + synthetic", 0, seed, accurate(1), labels, "checkpoint_75", 4)]
    lines = checkpoint_lines(summarize(runs, {user: f"user {user}" for user in range(1, 5)}))
    assert lines[:3] == ["real only: 90.0 %", "checkpoint 50: 92.5 % (+2.50 points)",
                         "checkpoint 75: 97.5 % (+7.50 points)"]
    assert lines[3].startswith("best checkpoint: 75 (naive") and lines[4].startswith("cross-fitted: +7.5 [")
    assert lines[4].endswith(": checkpoint 75")
    assert len(checkpoint_lines(small_summary(sets=1))) == 2 and checkpoint_lines(small_summary(sets=0)) == []
    assert checkpoint_lines(small_summary())[3].startswith("best set: x0 ")


def test_the_method_says_what_intervals_are_about():
    several, single = (" ".join(interval_method(small_summary() | {"num_folds": folds})) for folds in (3, 1))
    assert "the same users with other passes, other folds and other seeds" in several
    assert "the same users with other passes and other seeds." in single and "Holm" in single


def test_the_confusion_and_the_names_of_arms_are_of_the_synthetic_set():
    """Even where augmentation alone is the most accurate; a single set's name is not repeated."""
    summary = small_summary(sets=1)
    summary["arms"][1]["accuracy"] = 1.01
    titles = [axis.get_title() for axis in confusion_figure(summary).axes[:2]]
    assert titles[0].startswith("real only: ") and titles[1].startswith("real + synthetic: 100")
    several = [tick.get_text() for tick in accuracy_figure(small_summary(sets=2)).axes[0].get_yticklabels()]
    assert "real + synthetic: x0" in several and "real + synthetic: x1" in several


def test_the_accuracies_are_explained():
    figure = accuracy_figure(small_summary(sets=1, num_classes=2, baselines=("real only", "real + classical",
                                                                           "real + cuts")))
    left, right = figure.axes
    assert "chance: 50 %" in left.get_xlabel() and "against real only" in right.get_xlabel()
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"a run", "mean, with synthetic images", "mean, with cuts", "mean, real images only"} <= set(entries)
    assert len(entries) == len(set(entries)) and ("chance" in entries) == (left.get_xlim()[0] < 50)


@pytest.mark.parametrize("sets", [("checkpoint_75",), ("checkpoint_50", "checkpoint_75")])
def test_tables_fit_a_page_and_a_terminal(sets):
    """A row has at most ROW_LETTERS letters, with all kinds of arms and the longest names and numbers there are."""
    summary = whole_summary(sets, users=4) | {"names": dict.fromkeys(NAMES, 20 * "N")}
    for contrast in summary["contrasts"]:
        for result in (contrast, contrast["naive"]):
            result |= {"difference": -0.221, "interval_95": [-0.381, 0.161], "verdict": "not distinguishable"}
    tables = result_tables(summary)
    for table in tables:
        assert max(map(len, table.as_text().splitlines())) <= ROW_LETTERS
    assert tables[0].rows[0][0] == "real + synthetic (primary)" and "NLL" in tables[1].header


def test_figures_draw_all_arms_31_users_and_odd_names(tmp_path):
    summary = whole_summary(("$\\frac{_x", "y"), folds=1)
    for name, figure in (("accuracy", accuracy_figure(summary)), ("confusion", confusion_figure(summary)),
                         ("verdict", verdict_figure(summary)), ("persons", person_figure(summary))):
        save_figure(figure, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    labels = [tick.get_text() for tick in confusion_figure(summary).axes[0].get_yticklabels()]
    assert labels == [str(user) for user in range(1, 32)]


def test_a_line_per_user_leads_from_the_baseline_to_the_arm():
    summary = whole_summary(("x",), users=5)
    left, right = person_figure(summary).axes
    assert "against real + cuts\n" in left.get_title() and "against real only\n" in right.get_title()
    for axis, contrast in zip((left, right), person_contrasts(summary), strict=True):
        recalls = contrast["by_user"]["recalls"]
        names = [tick.get_text() for tick in left.get_yticklabels()]
        drawn = {name: line.get_xdata() for name, line in zip(names, axis.lines[::3])}
        assert len(drawn) == 5 and all(list(drawn[str(user)]) == pytest.approx([100 * recall for recall in pair])
                                       for user, pair in recalls.items())


def test_the_verdict_shows_arms_with_real_and_synthetic_images_and_no_figure_crosses_the_frame():
    summary = whole_summary(("x",), users=5)
    kinds = [contrast["kind"] for contrast in headline_contrasts(summary)]
    assert kinds[0] == "real + synthetic" and "synthetic only" not in kinds and "real + cuts" not in kinds
    assert "real + best classical + synthetic" in kinds
    figure = verdict_figure(summary)
    figure.draw_without_rendering()
    frame = figure.axes[0].get_window_extent()
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert frame.x0 < box.x0 and box.x1 < frame.x1


def test_one_interval_that_is_much_wider_does_not_make_dots_of_the_others():
    """As two seeds give it that differ much: the t distribution with one degree of freedom is wide."""
    summary = whole_summary(("x",), users=5)
    only_synthetic = next(arm for arm in summary["arms"] if arm["kind"] == "synthetic only")["against_real"]
    usual = accuracy_figure(summary).axes[1].get_xlim()
    for result in (only_synthetic, headline_contrasts(summary)[-1]):
        result["interval_95"] = [-1.37, 0.96]
    for figure, axis in ((accuracy_figure, 1), (verdict_figure, 0)):
        assert max(map(abs, figure(summary).axes[axis].get_xlim())) < 60
    only_synthetic["difference"] = -0.7
    assert accuracy_figure(summary).axes[1].get_xlim()[0] < -70 < usual[0]


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
