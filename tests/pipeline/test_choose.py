"""python -m microdoppler.choose on the tiny demo: constants are chosen without a look at test images."""
import csv
import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from groundwork.command_line import CONFIG_FILE
from groundwork.errors import InputError
from groundwork.files import read_json
from groundwork.limits import from_plain
from microdoppler.pipeline.choice import Candidate, Values, choose
from train_latent_cfg import PRESETS, Config

NUM_VALIDATION = 3      # images of each user
FEW = Values(epochs=(1, 2), milestones=(3, 1), noise_levels=(1.0, 0.5), cond_scales=(1.5, 3.0), ratios=(0.2, 0.4),
             shares=((1, 0), (0.5, 0.5)))


def with_validation(demo: Path, folder: Path) -> Config:
    """A copy of the demo in `folder`, whose split has some test images as validation part. The other test images are
    files of the same size that cannot be read."""
    for name in ("data", "latents_cache", "results"):
        shutil.copytree(demo / name, folder / name)
    path = folder / "latents_cache" / "data_split.json"
    split = json.loads(path.read_text())
    for user in split["users"].values():
        user["validation_images"], user["test_images"] = (user["test_images"][:NUM_VALIDATION],
                                                          user["test_images"][NUM_VALIDATION:])
        for name in user["test_images"]:
            (folder / "data" / name).write_bytes(bytes((folder / "data" / name).stat().st_size))
    path.write_text(json.dumps(split))
    return trained_config(folder)


def trained_config(folder: Path) -> Config:
    """The Config in folder/results, with its paths in `folder`. It is written there, too."""
    path = folder / "results" / CONFIG_FILE
    constants = read_json(path) | {"data_path": str(folder / "data"), "results_folder": str(folder / "results"),
                                   "latents_cache_folder": str(folder / "latents_cache")}
    path.write_text(json.dumps(constants))
    return from_plain(constants, PRESETS["cpu-minutes"])


def as_fold_1(folder: Path) -> Path:
    """Makes folder/results one of fold 1, and returns it."""
    split = folder / "latents_cache" / "data_split.json"
    split.write_text(split.read_text().replace('"fold": 0', '"fold": 1'))
    for path in (folder / "results").glob("model-*.pt"):
        checkpoint = torch.load(path, weights_only=True)
        checkpoint["split"]["fold"] = 1
        torch.save(checkpoint, path)
    config = folder / "results" / CONFIG_FILE
    config.write_text(json.dumps(read_json(config) | {"split_fold": 1}))
    return folder / "results"


def test_constants_are_chosen_without_test_images_and_the_next_command_uses_them(demo, tmp_path, capsys, script,
                                                                                 monkeypatch):
    config = replace(with_validation(demo[0], tmp_path), sampling_timesteps=3)       # trained with 4
    chosen = choose(config, values=FEW, seeds=2)
    printed = capsys.readouterr().out
    folder = tmp_path / "results" / "choose"
    assert isinstance(chosen, Candidate) and chosen.cond_scale in (1.5, 3.0) and chosen.milestone in (1, 3)
    assert "warning: classifier_epochs is 1" in printed
    used = [read_json(manifest) for manifest in folder.rglob("manifest.json")]
    assert used and {one["sampling_timesteps"] for one in used} == {3}
    found = read_json(folder / "choice.json")
    epochs = found["chosen"].pop("classifier_epochs")
    assert found["chosen"] == {**vars(chosen), "synthetic_shares": list(chosen.synthetic_shares)}
    assert found["seeds"] == [42, 43] and [step["constant"] for step in found["steps"]] == [
        "classifier_epochs", "milestone", "noise_level", "cond_scale", "ratio", "synthetic_shares"]
    assert [tried["value"] for tried in found["steps"][0]["tried"]] == [1, 2] and epochs in (1, 2)
    runs = list(csv.DictReader((folder / "runs.csv").open()))
    trained = {(run["arm"], run["epochs"]) for run in runs}
    assert trained == {("real + classical", "1"), ("real + classical", "2"), *(
        (arm, str(epochs)) for arm in found["references"])}
    assert found["references"].keys() == {"real only", "real + classical", "real + cuts", "real + synthetic"}
    assert "9 validation images in 1 fold, 2 seeds" in printed and (folder / "report.html").exists()
    assert {path.name for path in folder.glob("milestone_*")} >= {"milestone_3_noise_1_guidance_1.5",
                                                                 "milestone_1_noise_1_guidance_1.5"}
    for made in folder.glob("milestone_*"):         # each candidate is generated with its own constants
        manifest = read_json(made / "manifest.json")
        assert made.name == (f"milestone_{Path(manifest['checkpoint']).stem.partition('-')[2]}_noise_"
                             f"{manifest['noise_level']:g}_guidance_{manifest['cond_scale']:g}")
    shares = {run["synthetic"].partition("shares ")[2]: run["synthetic_shares"] for run in runs if run["synthetic"]}
    assert shares == {"1 to 0": "(1, 0)", "0.5 to 0.5": "(0.5, 0.5)"}
    constants = read_json(folder / CONFIG_FILE)
    assert (constants["noise_level"], constants["cond_scale"], constants["classifier_epochs"]) == (
        chosen.noise_level, chosen.cond_scale, epochs)

    for name in ("study.runs.train_classifier", "pipeline.generation.ImageGenerator.sample_images"):
        monkeypatch.setattr(f"microdoppler.{name}", lambda *args, **kwargs: pytest.fail("made again"))
    assert choose(config, values=FEW, seeds=2) == chosen

    generating, classifying = (shlex.split(line.partition(": ")[2]) for line in printed.splitlines()
                               if line.startswith(("next: ", "then: ")))
    out = tmp_path / "chosen"
    generating[generating.index("--output_dir") + 1] = out
    script("generate.py", *generating[2:])
    manifest = read_json(out / "manifest.json")
    assert (manifest["noise_level"], manifest["checkpoint"]) == (
        chosen.noise_level, str(tmp_path / "results" / f"model-{chosen.milestone}.pt"))
    assert len(manifest["images"]) == 3 * round(10 * chosen.ratio)
    assert classifying[1].endswith("classify.py") and classifying[2:4] == ["--config", str(folder)]


def test_constants_are_the_same_in_several_folds(demo, tmp_path, capsys):
    config = with_validation(demo[0], tmp_path / "fold_0")
    with_validation(demo[0], tmp_path / "fold_1")
    results = (tmp_path / "fold_0" / "results", as_fold_1(tmp_path / "fold_1"))
    values = Values(epochs=(1,), milestones=(3, 1), noise_levels=(1.0,), cond_scales=(1.5,), ratios=(0.2,),
                    shares=((1, 0),))
    chosen = choose(replace(config, results_folder=tmp_path / "all"), values=values, results=results, seeds=1)
    printed = capsys.readouterr().out
    found = read_json(tmp_path / "all" / "choose" / "choice.json")
    assert found["folds"] == [0, 1] and "18 validation images in 2 folds" in printed
    for number, folder in enumerate(results):
        constants = read_json(folder / "choose" / CONFIG_FILE)
        assert constants["split_fold"] == number and constants["results_folder"] == str(folder)
        assert (folder / "choose" / chosen.set_name / "manifest.json").exists()
    assert printed.count("generate.py") == 2 and "--folds 0 1 --synthetic" in printed
    with pytest.raises(InputError, match="--results has folds 0 0; expected each fold once"):
        choose(config, values=values, results=results[:1] * 2, seeds=1)


def test_what_cannot_be_chosen_is_said(demo, tmp_path):
    config = with_validation(demo[0], tmp_path)
    with pytest.raises(InputError, match="--milestones 7: there is no such checkpoint; saved are 1, 2, 3"):
        choose(config, values=Values(milestones=(7,)))
    with pytest.raises(InputError, match="ratios is .0.0,.; expected more than 0"):
        choose(config, values=Values(ratios=(0.0,)))
    with pytest.raises(InputError, match="absent has no checkpoint; train first"):
        choose(replace(config, results_folder=tmp_path / "absent"))
    without = replace(config, latents_cache_folder=demo[0] / "latents_cache")
    with pytest.raises(InputError, match="has no validation part, and constants must not be chosen on test images"):
        choose(without, values=FEW)
    as_fold_1(tmp_path)
    (tmp_path / "results" / "model-3.pt").write_bytes((demo[0] / "results" / "model-3.pt").read_bytes())
    with pytest.raises(InputError, match=r"trained on other images than this split's: fold 0 \(now 1\)"):
        choose(replace(config, split_fold=1), values=replace(FEW, milestones=(3,)), seeds=1)
