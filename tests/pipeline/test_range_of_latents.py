"""Step 1: the verdict on a VAE."""
import pytest
import torch

from microdoppler.pipeline.vae_range import judge, report, time_mean_mse
from train_latent_cfg import Config

RANGES = {"shape": [1, 4, 8, 8], "psnr_db": 20.0} | {
    f"{prefix}{name}": [value] * 4 if prefix else value
    for prefix in ("", "channel_") for name, value in (("min", -1.0), ("max", 1.0), ("mean", 0.0), ("std", 0.2))}


def test_an_image_at_its_mean_over_time_has_this_error():
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = images.float() / 255
    expected = (pixels - pixels.mean(-1, keepdim=True)).square().mean().item()
    assert time_mean_mse(images) == pytest.approx(expected)


@pytest.mark.parametrize("mse, time_mean, verdict", [
    (0.009, 0.044, "good"), (0.018, 0.044, "acceptable"), (0.045, 0.2, "acceptable"), (0.051, 0.2, "poor"),
    (0.03, 0.044, "poor"), (0.045, 0.044, "poor"),      # close to an image without movement, or worse
    (0.004, 0.003, "poor")])                            # nearly black images
def test_a_vae_that_is_not_clearly_better_than_no_movement_is_poor(mse, time_mean, verdict):
    quality = RANGES | {"mse": mse, "time_mean_mse": time_mean, "sharpness": 0.55}
    quality |= judge(quality)
    lines = report(quality, Config()).splitlines()
    assert quality["verdict"] == verdict
    last = len(lines) - 1 - (verdict == "poor")
    assert f"{verdict} (< 0.01 good, < 0.05 acceptable)" in lines[last - 2]
    assert f"without movement: MSE {time_mean:.5f}" in lines[last - 1]
    assert "sharpness: 0.55 times that of the images; below 0.75 the VAE blurs" in lines[last]
    assert ("docs/own_vae.md" in lines[-1]) == (verdict == "poor")
