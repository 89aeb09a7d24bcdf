"""The control that generate.py writes beside a synthetic set."""
import shutil
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

import export
import generate
from denoising_diffusion_pytorch.checkpoint import load_checkpoint
from groundwork.errors import InputError
from groundwork.files import read_json, write_json
from groundwork.processes import init_distributed
from microdoppler.data.control_sets import CUT, TEST, TRAINING, VALIDATION, find_control
from microdoppler.data.stitching import load_cuts
from microdoppler.pipeline.constants import config_of
from microdoppler.pipeline.control import open_copy_detector, training_data
from microdoppler.pipeline.generation import Sampling
from microdoppler.pipeline.study_folds import select_sets
from microdoppler.pipeline.training import prepare
from microdoppler.study.arms import ImageSet
from vae.kl_vae import KL_VAE


@pytest.fixture
def made(demo, tmp_path):
    """A copy of the demo's set and its control, and options of generate.main that complete it."""
    for name in ("synthetic", "synthetic_control"):
        shutil.copytree(demo[0] / name, tmp_path / name)
    return tmp_path / "synthetic", {"checkpoint": demo[0] / "results" / "model-3.pt", "all_users": True,
                                    "samples_per_user": 3, "output_dir": tmp_path / "synthetic", "device": "cpu"}


def decoded(demo, cut):
    """What the VAE makes of a window, from the mean of its posterior: (h, w, 3) int64."""
    vae = KL_VAE.load(demo[0] / "kl_vae_best.pt")
    image = load_cuts(demo[0] / "data", [cut], 64).float() / 255
    return (vae.decode(vae.encode(image).mean).clamp(0, 1)[0] * 255).round().long().permute(1, 2, 0)


def test_it_holds_as_many_cuts_as_there_are_samples_and_every_training_window(demo):
    control = find_control(demo[0] / "synthetic")
    split = read_json(demo[0] / "latents_cache" / "data_split.json")["users"]
    for kind, part in ((TRAINING, "train_images"), (VALIDATION, "validation_images"), (TEST, "test_images")):
        assert {user: [cut.path for cut in own.values()] for user, own in control.images[kind].items()} == {
            int(user): own[part] for user, own in split.items()}
    assert {user: len(own) for user, own in control.cuts.items()} == {1: 3, 2: 3, 3: 3}
    for user, own in control.cuts.items():
        assert {cut.path for cut in own.values()} <= set(split[str(user)]["train_images"])
        assert {cut.successor.path for cut in own.values() if cut.successor} <= set(split[str(user)]["train_images"])
    cuts = [cut for own in control.cuts.values() for cut in own.values()]
    assert any(cut.fraction for cut in cuts) and all(0 < abs(cut.doppler_shift) <= 0.03 for cut in cuts)
    raw, labels = control.raw_cuts(demo[0] / "data", 32)
    assert torch.equal(raw, load_cuts(demo[0] / "data", cuts, 32)) and labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3


def test_its_images_are_what_the_vae_gives_back(demo):
    control = find_control(demo[0] / "synthetic")
    name, window = list(control.images[TRAINING][2].items())[4]
    image = torch.from_numpy(np.asarray(Image.open(control.folder / name)).astype(int))
    assert (image - decoded(demo, window)).abs().max() <= 1
    name, cut = next(iter(control.cuts[2].items()))     # a sample of the posterior: near its mean, and not equal to it
    image = torch.from_numpy(np.asarray(Image.open(control.folder / name)).astype(int))
    difference = (image - decoded(demo, cut)).abs().float()
    assert 0 < difference.mean() < 40
    assert {tuple(control.decoded(kind, 64)[0].shape[1:]) for kind in (CUT, TRAINING, TEST)} == {(3, 64, 64)}


def test_it_is_laid_out_like_the_set(demo):
    images = ImageFolder(demo[0] / "synthetic_control")
    control = find_control(demo[0] / "synthetic")
    assert images.classes == ["ID_1", "ID_2", "ID_3"]
    assert len(images) == sum(len(own) for users in control.images.values() for own in users.values()) > 3 * (3 + 10)


def test_only_what_is_missing_is_written_and_it_comes_out_the_same(made, capsys):
    synthetic, options = made
    folder = find_control(synthetic).folder
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*.png")}
    lost = [folder / "ID_1" / "ID1_control_Doppler2.png", folder / "ID_3" / "ID3_training_Doppler7.png"]
    for path in lost:
        path.unlink()
    assert find_control(synthetic) is None
    generate.main(**options)
    assert f"control set: 2 images generated, {len(before) - 2} were there already" in capsys.readouterr().out
    assert {path for path in before if path.stat().st_mtime_ns != before[path][1]} == set(lost)
    for path in lost:
        now, was = (np.asarray(Image.open(file)).astype(int) for file in (path, demo_twin(options, path)))
        assert abs(now - was).max() <= 1        # another batch: rounding


def test_milestones_tell_copies_by_the_same_windows(demo):
    """Those of the users that are shown, through the VAE, as in the control that generate.py writes later."""
    checkpoint = load_checkpoint(demo[0] / "results" / "model-3.pt")
    config, vae = config_of(checkpoint), KL_VAE.load(demo[0] / "kl_vae_best.pt")
    data = training_data(config, checkpoint["split"])
    detector = open_copy_detector(config, data, vae, [0, 2], torch.device("cpu"))
    images, labels = find_control(demo[0] / "synthetic").decoded(TRAINING, config.image_size)
    shown = labels != 1
    assert detector.is_calibrated and torch.equal(detector.windows.labels, labels[shown])
    assert (detector.windows.images.int() - images[shown].int()).abs().max() <= 1
    assert detector.scales.keys() == {0, 2} and not detector.nearest(detector.windows).distance.isnan().any()


def test_a_training_judges_its_samples_by_known_copies(demo, tmp_path):
    """Cuts of training windows through the VAE, in place of samples of the users that are shown, are copies."""
    shutil.copytree(demo[0] / "results", tmp_path / "results")
    checkpoint, cpu = load_checkpoint(tmp_path / "results" / "model-3.pt"), torch.device("cpu")
    config = replace(config_of(checkpoint), results_folder=tmp_path / "results")
    _, _, recorder = prepare(config, "latest", cpu, init_distributed(cpu), [], None)
    recorder.close()
    images, labels = find_control(demo[0] / "synthetic").decoded(CUT, config.image_size)
    shown = torch.isin(labels, torch.tensor(recorder.watcher.labels))
    assert recorder.watcher.evaluator.evaluate(ImageSet(images[shown], labels[shown]))["copies"] >= 0.99


def test_selection_tells_copies_by_the_control_of_the_set(demo):
    """A set of known copies: none is kept. Without the control, blurred copies are missed."""
    checkpoint = load_checkpoint(demo[0] / "results" / "model-3.pt")
    config = config_of(checkpoint)
    data = training_data(config, checkpoint["split"])
    copies = ImageSet(*find_control(demo[0] / "synthetic").decoded(CUT, config.classifier_image_size))

    def select(folder):
        return select_sets(config, 0, data, {"x": folder}, {"x": copies}, 0.0, 3, torch.device("cpu"))
    with pytest.raises(InputError, match="of 9, 0 have a lower confidence and 9 are near-copies"):
        select(demo[0] / "synthetic")
    _, (table,) = select(demo[0] / "without a control")
    assert int(table.rows[-1][-1]) < 9


def demo_twin(options, path):
    """The same file in the demo's own control."""
    return options["checkpoint"].parents[1] / "synthetic_control" / path.parent.name / path.name


def test_a_set_that_grows_takes_its_control_with_it(made):
    synthetic, options = made
    before = find_control(synthetic).cuts[1]
    generate.main(**options | {"samples_per_user": 5})
    after = find_control(synthetic).cuts[1]
    assert list(after.values())[:3] == list(before.values()) and len(after) == 5


def test_another_set_of_the_same_training_has_the_same_control_which_is_not_made_twice(made, tmp_path, monkeypatch):
    synthetic, options = made
    monkeypatch.setattr("microdoppler.pipeline.control.through_vae", None)
    generate.main(**options | {"output_dir": tmp_path / "b", "sampling": Sampling(seed=7)})
    first, second = (find_control(folder) for folder in (synthetic, tmp_path / "b"))
    assert first.images == second.images
    assert all((first.folder / name).read_bytes() == (second.folder / name).read_bytes() for name in first.cuts[1])


def test_images_of_other_test_windows_than_now_are_made_again(made):
    synthetic, options = made
    control = find_control(synthetic)
    name, window = next(iter(control.images[TEST][1].items()))
    manifest = read_json(control.folder / "manifest.json")
    manifest["images"][name]["path"] = "ID_1/another.jpg"
    manifest["images"]["ID_1/ID1_test_Doppler99.png"] = manifest["images"][name]
    shutil.copy(control.folder / name, control.folder / "ID_1/ID1_test_Doppler99.png")
    whole = (control.folder / name).read_bytes()
    (control.folder / name).write_bytes(b"of another window")
    write_json(control.folder / "manifest.json", manifest)
    generate.main(**options)
    assert find_control(synthetic).images == control.images
    now, was = np.asarray(Image.open(control.folder / name)).astype(int), np.asarray(Image.open(BytesIO(whole)))
    assert abs(now - was).max() <= 1 and not (control.folder / "ID_1/ID1_test_Doppler99.png").exists()


def test_a_set_of_an_older_version_gets_its_control_when_it_is_generated_again(made):
    synthetic, options = made
    images = {path: path.stat().st_mtime_ns for path in synthetic.rglob("*.png")}
    shutil.rmtree(find_control(synthetic).folder)
    generate.main(**options)
    assert find_control(synthetic) and images == {path: path.stat().st_mtime_ns for path in images}


def test_without_the_training_images_there_is_none(demo, tmp_path, capsys):
    export.main(checkpoint=demo[0] / "results" / "model-3.pt", output_dir=tmp_path / "shared")
    generate.main(checkpoint=tmp_path / "shared", all_users=True, samples_per_user=1, output_dir=tmp_path / "a",
                  device="cpu")
    assert find_control(tmp_path / "a") is None and not (tmp_path / "a_control").exists()
    assert "no control set: " in capsys.readouterr().out


def test_some_users_have_none(demo, tmp_path):
    generate.main(checkpoint=demo[0] / "results" / "model-3.pt", user_id=(1,), num_samples=1, device="cpu",
                  output_dir=tmp_path / "a")
    assert not (tmp_path / "a_control").exists()


def test_a_folder_of_something_else_is_refused_before_any_image_is_made(made, tmp_path):
    synthetic, options = made
    shutil.copytree(synthetic, tmp_path / "b_control")      # a synthetic set of that name
    with pytest.raises(InputError, match="b_control holds images made with"):
        generate.main(**options | {"output_dir": tmp_path / "b"})
    assert not list((tmp_path / "b").rglob("*.png"))
    with pytest.raises(InputError, match="synthetic_control holds images made with"):
        generate.main(**options | {"output_dir": tmp_path / "synthetic_control"})
