"""The figures of samples: beside those of held-out real images, with their number, and each with its own finding."""
import json

import numpy as np
import pytest
from test_monitor import findings, remedies, write_run

import monitor_training
from microdoppler.pipeline.monitoring import read_run, read_settings
from microdoppler.watch.metrics import read_metrics
from microdoppler.watch.plot import plot
from train_latent_cfg import Config

HELD_OUT = {"held_out_recognised": 0.9, "held_out_diversity": 1.6, "held_out_copies": 0.0, "held_out_count": 25,
            "num_samples": 16, "held_out_speckle": 0.99, "held_out_radial_db": 0.4, "held_out_doppler_db": 0.3}


def with_figures(**other) -> dict:
    """The arguments of write_run for a run whose milestones have these figures, and those of HELD_OUT."""
    return {"milestone": lambda step: {**HELD_OUT, **other}}


def test_near_copies_are_judged_by_the_share_of_held_out_images_that_look_like_some(tmp_path):
    """Rotors of drones repeat themselves: 23 % of held-out images count as near-copies."""
    assert "memorising" in findings(tmp_path / "a", milestone=lambda step: {"copies": 0.25})
    assert findings(tmp_path / "b", **with_figures(copies=0.25, held_out_copies=0.23)) == {}
    found = findings(tmp_path / "c", **with_figures(copies=0.4, held_out_copies=0.23))["memorising"]
    assert "40% of the samples" in found.seen and "at most 33%, held-out real images 23%" in found.seen


def test_diversity_is_judged_by_that_of_held_out_images(tmp_path):
    """The network knows the training images by heart: their features lie close together, and 1 is too little."""
    assert findings(tmp_path / "a", milestone=lambda step: {"diversity": 0.7}) == {}
    found = findings(tmp_path / "b", **with_figures(diversity=0.7))["collapsing"]
    assert "0.70 times" in found.seen and "at least 0.80, held-out real images 1.60" in found.seen


def test_nobody_is_to_be_recognised_more_often_than_held_out_images_are(tmp_path):
    assert findings(tmp_path / "a", **with_figures(recognised=0.4, held_out_recognised=0.38)) == {}
    found = findings(tmp_path / "b", **with_figures(recognised=0.3, held_out_recognised=0.38))
    assert "expected 38% or more, held-out real images 38%" in found["users not distinguishable"].seen


def test_the_vae_and_the_diffusion_model_are_blamed_for_their_own_blur(tmp_path, capsys):
    blur = {"radial_db": 5.6, "doppler_db": 7.5}
    found = findings(tmp_path / "vae", **with_figures(speckle=0.74, speckle_of_vae=0.76, **blur))
    assert set(found) == {"the VAE blurs"} and "0.76 times" in found["the VAE blurs"].seen
    remedy = found["the VAE blurs"].remedy
    assert "--finetune_decoder" in remedy and "price" in remedy
    assert "train longer (" not in remedy
    monitor_training.main(Config(results_folder=tmp_path / "vae"))
    printed = capsys.readouterr().out
    assert "THE VAE BLURS" in printed and "all is well" not in printed
    assert "0.74 (1 = as theirs), spectra off by 5.6 dB (radial) and 7.5 dB (Doppler); these after" in printed
    assert "to reach: speckle contrast 0.99 (1 = as theirs), spectra off by 0.4 dB (radial) and 0.3 dB" in printed
    early = findings(tmp_path / "early", **with_figures(speckle_of_vae=0.5), steps=2000)
    assert set(early) == {"the VAE blurs"}      # before the whole training is spent on it
    own = findings(tmp_path / "own", **with_figures(speckle=0.7, speckle_of_vae=0.98, **blur))
    assert set(own) == {"blurred samples"} and "VAE" not in own["blurred samples"].remedy
    both = findings(tmp_path / "both", **with_figures(speckle=0.5, speckle_of_vae=0.7, **blur))
    assert set(both) == {"the VAE blurs", "blurred samples"}


def test_a_vae_that_makes_flat_images_is_blamed_and_not_the_diffusion_model(tmp_path):
    found = findings(tmp_path, **with_figures(speckle=0.0, speckle_of_vae=0.0))
    assert set(found) == {"the VAE blurs"} and "0.00 times" in found["the VAE blurs"].seen


def test_a_grid_is_told_by_the_spectra_where_the_contrast_is_right(tmp_path):
    assert findings(tmp_path / "real", **with_figures(speckle=0.97, radial_db=1.8, doppler_db=0.6)) == {}
    found = findings(tmp_path / "grid", **with_figures(speckle=1.02, radial_db=2.4, doppler_db=0.6))
    assert set(found) == {"wrong texture"} and "test_vae_range.py" in found["wrong texture"].remedy
    assert "radial spectrum lies 2.4 dB" in found["wrong texture"].seen and "Doppler" not in found["wrong texture"].seen
    assert "at most 1.9 dB, held-out real images 0.4" in found["wrong texture"].seen


def test_more_sampling_steps_are_advised_only_where_they_are_too_few(tmp_path):
    for value in (0.5, 1.8):
        blurred = dict(milestone=lambda step, value=value: {"speckle": value})
        assert "sampling_timesteps" not in remedies(tmp_path, **blurred, sampling_timesteps=20)
        assert "sampling_timesteps 20 (now 10)" in remedies(tmp_path, **blurred, sampling_timesteps=10)
        assert "sampling_timesteps" not in remedies(tmp_path, **blurred, sampling_timesteps=10, sampler="ddpm")


def test_users_that_look_alike_are_no_reason_for_an_earlier_milestone(tmp_path):
    """They are told apart the better the longer training goes on, although one milestone may have been luckier."""
    run = dict(milestone=lambda step: {"recognised": 0.8 if step <= 40000 else 0.3})
    remedy = findings(tmp_path, **run)["users not distinguishable"].remedy
    assert remedy.startswith("train longer") and "earlier milestone" not in remedy


def test_advice_tells_its_price(tmp_path):
    remedy = findings(tmp_path, **with_figures(copies=0.4))["memorising"].remedy
    assert "images_per_user_train); the price: a new split, VAE and training" in remedy


def test_figures_say_of_how_many_samples_they_are_and_what_real_images_have(tmp_path, capsys):
    write_run(tmp_path, **with_figures(diversity=0.7))
    monitor_training.main(Config(results_folder=tmp_path))
    printed = capsys.readouterr().out
    assert "16 samples, ± 12 points in a share: 90% recognised" in printed
    assert "25 held-out real images, ± 10 points in a share, the values to reach: 90% recognised" in printed
    assert "diversity 1.60" in printed
    assert "milestones of 16 samples, ± 12 points" in " ".join(printed.split())
    write_run(tmp_path, **with_figures(held_out_diversity=None))        # one pass of each user in the validation part
    assert "90% recognised as their user, diversity unknown" in read_run(tmp_path)[2]
    write_run(tmp_path, milestone=lambda step: {"num_samples": 16})
    assert "the values to reach are unknown: the split has no validation part" in read_run(tmp_path)[2]


def test_runs_of_earlier_versions_are_read_without_the_figures_they_lack(tmp_path):
    text = read_run(write_run(tmp_path))[2]
    assert "recognised" in text and not {"held-out", "values to reach", "points in"} & set(text.split())
    older = dict.fromkeys(("speckle", "speckle_of_vae", "radial_db", "doppler_db"))
    assert "texture" not in read_run(write_run(tmp_path / "older", milestone=lambda step: older))[2]
    assert "values to reach" not in text and "all is well" in text
    plot(read_metrics(tmp_path / "metrics.jsonl"), read_settings(tmp_path / "config.json"))


def test_the_plot_draws_what_held_out_images_have(tmp_path):
    folder = write_run(tmp_path, **with_figures(held_out_copies=0.2))
    metrics = read_metrics(folder / "metrics.jsonl")
    axis = plot(metrics, read_settings(folder / "config.json")).axes[-1]
    dashed = sorted({float(line.get_ydata()[0]) for line in axis.lines if line.get_linestyle() == "--"})
    assert dashed == pytest.approx([0.2, 0.9, 0.99, 1, 1.6]) and "held-out" in axis.get_title()
    assert np.isfinite(metrics.milestones["speckle_of_vae"]).all()
    assert json.loads((folder / "config.json").read_text())["num_samples"] == 16
