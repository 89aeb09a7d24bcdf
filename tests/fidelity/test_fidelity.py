"""python -m microdoppler.fidelity: copies are caught, figures stand beside their yardstick, bad input is named."""
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from groundwork.errors import InputError
from groundwork.files import read_json, write_json
from groundwork.images import load_images
from microdoppler.fidelity import measure as fidelity
from microdoppler.fidelity import two_sample
from microdoppler.fidelity.sample_evaluator import SampleEvaluator
from microdoppler.fidelity.report import fidelity_verdict, sentences
from microdoppler.figures.report import save_figure
from microdoppler.fidelity.texture import power_spectra
from microdoppler.simulate.dataset import simulate_dataset
from microdoppler.simulate.gait import AXES as SIMULATED_AXES
from microdoppler.study.arms import ImageSet
from microdoppler.study.classifier import build_classifier, normalise
from microdoppler.study.copies import CopyDetector
from microdoppler.study.networks import plan_network

SIZE = 32


def noise(count: int, seed: int, size: int = SIZE) -> torch.Tensor:
    """Smooth noise, no two pictures of which are alike."""
    small = torch.rand(count, 3, size // 4, size // 4, generator=torch.Generator().manual_seed(seed)) * 255
    return torch.nn.functional.interpolate(small, size=size, mode="bicubic").clamp(0, 255).byte()


def test_a_planted_copy_is_caught_shifted_in_time_or_doppler_noisy_or_not():
    training = ImageSet(noise(12, seed=0, size=64), torch.arange(12) % 2)
    images = noise(6, seed=1, size=64)
    images[0] = training.images[4]                                                  # as it is
    images[2] = training.images[6].roll(-20, dims=-1)                               # later in time
    images[2, :, :, -20:] = noise(1, seed=2, size=64)[0, :, :, :20]
    images[4] = (training.images[8].float() + 30 * torch.randn(3, 64, 64)).clamp(0, 255).byte()
    images[5] = training.images[2]                                                  # of another user: no copy of theirs
    images[1] = training.images[3].roll(2, dims=-2)                                 # a little higher in Doppler
    closest = CopyDetector(training).nearest(ImageSet(images, torch.arange(6) % 2))
    assert closest.is_copy.tolist() == [True, True, True, False, True, False]
    assert closest.index[[0, 1, 2, 4]].tolist() == [4, 3, 6, 8]
    assert closest.shift[[0, 2]].tolist() == pytest.approx([0, 20 / 64], abs=0.02)


def test_cheap_figures_of_copies_of_a_collapsed_set_and_of_training_images_themselves():
    training = ImageSet(noise(20, seed=0), torch.arange(20) % 2)
    evaluator = SampleEvaluator(build_classifier(plan_network("resnet18", 32), 2, seed=0).eval(), training)
    itself = evaluator.evaluate(training)
    assert itself["copies"] == 1 and itself["diversity"] == pytest.approx(1)
    predicted = evaluator.probabilities(training.images).argmax(dim=1)
    assert itself["recognised"] == pytest.approx((predicted == training.labels).float().mean().item())
    new = evaluator.evaluate(ImageSet(noise(1, seed=5).repeat(6, 1, 1, 1), torch.arange(6) % 2))
    assert new["copies"] == 0 and new["diversity"] == pytest.approx(0, abs=1e-3)
    one_per_user = ImageSet(noise(2, seed=6), torch.arange(2))
    assert np.isnan(evaluator.evaluate(one_per_user)["diversity"])


@pytest.fixture
def folders(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(two_sample, "MAX_STEPS", 2)     # that it tells images apart is seen in test_two_sample.py
    folder, _ = demo
    shutil.copytree(folder / "synthetic", tmp_path / "synthetic")
    shutil.copytree(folder / "latents_cache", tmp_path / "cache")
    return folder / "data", tmp_path / "synthetic", tmp_path / "cache" / "data_split.json", tmp_path / "out"


def run(folders, size=64, **options):
    """size: of images; at 32 px the demo has a trained evaluation classifier."""
    real, synthetic, split, output = folders
    return fidelity.main(real, synthetic, split=split, output=output, classifier_image_size=size, device="cpu",
                         **options)


class KnowsByHeart(nn.Module):
    """Takes each image for the user of the most similar image that it was trained on."""

    def __init__(self, trained_on: ImageSet, num_classes: int):
        super().__init__()
        self.known = nn.Parameter(normalise(trained_on.images, torch.device("cpu")).flatten(1), requires_grad=False)
        self.of_class = [trained_on.labels == label for label in range(num_classes)]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        distance = torch.cdist(images.flatten(1), self.known)
        return torch.stack([-distance[:, own].min(dim=1).values for own in self.of_class], dim=1)


def test_trained_on_held_out_images_tested_on_synthetic_ones(folders, capsys, monkeypatch):
    """Who knows the held-out images by heart recognises copies of them, and not every training image."""
    monkeypatch.setattr(fidelity, "load_or_train_evaluation_classifier",
                        lambda real, num_classes, **_: KnowsByHeart(real, num_classes))
    real, synthetic, split, _ = folders
    users = json.loads(split.read_text())["users"]
    for path in synthetic.rglob("*.png"):
        own = users[path.parent.name.removeprefix("ID_")]["test_images"]
        with Image.open(real / own[int(re.findall(r"\d+", path.stem)[-1]) % len(own)]) as image:
            image.save(path)
    report = run(folders, size=32, trts=True)
    training = report["trts"]["training"]
    assert report["trts"]["synthetic"] == 1 and 0 < training < 1
    assert f"recognises 100% of the synthetic images, and {training:.0%} of the real" in capsys.readouterr().out


def test_variations_of_one_training_image_are_one_group_as_the_manifest_says(folders, monkeypatch):
    groups, measure = [], fidelity.measure
    monkeypatch.setattr(fidelity, "measure", lambda real, synthetic, *rest: (
        groups.extend(synthetic.groups), measure(real, synthetic, *rest))[1])
    manifest = read_json(folders[1] / "manifest.json")
    for entry in manifest["images"].values():
        entry["start"] = f"ID_{entry['user']}/1.jpg"
    write_json(folders[1] / "manifest.json", manifest | {"noise_level": 0.5})
    assert "trts" not in run(folders, size=32)
    assert groups == [f"ID_{user}/1.jpg" for user in (1, 1, 1, 2, 2, 2, 3, 3, 3)]


def test_outputs(folders, capsys):
    real, synthetic, split, output = folders
    copied = Path(json.loads(split.read_text())["users"]["2"]["train_images"][3])
    with Image.open(real / copied) as image:
        image.save(synthetic / "ID_2" / "ID2_synthetic_Doppler2.png")
    report = run(folders)
    assert report["users"][2]["synthetic"]["copies"] == pytest.approx(1 / 3)
    assert report["closest"][0]["image"] == "ID_2/ID2_synthetic_Doppler2.png"
    assert report["closest"][0]["training"] == str(copied) and report["closest"][0]["correlation"] > 0.95
    for kind in ("synthetic", "real"):
        figures = report["all"][kind]
        assert 0 <= figures["recognised"] <= 1 and 0 <= figures["separation"] <= 1
        assert set(figures) >= {"kid", "precision", "recall", "diversity", "copies", "speckle", "radial", "doppler",
                                "two_sample", "two_sample_spread", "cadence_hz"}
    held_out = sum(len(user["test_images"]) for user in json.loads(split.read_text())["users"].values())
    assert report["all"]["real"]["copies"] < 0.05 and report["all"]["real"]["num_images"] == held_out >= 3 * 6
    printed = capsys.readouterr().out
    assert "Near-copies" in printed and "No sign of copying; " in printed or "are repeated; " in printed
    assert '"?" in a table: too few images' in printed and "? ± ?" not in printed
    assert "cadence in Hz" in printed and "KID" in printed
    stored = read_json(output / "fidelity.json")
    assert stored["all"]["real"]["recognised"] == report["all"]["real"]["recognised"]
    for name in ("overview", "closest_pairs", "novelty", "gait"):
        Image.open(output / f"{name}.png").verify()
    assert (output / "report.html").read_text(encoding="utf-8").count("data:image/png") == 4


def side(labels: list[int], seed: int) -> fidelity.EvaluatedSet:
    """Features of two normal distributions, four images per pass."""
    features = np.random.default_rng(seed).normal(np.array(labels)[:, None], 1, (len(labels), 8))
    passes = np.array([f"user {label} pass {i // 4}" for i, label in enumerate(labels)])
    images = ImageSet(noise(len(labels), seed), torch.tensor(labels))
    return fidelity.EvaluatedSet(images, list(map(str, range(len(labels)))), features, passes,
                                 {"recognised": np.ones(len(labels)), "speckle": np.ones(len(labels))},
                                 power_spectra(images.images))


def test_a_user_with_too_few_images_leaves_the_overall_kid_to_the_others():
    training = ImageSet(noise(6, seed=3), torch.arange(6) % 3)
    report = fidelity.measure(side([0] * 32 + [1] * 32 + [2] * 32, 1), side([0] * 16 + [1] + [2] * 16, 2),
                              CopyDetector(training), SIMULATED_AXES, [3, 5, 9])
    found, others = report["all"]["synthetic"], [report["users"][user]["synthetic"] for user in (3, 9)]
    assert np.isnan(report["users"][5]["synthetic"]["kid"]) and found["kid_users"] == 2
    assert found["kid"] == pytest.approx(np.mean([user["kid"] for user in others]))
    assert found["kid_error"] == pytest.approx(np.sqrt(sum(user["kid_error"]**2 for user in others)) / 2)
    real = report["all"]["real"]            # of the same users: another's would be no yardstick
    assert real["kid"] == pytest.approx(np.mean([report["users"][user]["real"]["kid"] for user in (3, 9)]))
    assert real["recall"] == pytest.approx(np.mean([report["users"][user]["real"]["recall"] for user in (3, 9)]))
    named = report | {"names": {3: "Anna", 5: "Ben", 9: "Cem"}}
    assert any("KID over all is of 2 of 3 users" in said for said in sentences(named))


def test_overall_diversity_is_within_users_however_far_apart_they_are():
    real, synthetic = side([0] * 32 + [1] * 32, 1), side([0] * 16 + [1] * 16, 2)
    centres = np.array([-50, 50])[synthetic.images.labels]      # half as varied, and much easier to tell apart
    synthetic.features[:] = 0.5 * (synthetic.features - synthetic.images.labels.numpy()[:, None]) + centres[:, None]
    report = fidelity.measure(real, synthetic, CopyDetector(ImageSet(noise(6, seed=3), torch.arange(6) % 2)),
                              SIMULATED_AXES, [1, 2])
    assert report["all"]["synthetic"]["diversity"] == pytest.approx(0.5, rel=0.15)
    assert report["all"]["synthetic"]["separation"] > 0.99


def test_real_images_are_as_diverse_as_real_images():
    """However much more varied some passes are than the others."""
    real = side([0] * 32, 1)
    real.features[np.isin(real.groups, ["user 0 pass 0", "user 0 pass 2", "user 0 pass 4", "user 0 pass 6"])] *= 5
    diversity = fidelity.compare_user(real, side([0] * 32, 2), np.random.default_rng(0))["diversity"]
    assert diversity.real == 1 and np.mean(diversity.halvings) == pytest.approx(1)


def test_units_follow_the_axes_that_are_given(folders):
    report = run(folders)
    axes = SIMULATED_AXES
    wider = run(folders, window_seconds=axes.window_seconds,
                velocity_range_mps=(2 * axes.lowest_mps, 2 * axes.highest_mps))
    assert wider["users"][1]["real"]["torso_mps"] == pytest.approx(2 * report["users"][1]["real"]["torso_mps"])
    assert wider["users"][1]["real"]["cadence_hz"] == pytest.approx(report["users"][1]["real"]["cadence_hz"])
    with pytest.raises(InputError, match=r"window_seconds is 0, velocity_range_mps \(-1, 9\)"):
        run(folders, velocity_range_mps=(-1.0, 9.0))


def told(synthetic_copies: float, real_copies: float, is_calibrated: bool = True) -> str:
    """What is said about these shares of near-copies."""
    metrics = {"recognised": 0.8, "separation": 0.5, "kid": 0.1, "kid_error": 0.1, "kid_users": 2, "precision": 0.5,
               "recall": 0.5, "diversity": 1.0, "speckle": 1.0, "radial": 0.3, "doppler": 0.3, "num_images": 9,
               "nearest": 0.5, "cadence_hz": 1.7}
    report = {"users": {}, "names": {}, "all": {"synthetic": metrics | {"copies": synthetic_copies},
                                                "real": metrics | {"copies": real_copies}},
              "copy_bars": [0.93] * is_calibrated}
    return fidelity_verdict(report).as_text()


def test_where_held_out_images_look_like_copies_nothing_is_said_about_copying():
    assert "No sign of copying; 80%" in told(0.01, 0.02)
    assert "Training images are repeated" in told(0.2, 0.02) and "the model repeats" in told(0.2, 0.02)
    for share in (0.9, 1.0):
        said = told(share, 0.97)
        assert "Copying cannot be judged" in said and "the measure fails" in said and "no sign of copying" not in said


def test_without_a_control_set_copying_cannot_be_ruled_out():
    said = told(0.01, 0.02, is_calibrated=False)
    assert "Copying cannot be judged" in said and "Run generate.py again" in said and "no sign of copying" not in said
    assert "Training images are repeated" in told(0.2, 0.02, is_calibrated=False)


def test_near_copies_are_told_by_the_control_set_where_there_is_one(folders, capsys, monkeypatch):
    titles = {}         # of the figures, by the name of their file
    monkeypatch.setattr(fidelity, "save_figure", lambda figure, path: (
        titles.update({path.name: figure.get_suptitle()}), save_figure(figure, path)))
    assert run(folders)["copy_bars"] == [] and "without a control set" in capsys.readouterr().out
    assert "near-copies: 0.8 and more" in titles["closest_pairs.png"]
    shutil.copytree(folders[0].parent / "synthetic_control", folders[1].parent / "synthetic_control")
    bars = run(folders)["copy_bars"]
    assert len(bars) == 3 and max(bars) <= 1 and read_json(folders[3] / "fidelity.json")["copy_bars"] == bars
    page = " ".join((folders[3] / "report.html").read_text().split())
    by_user = f"{min(bars):.2f} to {max(bars):.2f}, by user,"
    assert f"a correlation of {by_user} or more" in page
    assert f"near-copies: {by_user} and more" in titles["closest_pairs.png"]


def walk_of(real: Path, **options) -> list[str]:
    """The sentences about the walk in images of a simulated data set, which is both the real and the synthetic one."""
    names = sorted(str(path.relative_to(real)) for path in real.glob("*/*.*"))
    classes = sorted({name.split("/")[0] for name in names})
    labels = torch.tensor([classes.index(name.split("/")[0]) for name in names])
    images = ImageSet(load_images(real, names, 64), labels)
    own = fidelity.EvaluatedSet(images, names, np.random.default_rng(0).normal(size=(len(names), 8)), np.array(names),
                                {"recognised": np.ones(len(names)), "speckle": np.ones(len(names))},
                                power_spectra(images.images))
    report = fidelity.measure(own, own, CopyDetector(images), users=list(range(1, len(classes) + 1)), **options)
    assert bool(report["gait"]["real"]) == bool(report["gait"]["synthetic"]) == ("cadence_hz" in report["all"]["real"])
    return [said for said in sentences(report | {"names": {i + 1: name for i, name in enumerate(classes)}})
            if "walk" in said]


@pytest.mark.parametrize("kind", ["drone", "gesture"])
def test_no_gait_is_told_where_nobody_walks(tmp_path, kind):
    """Neither when simulation.json says so, nor when only the images can tell."""
    simulate_dataset(tmp_path, 6, 8, 64, kind=kind)
    assert not fidelity.may_show_walking(tmp_path)
    (tmp_path / "simulation.json").unlink()
    assert fidelity.may_show_walking(tmp_path)
    said = walk_of(tmp_path, axes=SIMULATED_AXES)
    assert len(said) == 1 and "a cadence is found in" in said[0] and "--velocity_range_mps" in said[0]
    assert "simulation.json says that nobody walks" in walk_of(tmp_path, axes=None)[0]


@pytest.mark.parametrize("size", [-64, 0, 8])
def test_impossible_sizes_are_named(folders, size):
    real, synthetic, split, output = folders
    with pytest.raises(InputError, match=f"--classifier_image_size {size}; expected at least 32"):
        fidelity.main(real, synthetic, split=split, output=output, classifier_image_size=size)
    assert not output.exists()


def shrink(path: Path) -> None:
    with Image.open(path) as image:
        image.resize((48, 48)).save(path)


@pytest.mark.parametrize("spoil, named", [
    (lambda folder: shutil.rmtree(folder), "no folder"),
    (lambda folder: [shutil.rmtree(path) for path in folder.glob("ID_*")], "holds none of ID_1"),
    (lambda folder: shutil.rmtree(folder / "ID_2"), "lacks ID_2"),
    (lambda folder: [path.unlink() for path in (folder / "ID_2").iterdir()], "in ID_2"),
    (lambda folder: shrink(folder / "ID_1" / "ID1_synthetic_Doppler2.png"), "different sizes"),
    (lambda folder: (folder / "ID_1" / "ID1_synthetic_Doppler2.png").write_bytes(b"\x89PNG"), "cannot be decoded"),
    (lambda folder: (folder / "manifest.json").write_text('{"split": {"fold": 2}}'), "another split")])
def test_bad_input_is_named(folders, spoil, named):
    spoil(folders[1])
    with pytest.raises(InputError, match=named):
        run(folders)
    assert not folders[3].exists()


def test_no_split_is_made_to_measure_with(folders):
    """No model was trained on it; and a wrong --split would leave a folder behind."""
    real, synthetic, split, output = folders
    absent = output.parent / "absent" / split.name
    with pytest.raises(InputError, match=f"{absent} does not exist.*--split"):
        run((real, synthetic, absent, output))
    assert not absent.parent.exists()


def test_command_line_ends_in_one_line(script, folders):
    real, synthetic, split, output = folders
    out, error = script("-m", "microdoppler.fidelity", "--data_path", real, "--synthetic", synthetic / "nothing",
                        "--split", split, "--output", output, expect=2)
    assert error.startswith("error: ") and error.count("\n") == 1
