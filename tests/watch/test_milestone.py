"""The samples of a milestone: other noise each time, one of the same, and figures beside those of real images."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from microdoppler.data.latents import LatentCache, LatentScaling
from microdoppler.fidelity.texture import compare_texture, speckle_contrast
from microdoppler.study.arms import ImageSet
from microdoppler.watch.milestone import MilestoneWatcher

SIZE = 8


def blurred(images, seeds=None):
    """Half of the contrast between neighbours: each pixel of (n, c, s, s) at the mean of itself and the image."""
    return 0.5 * images + 0.5 * images.mean(dim=(2, 3), keepdim=True)


class Noise:
    """A diffusion model whose samples are the noise that it is given."""
    device = torch.device("cpu")

    def sample(self, classes, *, generators, **guidance):
        return torch.stack([torch.rand(1, SIZE, SIZE, generator=one) for one in generators])

    def random_loss_inputs(self, shape, generator):
        return {"drop_mask": torch.zeros(shape[0])}

    def __call__(self, x, *, classes, **draws):
        return torch.tensor(1.0)


def held_out():
    """Real images of three of the four users."""
    images = torch.randint(0, 256, (30, 1, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return ImageSet(images, torch.arange(30) % 3)


@pytest.fixture
def watcher():
    """Latents are images, and the VAE halves their contrast."""
    windows = torch.rand(40, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    posteriors = torch.stack([windows, torch.zeros_like(windows)], dim=1).numpy()
    cache = LatentCache(posteriors, torch.arange(40) % 4, 1.0)
    evaluator = SimpleNamespace(evaluate=lambda images: {"copies": float(len(images.labels))},
                                yardstick=lambda labels: {"copies": 0.23, "diversity": float("nan")})
    return MilestoneWatcher(Noise(), SimpleNamespace(decode_latents=blurred), cache, LatentScaling.identity(1),
                            lambda indices: (windows[indices] * 255).round().byte(), held_out(), evaluator,
                            num_samples=16, guidance={}, seed=3)


def test_each_milestone_has_noise_of_its_own_but_for_one_sample_of_each_user(watcher):
    (first, latents, _), (second, _, _), (again, _, _) = map(watcher.evaluate, (100, 200, 100))
    assert list(first) == [0, 1, 2, 3] and all(len(images) == 5 for images in first.values())
    for label in first:
        assert (first[label][0] == second[label][0]).all() and (first[label] == again[label]).all()
        assert not any((one == other).all() for one in first[label][1:] for other in second[label])
    assert len(latents) == 16       # those that the figures are of


def test_texture_beside_training_images_before_the_vae_and_after_it(watcher):
    shown, latents, metrics = watcher.evaluate(100)
    samples = torch.cat([images[1:] for images in shown.values()])
    windows = watcher.windows(watcher._training_indices())
    expected = compare_texture(samples, windows)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    before, after = (speckle_contrast(images).mean().item()
                     for images in (windows, (blurred(windows / 255) * 255).byte()))
    assert metrics["speckle_of_vae"] == pytest.approx(after / before, rel=0.01)


def test_texture_of_as_many_held_out_images_of_each_user(watcher):
    real = held_out()
    chosen = [(real.labels == user).nonzero()[[0, 3, 6, 9], 0] for user in range(3)]
    expected = compare_texture(real.images[torch.cat(chosen)], watcher.windows(watcher._training_indices()))
    _, _, metrics = watcher.evaluate(100)
    assert {name: metrics[f"held_out_{name}"] for name in expected} == pytest.approx(expected)
    watcher.held_out, watcher.__dict__["_yardstick"] = None, {}
    assert not any("held_out" in name for name in watcher.evaluate(100)[2])


def test_the_figures_have_their_number_and_those_of_held_out_images(watcher):
    _, _, metrics = watcher.evaluate(100)
    assert metrics["num_samples"] == metrics["copies"] == 16
    assert metrics["held_out_copies"] == 0.23 and np.isnan(metrics["held_out_diversity"])
