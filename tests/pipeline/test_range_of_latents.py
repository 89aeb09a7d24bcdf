"""Step 1: structure and texture of a VAE's reconstructions, judged apart."""
import math

import pytest
import torch
import torch.nn.functional as F

from groundwork.files import read_json
from microdoppler.fidelity.texture import compare_texture
from microdoppler.pipeline.vae_range import LOW_PASS, report, structure_errors, structure_verdict, texture_verdict
from train_latent_cfg import Config

RANGES = {"shape": [1, 4, 8, 8], "mse": 0.02, "psnr_db": 17.0, "auto_normalize": False} | {
    f"{prefix}{name}": [value] * 4 if prefix else value
    for prefix in ("", "channel_") for name, value in (("min", -1.0), ("max", 1.0), ("mean", 0.0), ("std", 0.2))}
REAL = {"speckle": 0.98, "radial_db": 0.4, "doppler_db": 0.3, "two_sample": 0.55, "two_sample_spread": 0.05}


def test_an_image_at_its_mean_over_time_has_the_error_without_movement():
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    still = images.float().mean(-1, keepdim=True).expand(-1, -1, -1, 16).round().byte()
    errors = structure_errors(images, still)
    assert errors["structure_mse"] == pytest.approx(errors["time_mean_mse"], rel=0.02)
    low = (images.float() / 255).unfold(2, LOW_PASS, LOW_PASS).unfold(3, LOW_PASS, LOW_PASS).mean(dim=(-1, -2))
    assert errors["time_mean_mse"] == pytest.approx((low - low.mean(-1, keepdim=True)).square().mean().item(), rel=1e-4)


@pytest.mark.parametrize("mse, time_mean, verdict", [
    (0.0, 0.02, "good"), (0.0059, 0.02, "good"), (0.0061, 0.02, "acceptable"), (0.01, 0.02, "acceptable"),
    (0.0101, 0.02, "poor"), (0.0004, 0.0003, "poor"), (0.0, 0.0, "good"), (0.001, 0.0, "poor")])
def test_a_vae_that_is_not_clearly_better_than_no_movement_is_poor(mse, time_mean, verdict):
    assert structure_verdict(mse, time_mean) == verdict


@pytest.mark.parametrize("changed, verdict", [
    ({}, "as real images"), ({"speckle": 0.76, "radial_db": 5.5}, "blurred"), ({"speckle": 1.3}, "noisy"),
    ({"doppler_db": 1.7}, "as real images"), ({"doppler_db": 1.9}, "unlike real images")])
def test_texture_is_judged_beside_that_of_held_out_images(changed, verdict):
    assert texture_verdict(REAL | changed, REAL) == verdict


def speckled(walk: torch.Tensor, seed: int) -> torch.Tensor:
    """Images of the same walk (n, 3, s, s) with other speckle each time, of 16 looks."""
    looks = torch.distributions.Gamma(16.0, 16.0)
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed)
        return (walk * looks.sample(walk.shape)).clamp(0, 255).byte()


def test_sharpness_is_not_punished():
    """Two VAEs that keep the walk: one averages the speckle away, the other makes new speckle. The second has a larger
    error per pixel. Both keep the structure, and only the first is blurred."""
    height = 32 + 12 * torch.sin(torch.arange(64) / 5)
    walk = (200 * torch.exp(-((torch.arange(64)[:, None] - height) / 6) ** 2)).expand(8, 3, 64, 64)
    images, smooth, sharp = speckled(walk, 0), walk.byte(), speckled(walk, 1)
    errors = [F.mse_loss(made.float(), images.float()).item() for made in (smooth, sharp)]
    assert errors[1] == pytest.approx(2 * errors[0], rel=0.1)
    assert {structure_verdict(**structure_errors(images, made)) for made in (smooth, sharp)} == {"good"}
    held_out = compare_texture(speckled(walk, 2), images)
    assert [texture_verdict(compare_texture(made, images), held_out) for made in (smooth, sharp)] == [
        "blurred", "as real images"]
    other_walk = speckled(walk.roll(12, dims=2), 3)
    assert structure_verdict(**structure_errors(images, other_walk)) == "poor"
    assert texture_verdict(compare_texture(other_walk, images), held_out) == "as real images"


def test_the_report_has_the_yardstick_and_what_to_do():
    blurred = REAL | {"speckle": 0.76, "two_sample": 1.0, "two_sample_spread": 0.0}
    quality = RANGES | {"structure_mse": 0.0013, "time_mean_mse": 0.0116, "verdict": "good",
                        "texture_verdict": "blurred", "texture": blurred, "held_out": REAL}
    structure, texture, held_out, remedy = report(quality, Config()).splitlines()[-4:]
    assert "0.11 times that without movement: good (up to 0.3 good, up to 0.5 acceptable)" in structure
    assert "PSNR 17.0 dB" in structure and "(Doppler): blurred, and so are all" in texture
    assert texture.endswith("; two-sample AUC 1.00 ± 0.00 (0.5 = cannot be told apart)")
    assert "--finetune_decoder" in remedy
    assert "the values to reach: speckle contrast 0.98" in held_out and "two-sample AUC 0.55 ± 0.05" in held_out
    lines = report(quality | {"verdict": "poor", "held_out": {}}, Config()).splitlines()
    assert "unknown, the split has no validation part" in lines[-2] and "docs/own_vae.md" in lines[-1]
    told = report(quality | {"texture_verdict": "as real images", "held_out": REAL | {"two_sample_spread": math.nan}},
                  Config()).splitlines()[-2:]
    assert "): as real images; two-sample AUC 1.00" in told[0] and "AUC 0.55 ± ? (" in told[1]


def test_what_a_run_stores(demo):
    stored = read_json(demo[0] / "results" / "vae_range.json")
    assert stored["texture"].keys() == REAL.keys() and stored["held_out"].keys() <= REAL.keys()
    assert 0 < stored["structure_mse"] < stored["mse"] and stored["verdict"] in ("good", "acceptable", "poor")
    assert "texture: speckle contrast" in demo[1]
