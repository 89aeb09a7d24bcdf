"""python -m vae.train: what it reads, what it writes, and that an interrupted run ends as an uninterrupted one."""
import hashlib
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from groundwork.errors import InputError
from groundwork.files import load_tensors, save_tensors
from groundwork.images import load_images
from groundwork.preparation import Preparation
from vae import KL_VAE, train
from vae.quality import measure_quality
from vae.train import main, read_split, train_vae
from vae.trainer import VAETrainer, augment, learning_rate

SETTINGS = {"ddconfig": {"ch": 8, "ch_mult": (1, 2), "num_res_blocks": 1}, "num_steps": 6, "batch_size": 4, "lr": 2e-3,
            "kl_weight": 1e-3, "seed": 3, "device": torch.device("cpu"), "validate_every": 2}


def stripes(num_images: int, size: int = 16, seed: int = 0) -> torch.Tensor:
    """Smooth coloured images, (n, 3, size, size) uint8, of a few degrees of freedom: easy to compress."""
    generator = torch.Generator().manual_seed(seed)
    phase = 2 * math.pi * torch.rand(num_images, 3, 1, 1, generator=generator)
    wave = torch.sin(phase + torch.arange(size) * 2 * math.pi / size).expand(-1, -1, size, -1)
    return (127 * (1 + wave)).byte()


def write_data(root, num_users: int = 2, num_train: int = 14, num_test: int = 5, size: int = 16) -> tuple:
    """(data folder, split file); the test images are listed but do not exist, so reading one fails."""
    users = {}
    for user in range(1, num_users + 1):
        names = [f"ID_{user}/Doppler{i}.png" for i in range(1, num_train + num_test + 1)]
        users[str(user)] = {"label": user - 1, "train_images": names[:num_train], "test_images": names[num_train:]}
        (root / "data" / f"ID_{user}").mkdir(parents=True)
        for name, image in zip(names[:num_train], stripes(num_train, size, seed=user)):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(root / "data" / name)
    split = root / "latents_cache" / "data_split.json"
    split.parent.mkdir()
    split.write_text(json.dumps({"strategy": "contiguous", "seed": 42, "guard": 3, "users": users}))
    return root / "data", split


def test_validation_is_the_last_tenth_and_the_three_windows_before_it_are_left_out(tmp_path):
    _, split = write_data(tmp_path, num_users=1, num_train=50)
    data = read_split(split)
    assert data.training == [f"ID_1/Doppler{i}.png" for i in range(1, 43)]
    assert data.validation == [f"ID_1/Doppler{i}.png" for i in range(46, 51)]
    # the list of a random split is in no order, and as many are left out as its guard says
    content = json.loads(split.read_text()) | {"strategy": "random", "guard": 5}
    content["users"]["1"]["train_images"].sort(key=hash)
    split.write_text(json.dumps(content))
    assert read_split(split) == replace(data, training=data.training[:-2], digest=read_split(split).digest)


def test_images_are_prepared_as_the_split_says_and_those_of_a_folder_train_are_found(tmp_path):
    data, split = write_data(tmp_path)
    content = json.loads(split.read_text()) | {"preparation": {"fit": "crop", "crop": None, "levels": [0, 100]}}
    split.write_text(json.dumps(content))
    assert read_split(split).preparation == Preparation("crop", None, (0, 100))
    data.rename(tmp_path / "set_train")
    (tmp_path / "set").mkdir()
    (tmp_path / "set_train").rename(tmp_path / "set" / "train")
    output = tmp_path / "vae.pt"
    main(tmp_path / "set", output, split, image_size=16, ch=8, ch_mult=(1, 2), num_res_blocks=1, num_steps=1,
         batch_size=4, device="cpu")
    with Image.open(output.with_name("vae_reconstruction.png")) as picture:
        assert np.asarray(picture)[:16].mean() > 150        # levels make it brighter
    assert KL_VAE.load(output).image_size == 16


def test_the_weights_say_which_images_they_were_trained_on(tmp_path):
    """So that classify.py can tell a VAE that may have seen test images. Weights that are shared say it, too."""
    data, split = write_data(tmp_path)
    main(data, tmp_path / "vae.pt", split, image_size=16, ch=8, ch_mult=(1, 2), num_res_blocks=1, num_steps=1,
         batch_size=4, device="cpu")
    paths = [name for user in json.loads(split.read_text())["users"].values() for name in user["train_images"]]
    digest = hashlib.sha256("\n".join(paths).encode()).hexdigest()[:16]     # as microdoppler.data.split.Split.identity
    vae = KL_VAE.load(tmp_path / "vae.pt")
    vae.save_safetensors(tmp_path / "vae.safetensors")
    assert vae.trained_on == KL_VAE.load(tmp_path / "vae.safetensors").trained_on == digest


def test_learning_rate_warms_up_to_its_peak_and_falls_to_zero():
    rates = [learning_rate(step, 100, 2.0) for step in range(100)]
    assert rates[0] == pytest.approx(0.4) and rates[4] == rates[5] == 2.0
    assert rates[5:] == sorted(rates[5:], reverse=True) and 0 < rates[-1] < 0.001
    assert learning_rate(52, 100, 2.0) + learning_rate(53, 100, 2.0) == pytest.approx(2.0, rel=1e-6)    # half way


def test_augmentation_shifts_and_mirrors_time_only():
    image = torch.arange(12).reshape(1, 1, 2, 6)
    seen = {tuple(augment(image, torch.Generator().manual_seed(seed)).flatten().tolist()) for seed in range(200)}
    rows = image[0, 0]
    assert seen == {tuple(image.roll(shift, -1).flatten().tolist())
                    for image in (rows, rows.flip(-1)) for shift in range(6)}


def test_training_reads_no_test_image_and_leaves_weights_and_a_picture(tmp_path):
    data, split = write_data(tmp_path)
    output = tmp_path / "out" / "kl_vae_best.pt"
    results = main(data, output, split, image_size=16, ch=8, ch_mult=(1, 2), num_res_blocks=1, num_steps=4,
                   batch_size=4, lr=2e-3, validate_every=2, device="cpu")
    assert len(list(data.rglob("Doppler*"))) == 28              # the 10 test images were never there to be read
    vae, validation = KL_VAE.load(output), load_images(data, read_split(split).validation, 16)
    figures, reconstructions = measure_quality(vae, validation, batch_size=1, seed=0)
    assert figures["mse"] == pytest.approx(results["mse"], rel=1e-4)
    assert figures["mse"] == pytest.approx(((reconstructions / 255 - validation / 255) ** 2).mean().item(), rel=0.01)
    with Image.open(output.with_name("kl_vae_best_reconstruction.png")) as picture:
        top = np.asarray(picture)[:16, :16]
        assert picture.size == (2 * 16, 2 * 16)                 # one validation window per user, original above copy
    assert np.array_equal(top, validation[0].permute(1, 2, 0).numpy())


def test_latent_channels_are_of_the_latents(tmp_path):
    data, split = write_data(tmp_path)
    main(data, tmp_path / "vae.pt", split, image_size=16, ch=8, ch_mult=(1, 2), num_res_blocks=1, latent_channels=6,
         num_steps=1, device="cpu")
    assert KL_VAE.load(tmp_path / "vae.pt").encode_images(stripes(1).float() / 255).shape == (1, 6, 8, 8)


def test_training_learns_to_reconstruct_with_latents_of_the_usual_scale(tmp_path):
    settings = {**SETTINGS, "num_steps": 150, "batch_size": 8, "lr": 3e-3, "validate_every": 50}
    validation = stripes(16, seed=1)
    results = train_vae(stripes(64), validation, output=tmp_path / "vae.pt", **settings)
    assert results["mse"] < 0.6 * mse_of_best_constant(validation)
    assert 0.06 < results["std"] < 0.4                   # unit posterior · scale_factor 0.18, not yet converged


def mse_of_best_constant(images: torch.Tensor) -> float:
    return (images / 255).var(unbiased=False, dim=(0, 2, 3)).mean().item()


@pytest.mark.parametrize("sharpening", [{}, {"adversarial_start": 3, "adversarial_weight": 0.5}])
@pytest.mark.parametrize("when", ["amid steps", "before the first", "between weights and state of a validation"])
def test_interrupted_and_resumed_run_ends_with_the_same_weights(tmp_path, monkeypatch, when, sharpening):
    images, validation, settings = stripes(12), stripes(4, seed=1), SETTINGS | sharpening
    train_vae(images, validation, output=tmp_path / "whole.pt", **settings)

    step, save = train.VAETrainer.train_step, train.save_if_best
    with monkeypatch.context() as patch:
        if when.startswith("between"):
            patch.setattr(train, "save_if_best", lambda *args: (save(*args), interrupt()))
        else:
            most = 5 if when.startswith("amid") else 0
            patch.setattr(train.VAETrainer, "train_step",
                          lambda self, *args: step(self, *args) if self.step < most else interrupt())
        with pytest.raises(KeyboardInterrupt):
            train_vae(images, validation, output=tmp_path / "parts.pt", **settings)
    torch.manual_seed(123)                                       # the global generator must have no say
    train_vae(images, validation, output=tmp_path / "parts.pt", resume=True, **settings)
    for suffix in (".pt", "_state.pt"):
        whole, parts = (torch.load(tmp_path / f"{name}{suffix}", weights_only=True) for name in ("whole", "parts"))
        for key in {"model", "average", "discriminator", "model_state_dict"} & set(whole):
            assert all(torch.equal(whole[key][name], parts[key][name]) for name in whole[key])
        assert whole["step"] == parts["step"] == 6


def interrupt():
    raise KeyboardInterrupt


def test_reconstructions_that_are_not_finite_end_training_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "measure_quality", lambda *args, **kwargs: ({"mse": float("nan")}, None))
    with pytest.raises(InputError, match="not finite at step .*; try a lower --lr"):
        train_vae(stripes(8), stripes(4), output=tmp_path / "vae.pt", **SETTINGS)


def test_another_seed_gives_other_weights(tmp_path):
    for seed in (0, 1):
        train_vae(stripes(8), stripes(4), output=tmp_path / f"{seed}.pt", **{**SETTINGS, "num_steps": 1, "seed": seed})
    assert KL_VAE.load(tmp_path / "0.pt").fingerprint() != KL_VAE.load(tmp_path / "1.pt").fingerprint()


def test_saved_weights_are_the_best_validated_ones(tmp_path, monkeypatch):
    mse = iter([0.3, 0.1, 0.2])
    monkeypatch.setattr(train, "measure_quality", lambda _, images, **settings: ({"mse": next(mse)}, images))
    results = train_vae(stripes(8), stripes(4), output=tmp_path / "vae.pt", **SETTINGS)
    assert results["step"] == 4 and results["mse"] == 0.1


def test_existing_output_is_kept_unless_resumed_with_the_same_settings(tmp_path):
    images, output = stripes(8), tmp_path / "vae.pt"
    train_vae(images, images, output=output, **{**SETTINGS, "num_steps": 1})
    before = output.read_bytes()
    with pytest.raises(InputError, match="--resume"):
        train_vae(images, images, output=output, **{**SETTINGS, "num_steps": 1})
    with pytest.raises(InputError, match=r"--lr 0.002 \(now 0.1\)"):
        train_vae(images, images, output=output, resume=True, **{**SETTINGS, "num_steps": 1, "lr": 0.1})
    train_vae(images, images, output=output, resume=True, **{**SETTINGS, "num_steps": 1})      # nothing left to do
    assert output.read_bytes() == before


def test_a_run_from_before_there_was_a_choice_of_channels_is_resumed(tmp_path):
    data, split = write_data(tmp_path)
    options = {"image_size": 16, "ch": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "num_steps": 1, "device": "cpu"}
    main(data, tmp_path / "vae.pt", split, **options)
    state = load_tensors(tmp_path / "vae_state.pt")
    for name in ("in_channels", "out_ch"):
        del state["settings"]["ddconfig"][name]
    save_tensors(tmp_path / "vae_state.pt", state)
    main(data, tmp_path / "vae.pt", split, **options, resume=True)
    with pytest.raises(InputError, match=r"--channels 3 \(now 1\), --data_path and --split, of digest"):
        main(data, tmp_path / "vae.pt", split, **options, resume=True, channels=1)


def test_bad_input_is_named(tmp_path):
    data, split = write_data(tmp_path)
    options = {"image_size": 16, "ch": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "num_steps": 1, "device": "cpu"}
    with pytest.raises(InputError, match="^--split .*microdoppler.split --data_path"):
        main(data, tmp_path / "a.pt", tmp_path / "absent.json", **options)
    with pytest.raises(InputError, match="multiple of 2"):
        main(data, tmp_path / "a.pt", split, **{**options, "image_size": 15})
    with pytest.raises(InputError, match="--num_steps is 0"):
        main(data, tmp_path / "a.pt", split, **{**options, "num_steps": 0})
    for changes, words in (({"ch_mult": ()}, "--ch_mult is 0"), ({"latent_channels": 0}, "--latent_channels is 0"),
                           ({"seed": -1}, "--seed is -1"), ({"kl_weight": -1.0}, "^--kl_weight is -1.0; expected 0"),
                           ({"lr": 0.0}, "^--lr is 0.0; expected more than 0$")):
        with pytest.raises(InputError, match=words):
            main(data, tmp_path / "a.pt", split, **{**options, **changes})
    for lr in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="lr is"):
            main(data, tmp_path / "a.pt", split, **options, lr=lr)
    (data / "ID_1" / "Doppler3.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="Doppler3.png"):
        main(data, tmp_path / "a.pt", split, **options)
    (tmp_path / "few.json").write_text(json.dumps({"strategy": "contiguous", "guard": 3, "users": {
        "7": {"train_images": ["a", "b"], "test_images": []}}}))
    with pytest.raises(InputError, match="user 7 has 2 .*--images_per_user_train"):
        main(data, tmp_path / "a.pt", tmp_path / "few.json", **options)
    assert not list(tmp_path.glob("a*"))


def test_loss_that_is_not_finite_ends_with_advice(tmp_path):
    with pytest.raises(InputError, match="lower --lr"):
        train_vae(stripes(8), stripes(4), output=tmp_path / "vae.pt", **{**SETTINGS, "lr": 1e30, "num_steps": 50})


def test_the_average_follows_the_weights_and_keeps_no_graph():
    one = VAETrainer(SETTINGS["ddconfig"], torch.device("cpu"), 10, lr=1e-2, kl_weight=1e-3, seed=0)
    before = [parameter.clone() for parameter in one.average.parameters()]
    one.train_step(stripes(8), batch_size=4)
    ours, average = list(one.vae.parameters()), list(one.average.parameters())
    assert all(parameter.grad_fn is None and not parameter.requires_grad for parameter in average)
    for old, new, mean in zip(before, ours, average):      # the first decay is min(0.995, 1 / 10)
        assert torch.allclose(mean, 0.1 * old + 0.9 * new, atol=1e-6)
