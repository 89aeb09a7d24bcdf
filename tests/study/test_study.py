"""The runs of a study: equal work in every arm, and each run is made once."""
import csv
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from toys import toy_set

from groundwork import threads as threads_module
from groundwork.files import load_arrays
from groundwork.progress import Progress
from microdoppler.study.arms import Arm, ImageSet, arms_of
from microdoppler.study.classifier import predict, train_classifier
from microdoppler.study.kinds import CUTS, CUTS_THROUGH_VAE, KINDS, SELECTED, SYNTHETIC
from microdoppler.study.recipe import Recipe
from microdoppler.study.runs import Fold, run_study
from microdoppler.study.runs import TestSet as OtherImages
from microdoppler.study.summary import summarize

CPU = torch.device("cpu")
REAL_ONLY = KINDS["real only"]
RECIPE = Recipe(epochs=1, batch_size=4, lr=1e-3, network="shufflenet_v2_x0_5")


def fold_of(arms, number=0):
    passes = [f"pass {i // 2}" for i in range(6)]
    facts = {arm: {"model_step": 7} for arm in arms if arm.kind.is_synthetic}
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


def test_beside_a_busy_program_the_runs_go_on_with_a_thread_less(tmp_path, monkeypatch, capsys):
    """The second run does not find out again. The clock says that steps on two threads take 20 times as long."""
    used, now = [], [0.0]
    def update(self, amount=1):
        used.append(torch.get_num_threads())
    monkeypatch.setattr(Progress, "update", update)
    def monotonic():
        now[0] += 0.1 if torch.get_num_threads() == 1 else 2.0
        return now[0]
    monkeypatch.setattr(threads_module, "time", SimpleNamespace(monotonic=monotonic))
    monkeypatch.setattr(threads_module.psutil, "getloadavg", lambda: (9.0, 0, 0))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        study(tmp_path, [Arm(REAL_ONLY, toy_set(4, 0))], epochs=8)
        found = used.index(1)
        assert found < len(used) / 2 and set(used[found:]) == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert capsys.readouterr().out.count("on with 1 of 2 threads") == 1


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
    accuracy = {arm["name"]: arm["accuracy"] for arm in summarize(runs, {3: "user 3", 9: "user 9"})["arms"]}
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


def test_every_fold_has_random_numbers_of_its_own(tmp_path, monkeypatch):
    """Folds would not be independent if their classifiers began alike."""
    trained = count_trainings(monkeypatch)
    study(tmp_path, [Arm(REAL_ONLY, toy_set(4, 0))], seeds=(0, 1), folds=(0, 1))
    assert len(set(trained)) == 4 and [row["seed"] for row in rows_of(tmp_path)] == ["0", "0", "1", "1"]


def network_that_sees_brightness() -> nn.Module:
    """It knows the classes of toy_set. Its features are the brightness of the upper and of the lower half."""
    network = nn.Sequential(nn.AdaptiveAvgPool2d((2, 1)), nn.Flatten(), nn.Linear(6, 2))
    network[2].weight.data, network[2].bias.data = torch.tensor([[1.0, -1], [-1, 1]]).repeat(1, 3), torch.zeros(2)
    return network.eval()


def test_other_conditions_and_unseen_persons_are_tried_on_their_own_images(tmp_path, monkeypatch):
    """With a bag, the persons look like each other; persons whom the network does not know look paler to it."""
    monkeypatch.setattr("microdoppler.study.runs.train_classifier", lambda *_, **__: network_that_sees_brightness())
    bag, strangers = toy_set(2, seed=5), toy_set(3, seed=6)
    paths = ["0.png", "1.png", "2.png", "3.png"]
    conditions = {"Bag": OtherImages(replace(bag, labels=1 - bag.labels), list("abcd"), paths)}
    unseen = OtherImages(replace(strangers, images=strangers.images // 2 + 64), list("abcdef"), list("uvwxyz"))
    fold = replace(fold_of([Arm(REAL_ONLY, toy_set(4, 0))]), conditions=conditions, unseen=unseen)
    for _ in range(2):          # the second time from what is stored
        run, = run_study([fold], num_classes=2, seeds=[0], recipe=RECIPE, device=CPU, folder=tmp_path)
        of_bag = run.conditions["Bag"]
        assert run.correct.all() and not of_bag.correct.any() and of_bag.passes == list("abcd")
        assert of_bag.probabilities == pytest.approx(predict(network_that_sees_brightness(), bag.images).numpy())
        assert run.unseen == {"rank_1": 1.0, "eer": 0.0, "open_set_auroc": 1.0}
    stored = load_arrays(next((tmp_path / "predictions").glob("*.npz")))
    assert stored["paths of condition Bag"].tolist() == paths
    assert stored["labels of condition Bag"].tolist() == [1, 0, 1, 0]
    assert (stored["condition Bag"].argmax(axis=1) != stored["labels of condition Bag"]).all()
