"""Whatever is wrong with the input: one clear line, exit status 2, no traceback, nothing half-written."""
import json
import re
import shutil
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

import classify
import generate
import monitor_training
import test_vae_range as vae_range
import train_latent_cfg
from groundwork.command_line import run
from groundwork.errors import InputError
from groundwork.files import load_tensors, save_tensors
from groundwork.limits import to_plain
from microdoppler.pipeline.constants import check_constants, config_of
from train_latent_cfg import PRESETS, Config


@pytest.fixture
def refused(monkeypatch, capsys):
    """refused(script, *options) → the one line on standard error."""
    def call(script, *options):
        monkeypatch.setattr(sys, "argv", [script.__name__, *map(str, options)])
        with pytest.raises(SystemExit) as stopped:
            run(script.main, *([] if script is generate else [PRESETS, Config.preset]))
        said = capsys.readouterr().err
        assert stopped.value.code == 2
        lines = [line for line in re.split("[\r\n]+", said) if line.strip() and "%|" not in line]     # no progress bars
        assert len(lines) == 1 and lines[0].startswith("error: "), said
        return lines[0]
    return call


@pytest.mark.parametrize("script", [train_latent_cfg, vae_range, classify])
def test_missing_data(refused, script, paths, tmp_path):
    line = refused(script, *paths, "--data_path", tmp_path / "nowhere", "--latents_cache_folder", tmp_path / "cache")
    assert line.startswith("error: data_path") and "nowhere" in line
    assert list(tmp_path.iterdir()) == []


def test_no_user_folders(refused, paths, tmp_path):
    (tmp_path / "data" / "walker").mkdir(parents=True)
    paths += ["--data_path", tmp_path / "data", "--latents_cache_folder", tmp_path / "c", "--num_users", "1"]
    line = refused(train_latent_cfg, *paths)
    assert "no image " in line and "walker" in line
    (tmp_path / "data" / "walker").rmdir()
    line = refused(train_latent_cfg, *paths)
    assert "holds no folder of a user" in line and "--data_path" in line and not (tmp_path / "c").exists()


def test_more_users_than_folders(refused, paths, tmp_path):
    line = refused(train_latent_cfg, *paths, "--num_users", "5", "--latents_cache_folder", tmp_path / "c")
    assert "num_users is 5" in line and "holds 3: ID_1, ID_2, ID_3;" in line


def test_too_few_images(refused, paths, tmp_path):
    line = refused(train_latent_cfg, *paths, "--images_per_user_train", "40", "--latents_cache_folder", tmp_path / "c")
    assert "ID_1 has 20, ID_2 has 20, ID_3 has 20" in line and not (tmp_path / "c").exists()


def test_missing_vae(refused, paths, tmp_path):
    for script in (train_latent_cfg, vae_range):
        assert "none.pt does not exist" in refused(script, *paths, "--vae_path", tmp_path / "none.pt")
    assert not (tmp_path / "results").exists()


def test_a_checkpoint_given_as_vae(refused, paths, demo):
    line = refused(vae_range, *paths, "--vae_path", demo[0] / "results" / "model-1.pt")
    assert "is no VAE" in line and "diffusion checkpoint" in line


def test_vae_whose_weights_do_not_fit_each_other(refused, paths, demo, tmp_path):
    weights = load_tensors(demo[0] / "kl_vae_best.pt")["model_state_dict"]
    save_tensors(tmp_path / "vae.pt", weights | {"encoder.norm_out.bias": torch.zeros(1)})
    line = refused(train_latent_cfg, *paths, "--vae_path", tmp_path / "vae.pt")
    assert "does not fit KL_VAE" in line and "encoder.norm_out.bias found (1,), expected" in line


def test_vae_whose_latents_have_another_size(refused, paths):
    line = refused(train_latent_cfg, *paths, "--latent_size", "8")
    assert "latent_size is 8" in line and "4 x 16 x 16 latents of 64 px" in line and "set latent_size to 16" in line


@pytest.mark.parametrize("options", [["--no_standardize_latents"], []])
def test_auto_normalize_with_latents_outside_its_range(refused, paths, tmp_path, options):
    line = refused(train_latent_cfg, *paths, "--auto_normalize", *options)
    assert "auto_normalize is True, but the latents lie in [-" in line and not (tmp_path / "results").exists()


def test_auto_normalize_with_standardized_latents(refused, paths, monkeypatch):
    # as if the latents were inside [0, 1]
    monkeypatch.setattr("microdoppler.pipeline.assembly.check_range", lambda *_, **__: None)
    assert "both True" in refused(train_latent_cfg, *paths, "--auto_normalize")


@pytest.mark.parametrize("option, value, word", [("--objective", "pred_w", "pred_w"), ("--beta_schedule", "x", "x"),
                                                 ("--sampler", "euler", "dpmpp_2m"),
                                                 ("--sampling_timesteps", "2000", "2000"),
                                                 ("--dim_mults", "1 2 4 8 8 8", "16"),
                                                 ("--split_strategy", "odd", "contiguous"), ("--split_fold", "7", "7")])
def test_nonsense_constants(refused, paths, tmp_path, option, value, word):
    assert word in refused(train_latent_cfg, *paths, option, *value.split())
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("option, value", [
    ("seed", "-1"), ("seed", "9999999999999"), ("num_samples", "0"), ("ddim_sampling_eta", "1.5"), ("dim", "15"),
    ("train_batch_size", "0"),
    ("train_lr", "0"), ("train_lr", "nan"), ("max_grad_norm", "inf"), ("cond_drop_prob", "1.1"), ("cond_scale", "-1"),
    ("adam_betas", "0.9 1"), ("train_num_steps", "0"), ("save_and_sample_every", "0"), ("vae_batch_size", "0"),
    ("num_users", "-1"), ("images_per_user_train", "0"), ("images_per_user_train", "1.5"), ("split_guard", "-1"),
    ("crop", "0 0 nan 1"), ("levels", "0 inf"), ("classifier_image_size", "8"), ("doppler_shift", "0.05")])
def test_constants_outside_their_limits(refused, paths, tmp_path, option, value):
    line = refused(train_latent_cfg, *paths, f"--{option}", *value.split(), "--latents_cache_folder", tmp_path / "c")
    assert line.startswith(f"error: {option} is ") and "expected" in line
    assert list(tmp_path.iterdir()) == []


FINE_WITH = {     # extremes that make sense: (constant, value)
    ("max_train_hours", 0), ("split_guard", 0), ("seed", 0), ("min_loss_weight", 0), ("offset_noise_strength", 0),
    ("cond_drop_prob", 0), ("ddim_sampling_eta", 0), ("rescaled_phi", 0), ("ema_decay", 0), ("cond_scale", 0),
    ("doppler_shift", 0), ("window_seconds", 0), ("num_users", 0), ("image_size", 0), ("latent_size", 0),
    ("latent_channels", 0)}
NUMBERS = ["images_per_user_train", "split_guard", *(
    field.name for field in fields(Config) if type(getattr(Config(), field.name)) in (int, float))]
TUPLES = ["crop", *(field.name for field in fields(Config) if isinstance(getattr(Config(), field.name), tuple))]


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 10 ** 12])
@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_among_the_constants_has_its_limits(name, value):
    config = replace(Config(), **{name: value})
    if (name, value) in FINE_WITH:
        return
    with pytest.raises(InputError, match=f"^{name} is .*expected"):
        check_constants(config)


@pytest.mark.parametrize("value", [(), (-1, -1), (float("nan"), 1), (1, float("inf")), (10 ** 12, 10 ** 12)])
@pytest.mark.parametrize("name", TUPLES)
def test_every_tuple_among_the_constants_has_its_limits(name, value):
    if (name, value) == ("classifier_augmentations", ()):        # no arms with augmentation
        return
    with pytest.raises(InputError, match=f"^{name} is .*expected"):
        check_constants(replace(Config(), **{name: value}))


@pytest.mark.parametrize("value", [0.05, 2, -1, float("nan")])
def test_a_doppler_shift_is_refused_with_the_limit_that_holds(value):
    with pytest.raises(InputError, match="^doppler_shift is .*expected 0 … 0.03125"):
        check_constants(replace(Config(), doppler_shift=value))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_within_the_limits(preset):
    check_constants(PRESETS[preset])


@pytest.mark.parametrize("constants, words", [
    ({"split_fold": "1"}, "split_fold 0 (now 1)"), ({"split_guard": "9"}, "(now 9)"), ({"fit": "pad"}, "fit stretch"),
    ({"crop": "0 0 1 0.5"}, "crop None (now 0 0 1 0.5)"), ({"levels": "0 9"}, "levels None (now 0 9)"),
    ({"recording_pattern": "(x)"}, "recording_pattern None (now (x))"), ({"test_data": "t"}, "test_data None (now /"),
    ({"image_size": "96", "latent_size": "16"}, "set latent_size to 24"),
    ({"latent_channels": "8"}, "latent_channels is 8"),
    ({"num_users": "4"}, "num_users 3 (now 4)"), ({"sampling_timesteps": "1001"}, "1001"),
    ({"device": "cuda:x"}, "expected auto"), ({"dim_mults": "1 2 4 8 16 32"}, "latent_size")])
def test_constants_that_contradict_the_data_or_each_other(refused, paths, tmp_path, constants, words):
    options = [word for name, value in constants.items() for word in (f"--{name}", *value.split())]
    line = refused(train_latent_cfg, *paths, *options)
    assert words in line and not (tmp_path / "results").exists()


@pytest.mark.parametrize("constants, words", [
    ({"split_fold": "3"}, "split_fold is 3; expected 0, 1 or 2"), ({"split_fold": "-1"}, "split_fold is -1; expected"),
    ({"split_strategy": "odd"}, "one of contiguous, random"), ({"fit": "odd"}, "expected stretch, crop or pad"),
    ({"crop": "0 0 0 1"}, "left < right"), ({"levels": "9 0"}, "the lower one first"),
    ({"recording_pattern": "("}, "no regular expression"), ({"recording_pattern": "x"}, "no group for the recording"),
    ({"test_data": "none"}, "--test_data none is no folder")])
def test_constants_of_which_no_split_can_be_made(refused, paths, tmp_path, constants, words):
    options = [word for name, value in constants.items() for word in (f"--{name}", *value.split())]
    line = refused(train_latent_cfg, *paths, "--latents_cache_folder", tmp_path / "c", *options)
    assert words in line and list(tmp_path.iterdir()) == []


def test_constants_that_contradict_each_other(refused, paths, tmp_path):
    assert "expected (0, 1]" in refused(train_latent_cfg, *paths, "--use_cfg_plus_plus", "--cond_scale", "2")
    assert not (tmp_path / "results").exists()


def test_cuda_where_there_is_none(refused, paths):
    for script in (train_latent_cfg, vae_range, classify):
        assert "device 'cuda' was asked for" in refused(script, *paths, "--device", "cuda")
    assert "expected auto, cpu, cuda" in refused(vae_range, *paths, "--device", "quantum")


def test_unknown_options_and_presets(refused, monkeypatch, capsys):
    assert "cpu-hours" in refused(train_latent_cfg, "--preset", "huge")
    monkeypatch.setattr(sys, "argv", ["x", "--no_such_constant", "1"])
    with pytest.raises(SystemExit) as stopped:
        run(train_latent_cfg.main, PRESETS, Config.preset)
    assert stopped.value.code == 2


# ---------------------------------------------------------------------------------------------------- generate.py

def test_generate_names_the_milestones_there_are(refused, demo):
    line = refused(generate, "--checkpoint", demo[0] / "results" / "model-9.pt", "--all_users")
    assert "does not exist" in line and line.endswith("1, 2, 3")


@pytest.mark.parametrize("options, words", [
    (["--user_id", "4"], "its users are 1 ID_1, 2 ID_2, 3 ID_3"), (["--user_id", "0"], "its users are"),
    ([], "either --all_users or --user_id"), (["--all_users", "--user_id", "1"], "either --all_users or --user_id"),
    (["--all_users", "--samples_per_user", "0"], "at least 1"), (["--all_users", "--batch_size", "0"], "at least 1"),
    (["--all_users", "--sampler", "euler"], "expected one of"),
    (["--all_users", "--sampling_timesteps", "0"], "sampling_timesteps is 0"),
    (["--all_users", "--noise_level", "0"], "noise_level is 0"), (["--all_users", "--noise_level", "2"], "1 at most"),
    (["--all_users", "--noise_level", "0.5", "--latents_cache_folder", "none"], "latents.json does not exist"),
    (["--all_users", "--vae_path", "none.pt"], "none.pt does not exist")])
def test_generate_refuses(refused, demo, tmp_path, options, words):
    line = refused(generate, "--checkpoint", demo[0] / "results" / "model-3.pt", "--output_dir", tmp_path / "out",
                   *options)
    assert words in line and not (tmp_path / "out").exists()


def test_generate_refuses_a_folder_of_something_else(refused, demo, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    checkpoint = demo[0] / "results" / "model-3.pt"
    line = refused(generate, "--checkpoint", checkpoint, "--all_users", "--output_dir", tmp_path)
    assert "not empty" in line and [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_generate_refuses_a_vae_that_the_model_was_not_trained_with(refused, demo, tmp_path):
    vae = load_tensors(demo[0] / "kl_vae_best.pt")
    vae["model_state_dict"]["quant_conv.bias"] += 1
    save_tensors(tmp_path / "other.pt", vae)
    line = refused(generate, "--checkpoint", demo[0] / "results" / "model-3.pt", "--all_users",
                   "--vae_path", tmp_path / "other.pt", "--output_dir", tmp_path / "out")
    assert "another VAE" in line and not (tmp_path / "out").exists()
    generate.main(checkpoint=demo[0] / "results" / "model-3.pt", user_id=(1,), num_samples=1, force=True,
                  vae_path=tmp_path / "other.pt", output_dir=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["forced"] == "another VAE"
    line = refused(generate, "--checkpoint", demo[0] / "results" / "model-3.pt", "--user_id", "1",
                   "--output_dir", tmp_path / "out")       # the right VAE again: other images
    assert "forced another VAE (now None)" in line


def test_generate_refuses_what_is_no_checkpoint(refused, demo, tmp_path):
    whole = (demo[0] / "results" / "model-1.pt").read_bytes()
    for content in (b"", b"junk\0" * 100, whole[:len(whole) // 2]):
        (tmp_path / "model-1.pt").write_bytes(content)
        assert "no complete PyTorch file" in refused(generate, "--checkpoint", tmp_path / "model-1.pt", "--all_users")
    line = refused(generate, "--checkpoint", demo[0] / "kl_vae_best.pt", "--all_users")
    assert "no diffusion checkpoint" in line


def test_generate_refuses_weights_that_contradict_their_config(refused, demo, tmp_path):
    checkpoint = load_tensors(demo[0] / "results" / "model-3.pt")
    checkpoint["config"]["dim"] = 24
    save_tensors(tmp_path / "model-3.pt", checkpoint)
    line = refused(generate, "--checkpoint", tmp_path / "model-3.pt", "--all_users", "--output_dir", tmp_path / "out")
    assert "another network" in line and not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage, words", [
    (lambda c: c.update(model={}), "no diffusion checkpoint"), (lambda c: c.update(ema={}), "no diffusion checkpoint"),
    (lambda c: c.update(model=[1]), "no diffusion checkpoint"), (lambda c: c.update(config=[1]), "config is none of"),
    (lambda c: c["config"].update(dim_mults=3), "config is none of"),
    (lambda c: c["config"].update(dim=None), "config is none of"),
    (lambda c: c.update(config={}), "another network"), (lambda c: c["ema"].pop("ema_model.model.final_conv.bias"),
                                                          "another network")])
def test_generate_refuses_damaged_checkpoints(refused, demo, tmp_path, damage, words):
    checkpoint = load_tensors(demo[0] / "results" / "model-3.pt")
    damage(checkpoint)
    save_tensors(tmp_path / "model-3.pt", checkpoint)
    assert words in refused(generate, "--checkpoint", tmp_path / "model-3.pt", "--all_users", "--output_dir",
                            tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_config_that_lacks_newer_constants_takes_their_defaults(demo):
    checkpoint = load_tensors(demo[0] / "results" / "model-3.pt")
    whole = config_of(checkpoint)
    del checkpoint["config"]["dim"], checkpoint["config"]["log_every"]
    checkpoint["config"]["from_a_later_version"] = 1
    assert config_of(checkpoint) == replace(whole, dim=48, log_every=50)


def test_every_constant_survives_the_checkpoint():
    optional = {"images_per_user_train": 0.5, "split_strategy": "x", "split_fold": 1, "split_guard": 5, "fit": "x",
                "crop": (0.0, 0.0, 8.0, 9.0), "levels": (0.0, 4095.0), "recording_pattern": "x",
                "split_validation": 0.1, "leave_out_users": (4, 9)}
    choices = {"classifier_mixing": "concat", "classifier_budget": "epochs", "classifier_augmentations": ("MixUp",)}

    def other(name):
        value = getattr(Config(), name)
        if name in choices:
            return choices[name]
        return {bool: lambda: not value, int: lambda: value + 7, float: lambda: value + 0.25, str: lambda: value + "x",
                tuple: lambda: (*value, 3),
                type(None): lambda: optional.get(name, Path("x"))}.get(type(value), lambda: value / "x")()
    changed = Config(**{field.name: other(field.name) for field in fields(Config)})
    plain = json.loads(json.dumps(to_plain(changed)))
    assert config_of({"config": plain}) == changed


def test_generate_refuses_to_mix_the_images_of_two_models(refused, demo, tmp_path):
    """The same path, the same step, other weights: as after training anew."""
    checkpoint = load_tensors(demo[0] / "results" / "model-3.pt")
    path, out = tmp_path / "model-3.pt", tmp_path / "out"
    save_tensors(path, checkpoint)
    generate.main(checkpoint=path, user_id=(1,), num_samples=1, output_dir=out)
    checkpoint["ema"]["ema_model.model.final_conv.bias"] += 1
    save_tensors(path, checkpoint)
    assert "made with weights" in refused(generate, "--checkpoint", path, "--user_id", "1", "--output_dir", out)


def test_a_file_where_a_folder_is_expected(refused, paths, demo, tmp_path):
    (tmp_path / "file").write_text("mine")
    checkpoint = demo[0] / "results" / "model-3.pt"
    for line in (refused(train_latent_cfg, *paths, "--results_folder", tmp_path / "file"),
                 refused(train_latent_cfg, *paths, "--latents_cache_folder", tmp_path / "file"),
                 refused(classify, *paths, "--results_folder", tmp_path / "file"),
                 refused(generate, "--checkpoint", checkpoint, "--all_users", "--output_dir", tmp_path / "file")):
        assert str(tmp_path / "file") in line
    assert (tmp_path / "file").read_text() == "mine"


# ---------------------------------------------------------------------------------------------------- resuming

def test_resume_with_another_vae(refused, paths, demo, tmp_path):
    (tmp_path / "results").mkdir()
    shutil.copy(demo[0] / "results" / "model-1.pt", tmp_path / "results")
    vae = load_tensors(demo[0] / "kl_vae_best.pt")
    vae["model_state_dict"]["quant_conv.bias"] += 1
    save_tensors(tmp_path / "other.pt", vae)
    shutil.copytree(demo[0] / "latents_cache", tmp_path / "cache")
    before = {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
    line = refused(train_latent_cfg, *paths, "--vae_path", tmp_path / "other.pt", "--resume", "1",
                   "--latents_cache_folder", tmp_path / "cache")
    assert "another VAE" in line
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["model-1.pt"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()} == before


def test_resume_on_other_training_images(refused, paths, demo, tmp_path):
    """The same constants, but the split was made anew when the data set had changed."""
    (tmp_path / "results").mkdir()
    shutil.copy(demo[0] / "results" / "model-1.pt", tmp_path / "results")
    shutil.copytree(demo[0] / "latents_cache", tmp_path / "cache")
    split = json.loads((tmp_path / "cache" / "data_split.json").read_text())
    user = split["users"]["1"]
    user["train_images"][0], user["test_images"][0] = user["test_images"][0], user["train_images"][0]
    (tmp_path / "cache" / "data_split.json").write_text(json.dumps(split))
    line = refused(train_latent_cfg, *paths, "--resume", "1", "--latents_cache_folder", tmp_path / "cache")
    assert "other images" in line and "train_images" in line


def test_resume_of_nothing_and_of_nonsense(refused, paths, demo, tmp_path):
    assert "holds no checkpoint" in refused(train_latent_cfg, *paths, "--resume", "latest")
    (tmp_path / "results").mkdir()
    shutil.copy(demo[0] / "results" / "model-1.pt", tmp_path / "results")
    assert "expected latest or a milestone" in refused(train_latent_cfg, *paths, "--resume", "yes")
    assert "milestones in" in refused(train_latent_cfg, *paths, "--resume", "7")


def test_monitor_without_a_run(refused, tmp_path):
    assert "error: " in refused(monitor_training, "--results_folder", tmp_path / "none")
    assert list(tmp_path.iterdir()) == []
