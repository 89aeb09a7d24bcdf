"""classify.py as the user meets it: what it writes, and what it says about folders that it cannot use."""
import csv
import dataclasses
import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from PIL import Image

import classify
from microdoppler.data.control_sets import CUT, control_folder, cut_entry, find_control
from microdoppler.data.stitching import Cut, load_cuts
from microdoppler.pipeline.study_folds import find_controls, load_fold, open_splits
from microdoppler.pipeline.constants import option_words
from microdoppler.pipeline.synthetic_folder import classify_command
from groundwork.command_line import run
from groundwork.errors import InputError
from groundwork.files import write_json
from groundwork.images import load_images
from microdoppler.data.synthetic_sets import match_to_folds
from microdoppler.study import evaluation_classifier
from train_latent_cfg import PRESETS, Config

NUM_USERS = 3


def write_users(folder: Path, users, count: int, seed: int) -> Path:
    """Noise with a bright line at a height that tells the user."""
    random = np.random.default_rng(seed)
    for user in users:
        (folder / f"ID_{user}").mkdir(parents=True)
        for number in range(1, count + 1):
            image = random.integers(0, 60, (32, 32, 3), dtype=np.uint8)
            image[6 * user:6 * user + 4] += 150
            Image.fromarray(image).save(folder / f"ID_{user}" / f"Doppler{number}.png")
    return folder


@pytest.fixture
def config(tmp_path):
    data_path = write_users(tmp_path / "data", range(1, NUM_USERS + 1), 12, seed=0)
    return replace(PRESETS["cpu-minutes"], data_path=data_path, results_folder=tmp_path / "results", device="cpu",
                   latents_cache_folder=tmp_path / "cache", num_users=NUM_USERS, images_per_user_train=5, split_guard=2,
                   classifier="shufflenet_v2_x0_5", classifier_image_size=32, classifier_epochs=1,
                   classifier_batch_size=8, classifier_seeds=2)


def test_outputs(config, tmp_path, capsys):
    synthetic = [write_users(tmp_path / name, range(1, NUM_USERS + 1), 4, seed) for seed, name in enumerate(["a", "b"])]
    classify.main(config, synthetic=tuple(synthetic))
    folder = config.results_folder / "classify"
    with open(folder / "runs.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 8 and [row["arm"] for row in rows[:2]] == ["real only", "real + classical"]
    assert {(row["num_real"], row["num_added"]) for row in rows} == {("15", "0"), ("15", "12"), ("0", "12")}
    assert all({"recall_1", "recall_2", "recall_3"} <= set(row) and row["num_test"] == "15" for row in rows)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    of_sets = [contrast for contrast in summary["contrasts"] if "synthetic" in contrast["kind"]]
    assert [contrast["num_candidates"] for contrast in of_sets] == [2] * len(of_sets)
    for arm in summary["arms"]:
        own = [float(row["accuracy"]) for row in rows if (row["arm"], row["synthetic"]) == (arm["kind"],
                                                                                            arm["synthetic"])]
        assert [run["accuracy"] for run in arm["runs"]] == pytest.approx(own, abs=1e-6)
    for name in ("verdict.png", "accuracy.png", "persons.png", "confusion.png"):
        Image.open(folder / name).verify()
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert html.count("data:image/png;base64,") == 4
    printed = capsys.readouterr().out
    assert "best set: " in printed and "\nb: " in printed and "cross-fitted" in printed and "report.html" in printed


def test_the_command_that_generation_names_next_means_the_same_data_and_split(config, tmp_path):
    """What the split file says need not be in the command."""
    config = replace(config, split_fold=2, seed=7, data_path=config.data_path.rename(tmp_path / "my data"))
    _, _, splits = open_splits(config, ())
    command = classify_command(replace(config, train_lr=0.5), Path("sets/a"))
    assert command.startswith("python classify.py --preset cpu-minutes ") and command.endswith(" --synthetic sets/a")
    options = shlex.split(command)[4:-2]
    parsed = tyro.cli(Config, args=options, default=PRESETS["cpu-minutes"], use_underscores=True)
    assert parsed == replace(PRESETS["cpu-minutes"], data_path=config.data_path, results_folder=config.results_folder,
                             latents_cache_folder=config.latents_cache_folder, seed=7)
    found, _, same = open_splits(parsed, ())
    assert same == splits and (found.num_users, found.split_fold, found.images_per_user_train) == (NUM_USERS, 2, 5)
    assert classify_command(Config(), Path("sets/a")) == "python classify.py --data_path DATA --synthetic sets/a"


@pytest.mark.parametrize("config", [
    Config(), Config(seed=7), replace(PRESETS["cpu-hours"], amp=False, class_folders=True, dim_mults=(1, 2),
                                      velocity_range_mps=(-1.4, 5.9), window_seconds=2.3, data_path=Path("my data")),
    Config(images_per_user_train=0.5, split_guard=0, crop=(0.1, 0.0, 0.9, 1.0), levels=(-20.5, 4095.0), fit="pad"),
    Config(images_per_user_train="all_but_test", test_data=Path("test set"), recording_pattern=r"(p\d+)_(\d+)")])
def test_a_command_line_gives_its_constants_back(monkeypatch, config):
    monkeypatch.setattr(sys, "argv", ["train_latent_cfg.py", *option_words(config, vars(config))])

    def parsed(config: Config) -> Config:
        return config
    assert run(parsed, PRESETS, Config.preset) == config


def test_baseline_alone(config, capsys):
    summary = classify.main(config, seeds=1)
    assert [arm["name"] for arm in summary["arms"]] == ["real only", "real + classical"]
    assert summary["arms"][0]["accuracy_std"] is None and "No synthetic set to compare" in capsys.readouterr().out


def drawn_for(folder: Path, split, seed: int = 0, vae_split=None) -> Path:
    """A set of a model that was trained on `split`, with a VAE that was trained on vae_split, or else on the same."""
    write_users(folder, range(1, NUM_USERS + 1), 4, seed=seed)
    (folder / "manifest.json").write_text(json.dumps({
        "split": split.identity(), "step": 7, "images": {}, "vae": f"of fold {seed}",
        "vae_trained_on": (vae_split or split).identity()["train_images"]}))
    return folder


def test_every_fold_is_tested_with_the_set_of_its_own_model(config, tmp_path, capsys):
    _, _, splits = open_splits(config, (0, 1, 2))
    folders = tuple(drawn_for(tmp_path / f"fold_{fold}" / "x", split, fold) for fold, split in splits.items())
    summary = classify.main(config, synthetic=folders[::-1], folds=(0, 1, 2), seeds=1)
    assert {arm["name"] for arm in summary["arms"]} == {"real only", "real + classical", "real + synthetic: x",
                                                        "real + classical + synthetic: x", "synthetic only: x"}
    assert all([run["fold"] for run in arm["runs"]] == [0, 1, 2] for arm in summary["arms"])
    with open(config.results_folder / "classify" / "runs.csv", newline="", encoding="utf-8") as file:
        used = {(row["fold"], row["synthetic_folder"], row["model_step"]) for row in csv.DictReader(file)
                if row["synthetic"]}
    assert used == {(str(fold), str(folder), "7") for fold, folder in enumerate(folders)}
    printed = capsys.readouterr().out
    assert "fold 1: overlap audit: " in printed and "fold 2: overlap audit: " in printed and "the VAE of" not in printed


def test_the_seeds_use_the_trainings_of_a_generator_in_turn_and_share_one_control(config, tmp_path):
    """Two folds, two trainings in each, given in any order."""
    config = replace(config, classifier_augmentations=())
    _, _, splits = open_splits(config, (0, 1))
    folders = []
    for fold, split in splits.items():
        for number in (2, 1):
            folders.append(drawn_for(tmp_path / f"fold_{fold}" / f"x_training{number}", split, 2 * fold + number))
            manifest = json.loads((folders[-1] / "manifest.json").read_text())
            write_json(folders[-1] / "manifest.json", manifest | {"vae": f"{fold}", "weights": f"of {fold}, {number}"})
            add_control(folders[-1], split, cuts_of(split.train_images))
    summary = classify.main(config, synthetic=tuple(folders), folds=(0, 1), seeds=2)
    assert {arm["name"]: arm["trainings"] for arm in summary["arms"]} == {
        "real only": 1, "real + cuts": 1, "real + cuts through the VAE": 1, "real + synthetic: x": 2,
        "synthetic only: x": 2}
    path = config.results_folder / "classify" / "runs.csv"
    report = " ".join((path.parent / "report.html").read_text(encoding="utf-8").split())
    assert "over 2 folds x 2 seeds with 2 trainings of each generator" in report
    assert "trained 2 times in every fold" in report and f"Fold 1, x: {folders[2]}" in report
    assert classify.main(config, synthetic=tuple(folders[::-1]), folds=(0, 1), seeds=2) == summary
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 * 2 * 2
    used = {(int(row["fold"]), int(row["seed"])): (row["training"], Path(row["synthetic_folder"]).name,
                                                   row["model_weights"])
            for row in rows if row["arm"] == "real + synthetic"}
    assert used == {(fold, config.seed + number - 1): (f"{number}", f"x_training{number}", f"of {fold}, {number}")
                    for fold in (0, 1) for number in (1, 2)}
    assert len({(row["fold"], row["control_folder"]) for row in rows if row["control_folder"]}) == 2
    assert {row["training"] for row in rows if not row["synthetic"]} == {""}
    made_by = json.loads((path.parent / "summary.json").read_text(encoding="utf-8"))["sets"]
    assert sorted((one["name"], one["fold"], one["model_weights"]) for one in made_by) == [
        ("x", fold, f"of {fold}, {number}") for fold in (0, 1) for number in (1, 2)]
    with pytest.raises(InputError, match="x has 2 trainings; expected a multiple of 2.*: --seeds 4"):
        classify.main(config, synthetic=tuple(folders), folds=(0, 1), seeds=3)
    with pytest.raises(InputError, match="fold 1 lacks the synthetic set x_training1"):
        classify.main(config, synthetic=tuple(folders[:3]), folds=(0, 1), seeds=2)


def add_control(folder: Path, split, cuts: dict[int, list[Cut]]) -> Path:
    """Write the control of a set that `drawn_for` wrote."""
    control, images = control_folder(folder), {}
    write_users(control, cuts, max(map(len, cuts.values())), seed=9)
    for user, own in cuts.items():
        images |= {f"ID_{user}/Doppler{i}.png": {"user": user, "kind": CUT, **cut_entry(cut)}
                   for i, cut in enumerate(own, start=1)}
    made_by = json.loads((folder / "manifest.json").read_text())
    write_json(control / "manifest.json", {"split": made_by["split"], "vae": made_by["vae"], "cuts_per_hop": 4,
                                           "images": images})
    return control


def cuts_of(images, count: int = 2) -> dict[int, list[Cut]]:
    return {user: [Cut(path, doppler_shift=0.02) for path in paths[:count]] for user, paths in images.items()}


def test_what_the_generator_was_trained_on_is_an_arm_as_it_is_and_through_the_vae(config, tmp_path, capsys):
    _, data, splits = open_splits(config, ())
    folder = drawn_for(tmp_path / "x", splits[0])
    control = add_control(folder, splits[0], cuts_of(splits[0].train_images))
    summary = classify.main(replace(config, classifier_augmentations=()), synthetic=(folder,), seeds=1)
    assert [arm["name"] for arm in summary["arms"]] == [
        "real only", "real + cuts", "real + cuts through the VAE", "real + synthetic: x", "synthetic only: x"]
    with open(config.results_folder / "classify" / "runs.csv", newline="", encoding="utf-8") as file:
        rows = {row["arm"]: row for row in csv.DictReader(file)}
    assert rows["real + cuts"]["control_folder"] == str(control) and rows["real + synthetic"]["control_folder"] == ""
    assert rows["real + cuts"]["num_added"] == rows["real + cuts through the VAE"]["num_added"] == "6"
    fold, _ = load_fold(config, 0, data, {"x": folder}, find_control(folder), None, 3, torch.device("cpu"))
    added = {arm.kind.name: arm.added for arm in fold.arms}
    path = splits[0].train_images[2][1]         # the second cut of the second user
    assert torch.equal(added["real + cuts"].images[3], load_cuts(data.path, [Cut(path, doppler_shift=0.02)], 32)[0])
    decoded = load_images(control, ["ID_2/Doppler2.png"], 32)[0]
    assert torch.equal(added["real + cuts through the VAE"].images[3], decoded)
    assert added["real + cuts"].labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert "lacks a control" not in capsys.readouterr().out


def test_without_a_control_of_this_split_there_are_no_cuts_and_a_line_says_so(config, tmp_path, capsys):
    """Its cuts must come from training images, of all users, in every fold."""
    _, _, splits = open_splits(config, (0, 1))
    folders = {fold: drawn_for(tmp_path / f"fold_{fold}" / "x", split, fold) for fold, split in splits.items()}
    sets = {fold: {"x": folder} for fold, folder in folders.items()}

    def found(**cuts) -> list[bool]:
        for fold, split in splits.items():
            shutil.rmtree(control_folder(folders[fold]), ignore_errors=True)
            if own := cuts.get(f"fold_{fold}"):
                add_control(folders[fold], split, own)
        return [control is not None for control in find_controls(sets, splits).values()]
    good = {f"fold_{fold}": cuts_of(split.train_images) for fold, split in splits.items()}
    assert found(**good) == [True, True] and "lacks a control" not in capsys.readouterr().out
    for bad in ({"fold_0": good["fold_0"]}, good | {"fold_1": cuts_of(splits[1].test_images)},
                good | {"fold_1": {user: cuts for user, cuts in good["fold_1"].items() if user != 2}}):
        assert found(**bad) == [False, False]
        assert f"{folders[1]} lacks a control for this split" in capsys.readouterr().out


def test_several_sets_of_a_fold_share_the_largest_control(config, tmp_path, capsys):
    _, _, splits = open_splits(config, ())
    folders = {name: drawn_for(tmp_path / name, splits[0]) for name in ("x", "y", "z")}
    add_control(folders["x"], splits[0], cuts_of(splits[0].train_images, 2))
    large = add_control(folders["y"], splits[0], cuts_of(splits[0].train_images, 3))
    capsys.readouterr()
    assert find_controls({0: {name: folders[name] for name in ("x", "y")}}, splits)[0].folder == large
    assert capsys.readouterr().out == ""
    add_control(folders["z"], splits[0], {user: [Cut(paths[4])] for user, paths in splits[0].train_images.items()})
    assert find_controls({0: folders}, splits)[0].folder == large
    assert "z_control holds other windows" in capsys.readouterr().out


def test_the_report_says_how_long_classifiers_were_trained_on_which_mixture(config, tmp_path, capsys):
    _, _, splits = open_splits(config, ())
    folder, report = drawn_for(tmp_path / "x", splits[0]), config.results_folder / "classify" / "report.html"
    config = replace(config, classifier_augmentations=("classical",))
    classify.main(config, synthetic=(folder,), seeds=1)
    assert "warning: classifier_epochs is 1" in capsys.readouterr().out
    text = " ".join(report.read_text(encoding="utf-8").split())
    assert "classifier_epochs is 1" in text and "as many steps as real only in 1 epochs" in text
    assert "from 100% in the first batch to 0% in the last" in text and "Steps: 2 in every arm." in text
    classify.main(replace(config, classifier_epochs=21, classifier_mixing="concat", classifier_budget="epochs",
                          classifier_batch_size=64), synthetic=(folder,), seeds=1)
    assert "classifier_epochs is" not in capsys.readouterr().out
    text = " ".join(report.read_text(encoding="utf-8").split())
    assert "classifier_epochs is" not in text and "sees its own images 21 times" in text
    assert "shuffled together as one set" in text
    assert "Steps: 5 (real only, real + classical); 9 (real + synthetic: x" in text and "4 (synthetic only: x)" in text


def test_a_vae_that_may_have_seen_test_images_is_warned_of(config, tmp_path, capsys):
    """One that several folds share, and, with one fold too, one whose training images are unknown."""
    _, _, splits = open_splits(config, (0, 1, 2))
    folders = tuple(drawn_for(tmp_path / f"fold_{fold}" / "x", split, fold, splits[0])
                    for fold, split in splits.items())
    match_to_folds(folders, splits)
    said = capsys.readouterr().out
    assert f"the VAE of {folders[1]}, {folders[2]} was trained on other images than this split's" in said
    match_to_folds(folders[:1], {0: splits[0]})
    assert capsys.readouterr().out == ""
    manifest = json.loads((folders[0] / "manifest.json").read_text())
    (folders[0] / "manifest.json").write_text(json.dumps({**manifest, "vae_trained_on": None}))
    match_to_folds(folders[:1], {0: splits[0]})
    assert f"warning: the VAE of {folders[0]} was trained on unknown images" in capsys.readouterr().out


def test_folds_without_a_set_of_their_own_are_named(config, tmp_path):
    _, _, splits = open_splits(config, (0, 1))
    of_first = drawn_for(tmp_path / "fold_0" / "x", splits[0])
    with pytest.raises(InputError, match="fold 1 lacks the synthetic set x"):
        classify.main(config, synthetic=(of_first,), folds=(0, 1))
    with pytest.raises(InputError, match="another split"):
        classify.main(config, synthetic=(of_first,), folds=(1,))
    (of_first / "manifest.json").unlink()
    with pytest.raises(InputError, match="fits none of the 2 folds"):
        classify.main(config, synthetic=(of_first,), folds=(0, 1))


def test_a_forced_set_of_another_split_is_on_record(config, tmp_path, capsys):
    _, _, splits = open_splits(config, (0, 1))
    of_first = drawn_for(tmp_path / "fold_0" / "x", splits[0])
    classify.main(config, synthetic=(of_first,), folds=(1,), seeds=1, force=True)
    assert "its result is too good" in capsys.readouterr().out
    with open(config.results_folder / "classify" / "runs.csv", newline="", encoding="utf-8") as file:
        assert {row["forced"] for row in csv.DictReader(file) if row["synthetic"]} == {"another split"}
    with pytest.raises(InputError, match="another split"):      # of two folds it would be a guess which it belongs to
        match_to_folds((drawn_for(tmp_path / "x", replace_fold(splits[0], 2)),), splits, force=True)


def replace_fold(split, fold):
    return dataclasses.replace(split, settings=dataclasses.replace(split.settings, fold=fold))


def test_selected_images_are_an_arm_of_their_own(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("microdoppler.study.evaluation_classifier.RECIPE",
                        replace(evaluation_classifier.RECIPE, epochs=60))
    folder = write_users(tmp_path / "x", range(1, NUM_USERS + 1), 4, seed=5)
    (folder / "ID_1" / "Doppler9.png").write_bytes((folder / "ID_2" / "Doppler1.png").read_bytes())    # mislabelled
    (folder / "ID_3" / "Doppler9.png").write_bytes((config.data_path / "ID_3" / "Doppler3.png").read_bytes())   # copy
    summary = classify.main(config, synthetic=(folder,), seeds=1, select=0.5)
    assert "real + selected: x" in [arm["name"] for arm in summary["arms"]]
    table = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("user ")]
    assert [row[2:] for row in table] == [["5", "4", "1", "0"], ["4", "4", "0", "0"], ["5", "4", "0", "1"]]
    with open(config.results_folder / "classify" / "runs.csv", newline="", encoding="utf-8") as file:
        assert {(row["arm"], row["select"]) for row in csv.DictReader(file) if row["synthetic"]} == {
            ("real + synthetic", ""), ("real + classical + synthetic", ""), ("synthetic only", ""),
            ("real + selected", "0.5"), ("real + classical + selected", "0.5")}


def test_a_selection_that_keeps_nothing_says_why(config, tmp_path):
    (tmp_path / "x").mkdir()
    for user in range(1, NUM_USERS + 1):        # every image is a training image
        (tmp_path / "x" / f"ID_{user}").mkdir()
        (tmp_path / "x" / f"ID_{user}" / "Doppler1.png").write_bytes(
            (config.data_path / f"ID_{user}" / "Doppler3.png").read_bytes())
    with pytest.raises(InputError, match="of 3, 0 have a lower confidence and 3 are near-copies"):
        classify.main(config, synthetic=(tmp_path / "x",), seeds=1, select=0.0)


def test_folders_of_one_name_are_told_apart(config, tmp_path):
    _, _, splits = open_splits(config, ())
    folders = tuple(drawn_for(tmp_path / name, splits[0]) for name in ("one/checkpoint_5", "two/checkpoint_5",
                                                                      "two/checkpoint_6"))
    assert list(match_to_folds(folders[1:], splits)[0]) == ["checkpoint_5", "checkpoint_6"]
    assert list(match_to_folds(folders, splits)[0]) == ["one/checkpoint_5", "two/checkpoint_5", "two/checkpoint_6"]
    with pytest.raises(InputError, match="more than once"):
        match_to_folds((folders[0], tmp_path / "two" / ".." / "one" / "checkpoint_5"), splits)


@pytest.mark.parametrize("content", [b"key,arm\n\xff\xfe,x\n", b"key,arm\n" + b"a" * 200_000 + b",x\n"])
def test_a_damaged_list_of_runs_is_named_and_kept(config, content):
    folder = config.results_folder / "classify"
    folder.mkdir(parents=True)
    (folder / "runs.csv").write_bytes(content)
    with pytest.raises(InputError, match="runs.csv cannot be read"):
        classify.main(config, seeds=1)
    assert (folder / "runs.csv").read_bytes() == content


@pytest.mark.parametrize("options, named", [({"select": 1.5}, "--select 1.5"), ({"seeds": 0}, "--seeds 0"),
                                            ({"select": 0.5}, "--select needs --synthetic"),
                                            ({"folds": (0, 0)}, "each fold once"),
                                            ({"folds": (3,)}, "split_fold is 3")])
def test_impossible_options_are_named(config, options, named):
    with pytest.raises(InputError, match=named):
        classify.main(config, **options)


def test_an_unknown_network_is_refused_before_any_work(config):
    for name, reason in (("resnet19", "such as resnet"), ("vit_h_14", "a multiple of 14 px")):
        with pytest.raises(InputError, match=reason):
            classify.main(replace(config, classifier=name))
    assert not config.results_folder.exists() and not config.latents_cache_folder.exists()


def test_the_networks_that_are_kept_predict_on_a_folder(config, tmp_path, capsys, script):
    config = replace(config, classifier="squeezenet1_1", class_names=tmp_path / "names.json", images_per_user_train=15,
                     data_path=write_users(tmp_path / "more", range(1, NUM_USERS + 1), 30, seed=0), split_guard=1)
    config.class_names.write_text('{"ID_1": "Anna"}')
    summary = classify.main(config, seeds=1, save_models=True)
    printed = capsys.readouterr().out
    assert "classifier: squeezenet1_1 (stem adapted to 32 px: features.0 with stride 1), 32 px" in printed
    command = printed.splitlines()[-1]
    assert command.startswith("next: python -m microdoppler.predict --model ") and command.endswith(" --images FOLDER")
    folder = config.results_folder / "classify" / "models"
    kept = json.loads((folder / "models.json").read_text(encoding="utf-8"))
    assert list(kept) == [arm["name"] for arm in summary["arms"]]
    assert kept["real only"]["chosen_by"] == "validation accuracy"
    out, _ = script("-m", "microdoppler.predict", "--model", shlex.split(command)[5], "--images", config.data_path,
                    "--output", tmp_path / "p.csv")
    assert "Anna" in out and "of 90 images of known users" in out
    with open(tmp_path / "p.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 90 and {row["user"] for row in rows} == {"ID_1", "ID_2", "ID_3"}
    Image.new("RGB", (32, 32)).save(tmp_path / "x.png")
    _, err = script("-m", "microdoppler.predict", "--model", tmp_path / "x.png", "--images", config.data_path, expect=2)
    assert err.count("\n") == 1 and "x.png" in err


@pytest.mark.parametrize("constant", [{"classifier_seeds": 0}, {"classifier_batch_size": 1}, {"classifier_lr": 0.0}])
def test_impossible_constants_are_named(config, constant):
    with pytest.raises(InputError, match=next(iter(constant))):
        classify.main(replace(config, **constant))


def missing(folder):
    pass


def without_users(folder):
    (folder / "pictures").mkdir(parents=True)


def lacking_a_user(folder):
    write_users(folder, (1, 3), 1, seed=0)


def with_an_empty_user(folder):
    write_users(folder, (1, 3), 1, seed=0)
    (folder / "ID_2").mkdir()


def with_a_strange_user(folder):
    write_users(folder, (1, 2, 3, 17), 1, seed=0)


def with_an_image_of_another_size(folder):
    write_users(folder, (1, 2, 3), 1, seed=0)
    Image.new("RGB", (48, 48)).save(folder / "ID_2" / "Doppler2.png")


def smaller_than_classifiers_look_at(folder):
    for user in (1, 2, 3):
        (folder / f"ID_{user}").mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(folder / f"ID_{user}" / "Doppler1.png")


def with_a_broken_image(folder):
    write_users(folder, (1, 2, 3), 1, seed=0)
    (folder / "ID_2" / "Doppler1.png").write_bytes(b"\x89PNG half a file")


@pytest.mark.parametrize("make, named", [
    (missing, "is no folder"), (without_users, "holds none of ID_1, ID_2"), (lacking_a_user, "lacks ID_2"),
    (with_an_empty_user, "ID_2"), (with_a_strange_user, "ID_17"),
    (with_an_image_of_another_size, "different sizes"), (smaller_than_classifiers_look_at, "of 16 px"),
    (with_a_broken_image, "Doppler1.png")])
def test_unusable_folders_are_named_and_nothing_is_written(config, tmp_path, make, named):
    make(tmp_path / "synthetic_x")
    with pytest.raises(InputError) as caught:
        classify.main(config, synthetic=(tmp_path / "synthetic_x",))
    assert "synthetic_x" in str(caught.value) and named in str(caught.value)
    assert not config.results_folder.exists()


def test_command_line_says_it_in_one_line_with_status_2(config, tmp_path):
    done = subprocess.run([sys.executable, classify.__file__, "--preset", "cpu-minutes",
                           "--data_path", config.data_path, "--latents_cache_folder", tmp_path / "cache",
                           "--synthetic", tmp_path / "nothing", tmp_path / "neither"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and f"{tmp_path / 'nothing'} is no folder" in done.stderr


def test_a_set_drawn_by_a_model_of_another_split_is_refused_and_an_unfinished_one_warned_of(config, tmp_path, capsys):
    folder = write_users(tmp_path / "x", range(1, NUM_USERS + 1), 1, seed=0)

    def check(manifest: dict) -> str:
        (folder / "manifest.json").write_text(json.dumps(manifest))
        assert match_to_folds((folder,), splits) == {0: {"x": folder}}
        return capsys.readouterr().out
    _, _, splits = open_splits(config, ())
    capsys.readouterr()
    same = splits[0].identity()
    assert check({"split": same, "vae_trained_on": same["train_images"], "images": {"ID_1/Doppler1.png": {}}}) == ""
    assert "is unknown" in check({"split": {}}) and "is unknown" in check({})
    with pytest.raises(InputError, match="train_images other"):
        check({"split": {**same, "train_images": "other"}})
    with pytest.raises(InputError, match="fold 2 .now 0."):
        check({"split": {**same, "fold": 2}})
    for nonsense in ([], {"split": 1}, {"images": [1]}, {"vae": ["x"]}, {"vae": None}):
        with pytest.raises(InputError, match="no manifest"):
            check(nonsense)
    said = check({"split": same, "images": dict.fromkeys(["ID_1/Doppler1.png", "ID_1/Doppler2.png"])})
    assert "warning: " in said and "lacks 1 of the 2" in said
