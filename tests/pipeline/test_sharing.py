"""In and out: weights to share, what other people's programs read, and the Python API."""
import shutil

import numpy as np
import pytest
import torch
from parity import state_dict
from PIL import Image
from torchvision.datasets import ImageFolder

import export
from microdoppler.pipeline.sharing import choose_checkpoint
import generate
import microdoppler
from groundwork.errors import InputError
from groundwork.files import load_safetensors, load_tensors, read_json, save_safetensors, save_tensors, write_json
from microdoppler.data import latents_command
from microdoppler.pipeline.constants import config_of
from microdoppler.pipeline.generation import ImageGenerator, Sampling, find_checkpoint
from vae.kl_vae import KL_VAE

SETTINGS = Sampling(sampling_timesteps=3, cond_scale=2.0, seed=5)


@pytest.fixture(scope="module")
def shared(demo, tmp_path_factory):
    """A folder that export.py made of the demo's newest checkpoint, far from the demo's own."""
    folder = tmp_path_factory.mktemp("shared") / "model"
    export.main(checkpoint=demo[0] / "results" / "model-3.pt", output_dir=folder)
    return folder


def draw(checkpoint, output_dir):
    generate.main(checkpoint=checkpoint, user_id=(2,), num_samples=3, output_dir=output_dir, sampling=SETTINGS,
                  device="cpu")
    images = {path.name: path.read_bytes() for path in (output_dir / "ID_2").iterdir()}
    return images, {name: value for name, value in read_json(output_dir / "manifest.json").items()
                    if name != "checkpoint"}


def test_a_shared_folder_draws_what_its_checkpoint_draws(demo, shared, tmp_path):
    """Without anything of the training: to the byte, the manifest's hashes among them."""
    alone = shutil.copytree(shared, tmp_path / "elsewhere")
    expected = draw(demo[0] / "results" / "model-3.pt", tmp_path / "a")
    assert draw(alone, tmp_path / "b") == expected and len(expected[0]) == 3
    assert draw(alone / "model.safetensors", tmp_path / "c") == expected


def test_a_shared_file_says_what_its_checkpoint_says_but_for_this_machines_paths(demo, shared):
    checkpoint = load_tensors(demo[0] / "results" / "model-3.pt")
    weights, about = load_safetensors(shared / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    for name in ("step", "latents", "latent_statistics", "vae_fingerprint", "split", "package_version"):
        assert about[name] == checkpoint[name]
    trained, told = vars(config_of(checkpoint)), vars(config_of({"config": about["config"]}))
    assert {name for name in trained if trained[name] != told[name]} == {
        "vae_path", "data_path", "results_folder", "latents_cache_folder"}
    for file in shared.iterdir():
        assert str(demo[0]).encode() not in file.read_bytes(), file
        assert file.stat().st_mode & 0o044 == 0o044, file       # whoever it is shared with can read it


def test_the_card_is_one_that_the_hub_reads_and_holds_this_models_figures_only(demo, tmp_path, capsys):
    hub = pytest.importorskip("huggingface_hub")
    results = shutil.copytree(demo[0] / "results", tmp_path / "results")
    export.main(checkpoint=results, output_dir=tmp_path / "measured")
    text = (tmp_path / "measured" / "README.md").read_text()
    card, figures = hub.ModelCard(text), read_json(results / "fidelity" / "fidelity.json")
    assert "micro-doppler" in card.data.tags and card.data.license is None
    study = read_json(results / "classify" / "summary.json")
    arm = next(arm for arm in study["arms"] if arm["kind"] == "real + synthetic")
    images = [str(figures["all"][kind]["num_images"]) for kind in ("synthetic", "real")]
    assert f"| images | {' | '.join(images)} |" in text and "| training images | 30" in text
    assert f"| {arm['kind']} | {100 * arm['accuracy']:.1f}" in text and "Not measured" not in text
    assert f"The images of {arm['synthetic']} were generated with noise_level 1.0, cond_scale" in text
    figures["made_by"]["model_weights"] = study["sets"][0]["model_vae"] = "another"
    write_json(results / "fidelity" / "fidelity.json", figures)
    write_json(results / "classify" / "summary.json", study)
    capsys.readouterr()
    export.main(checkpoint=results / "model-3.pt", output_dir=tmp_path / "unmeasured")
    text = (tmp_path / "unmeasured" / "README.md").read_text()
    assert text.count("Not measured of these weights") == capsys.readouterr().out.count("Not measured") == 2
    assert f"| {arm['kind']} |" not in text and "| images |" not in text


def test_the_best_of_a_folder_is_what_the_study_says_else_the_newest(demo, tmp_path):
    results = shutil.copytree(demo[0] / "results", tmp_path / "results")
    study = read_json(results / "classify" / "summary.json")
    arm = next(arm for arm in study["arms"] if arm["kind"] == "real + synthetic")
    study["arms"] += [arm | {"synthetic": "early", "accuracy": arm["accuracy"] + 0.1},
                      arm | {"synthetic": "of another training", "accuracy": 1.0}]
    study["sets"] = [study["sets"][0] | {"name": name, "model_checkpoint": str(path)} for name, path in (
        (arm["synthetic"], results / "model-3.pt"), ("early", results / "model-1.pt"),
        ("of another training", demo[0] / "results" / "model-2.pt"))]
    write_json(results / "classify" / "summary.json", study)
    assert choose_checkpoint(results, results / "classify" / "summary.json") == (
        results / "model-1.pt", "the most accurate of 2 in the classifier study (real + synthetic)")
    path, reason = choose_checkpoint(results, results / "no study")
    assert path == results / "model-3.pt" and "newest" in reason
    study["sets"] = [{"name": 1}]
    write_json(results / "classify" / "summary.json", study)
    with pytest.raises(InputError, match="summary.json cannot be understood"):
        choose_checkpoint(results, results / "classify" / "summary.json")


def test_a_card_that_is_there_is_not_written_over(demo, shared):
    before = {path.name: path.stat().st_mtime_ns for path in shared.iterdir()}
    with pytest.raises(InputError, match="may have been edited; choose another --output_dir"):
        export.main(checkpoint=demo[0] / "results" / "model-1.pt", output_dir=shared)
    assert {path.name: path.stat().st_mtime_ns for path in shared.iterdir()} == before


def test_what_is_no_shared_model_is_refused(demo, shared, tmp_path):
    folder = shutil.copytree(shared, tmp_path / "model")
    file, whole = folder / "model.safetensors", (folder / "model.safetensors").read_bytes()

    def refusal(path=file):
        with pytest.raises(InputError) as refused:
            ImageGenerator.load(path, "cpu")
        return str(refused.value)
    for content in (b"", b"junk" * 100, whole[:len(whole) // 2]):
        file.write_bytes(content)
        assert "is no complete safetensors file" in refusal()
    save_safetensors(file, {"encoder.weight": torch.zeros(2)}, {})
    assert "no diffusion checkpoint: found encoder.weight" in refusal(folder)
    assert "no diffusion checkpoint: found embed_dim" in refusal(folder / "vae.safetensors")
    weights, about = load_safetensors(shared / "model.safetensors")
    save_safetensors(file, weights, about | {"config": about["config"] | {"dim": 24}})
    assert "holds another network" in refusal()
    save_safetensors(file, weights, about | {"config": None})
    assert "no config that would say" in refusal()
    file.write_bytes(whole)
    vae = KL_VAE.load(folder / "vae.safetensors")
    vae.quant_conv.bias += 1
    vae.save_safetensors(folder / "vae.safetensors")
    assert "another VAE" in refusal()
    shutil.copy(file, folder / "vae.safetensors")
    assert "it holds the U-Net of a diffusion checkpoint" in refusal()
    assert "no checkpoint in" in refusal(tmp_path) and "does not exist" in refusal(tmp_path / "none.safetensors")


def test_a_vae_of_diffusers_is_one_from_training_to_export(demo, tmp_path):
    """Its folder is read again from the checkpoint's vae_path, and can be written again; a VAE of ours cannot."""
    folder, checkpoint = tmp_path / "theirs", load_tensors(demo[0] / "results" / "model-3.pt")
    save_safetensors(folder / "diffusion_pytorch_model.safetensors", state_dict("diffusers_vae.shapes.json"), {})
    vae = KL_VAE.load(folder)
    checkpoint["config"]["vae_path"], checkpoint["vae_fingerprint"] = str(folder), vae.fingerprint()
    save_tensors(tmp_path / "model-1.pt", checkpoint)
    assert ImageGenerator.load(tmp_path / "model-1.pt", "cpu").sample(user=1, count=1).shape == (1, 3, 64, 64)
    export.main(checkpoint=tmp_path / "model-1.pt", format="diffusers")
    again, latents = KL_VAE.load(tmp_path / "export"), torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(again.decode(latents), vae.decode(latents))
    assert [path.name for path in (tmp_path / "export").iterdir()] == ["vae"]
    with pytest.raises(InputError, match="kl_vae_best.pt: .* cannot be written for diffusers: it pads downsamplings"):
        export.main(checkpoint=demo[0] / "results" / "model-3.pt", format="diffusers", output_dir=tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_from_checkpoint_to_images_in_three_lines(demo, tmp_path):
    """As the README shows it, and the images are those that generate.py writes."""
    from microdoppler import ImageGenerator
    generator = ImageGenerator.load(demo[0] / "results", device="cpu")
    images = generator.sample(user=3, count=4, seed=7)
    assert images.shape == (4, 3, 64, 64) and images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert torch.equal(images, generator.sample(user=3, count=4, seed=7))
    assert not torch.equal(images, generator.sample(user=3, count=4))
    generate.main(checkpoint=demo[0] / "results" / "model-3.pt", user_id=(3,), num_samples=4, output_dir=tmp_path,
                  sampling=Sampling(seed=7), device="cpu")
    for index in range(4):
        with Image.open(tmp_path / "ID_3" / f"ID3_synthetic_Doppler{index + 1}.png") as image:
            assert np.array_equal(np.asarray(image), (images[index] * 255).round().byte().permute(1, 2, 0))
    for nonsense in ({"user": 4}, {"user": 0}, {"user": 1, "count": 0}):
        with pytest.raises(InputError, match="expected one of the users 1, 2, 3, and at least 1 image"):
            generator.sample(**nonsense)


def test_every_name_of_the_api_is_there_and_no_other():
    assert set(microdoppler.API) <= set(dir(microdoppler))
    assert all(callable(getattr(microdoppler, name)) for name in microdoppler.API)
    with pytest.raises(ImportError, match="cannot import name 'Generator'"):
        from microdoppler import Generator  # noqa: F401


def test_the_newest_milestone_of_a_folder_unless_it_was_made_to_share(demo, shared):
    assert find_checkpoint(demo[0] / "results") == demo[0] / "results" / "model-3.pt"
    assert find_checkpoint(shared) == shared / "model.safetensors"


def test_a_synthetic_folder_opens_as_torchvisions_image_folder(demo):
    images = ImageFolder(demo[0] / "synthetic")
    assert images.classes == ["ID_1", "ID_2", "ID_3"] and images.targets == [0] * 3 + [1] * 3 + [2] * 3
    assert images[0][0].size == (64, 64)


def test_a_synthetic_folder_opens_as_hugging_faces_imagefolder(demo, tmp_path, monkeypatch):
    """With manifest.json in it and the grid beside it: an image above the users' folders would lose all labels."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    datasets = pytest.importorskip("datasets")
    assert (demo[0] / "synthetic" / "manifest.json").exists() and (demo[0] / "synthetic_grid.png").exists()
    images = datasets.load_dataset("imagefolder", data_dir=str(demo[0] / "synthetic"), cache_dir=str(tmp_path))["train"]
    assert images.features["label"].names == ["ID_1", "ID_2", "ID_3"]
    assert sorted(images["label"]) == [0] * 3 + [1] * 3 + [2] * 3 and images[0]["image"].size == (64, 64)


def test_latents_and_features_open_with_numpy(demo, tmp_path):
    latents_command.main(latents_cache_folder=demo[0] / "latents_cache", output=tmp_path / "latents.npz")
    with np.load(tmp_path / "latents.npz") as found:
        index, stored = read_json(demo[0] / "latents_cache" / "latents.json"), np.load(
            demo[0] / "latents_cache" / "latents.npy")
        assert found["names"].tolist() == index["images"] and found["labels"].tolist() == index["labels"]
        assert np.array_equal(found["means"], np.float32(found["scale_factor"]) * stored[:, 0].astype(np.float32))
    split = read_json(demo[0] / "latents_cache" / "data_split.json")
    held_out = sum(len(user["test_images"]) for user in split["users"].values())
    with np.load(demo[0] / "results" / "fidelity" / "features.npz") as found:
        assert found["features"].shape == (held_out + 9, 1024) and found["features"].dtype == np.float32
        synthetic = found["is_synthetic"]
        assert found["labels"][synthetic].tolist() == [0] * 3 + [1] * 3 + [2] * 3
        for path, of_set in zip(found["paths"], synthetic):
            assert (demo[0] / ("synthetic" if of_set else "data") / path).exists()
    for bad, named in (({"output": tmp_path / "latents"}, "ends in .npz"),
                       ({"latents_cache_folder": tmp_path}, "latents.json does not exist")):
        with pytest.raises(InputError, match=named):
            latents_command.main(**{"latents_cache_folder": demo[0] / "latents_cache",
                                    "output": tmp_path / "x.npz"} | bad)
