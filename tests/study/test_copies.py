"""Near-copies of training images are found also when a VAE has blurred them; images that are none are not."""
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from groundwork.images import load_images
from microdoppler.data.spectrograms import paths_and_labels
from microdoppler.data.split_file import SplitOptions, open_split
from microdoppler.data.stitching import Cut, load_cuts
from microdoppler.simulate.dataset import simulate_dataset
from microdoppler.study.arms import ImageSet
from microdoppler.study.copies import CopyDetector

SIZE = 64


def blurred(images, seed=0):
    """What takes the place of a VAE: half the resolution, and a little noise of its own."""
    noise = 4 * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    small = F.avg_pool2d(images.float(), 2)
    return (F.interpolate(small, size=SIZE, mode="bilinear") + noise).round().clamp(0, 255).byte()


@pytest.fixture(scope="module")
def walkers(tmp_path_factory):
    """{part: images} of three simulated persons: training, validation and test windows, and cuts of training windows
    at other times and Doppler shifts than those of the recordings."""
    folder = tmp_path_factory.mktemp("walkers")
    simulate_dataset(folder / "data", 3, 90, SIZE)
    opened = open_split(folder / "split.json", folder / "data", SplitOptions(images_per_user_train=40))
    split = opened.split

    def load(images):
        paths, labels = paths_and_labels(images)
        return ImageSet(load_images(folder / "data", paths, SIZE), labels)
    train, labels = paths_and_labels(split.train_images)
    cuts = [Cut(path, opened.overlaps.successor_of.get(path), 0.5 if path in opened.overlaps.successor_of else 0.0,
                0.03 * (-1) ** i) for i, path in enumerate(train)]
    return {"training": load(split.train_images), "validation": load(split.validation_images),
            "test": load(split.test_images), "cuts": ImageSet(load_cuts(folder / "data", cuts, SIZE), labels)}


def through(part, seed=0):
    return ImageSet(blurred(part.images, seed), part.labels)


@pytest.fixture(scope="module")
def detector(walkers):
    return CopyDetector.calibrated(*(through(walkers[name]) for name in ("training", "cuts", "validation", "test")))


def share(detector, images):
    return detector.nearest(images).is_copy.float().mean().item()


def test_training_images_through_the_vae_are_found_and_held_out_ones_are_not(walkers, detector):
    assert share(detector, through(walkers["training"], seed=5)) >= 0.99
    assert share(detector, through(walkers["test"], seed=5)) == 0


def test_compared_with_the_images_themselves_copies_look_new(walkers):
    """As it was: the bar of unblurred images is out of reach for images that a VAE has blurred."""
    heavily = ImageSet(blurred(blurred(blurred(walkers["training"].images))), walkers["training"].labels)
    assert share(CopyDetector(walkers["training"]), heavily) < 0.5


@pytest.mark.parametrize("planted", [0.25, 0.5])
def test_a_planted_share_of_copies_comes_out(walkers, detector, planted):
    """Copies at other times and Doppler shifts than the windows, among held-out images, all through the VAE."""
    cuts, test = through(walkers["cuts"], seed=7), through(walkers["test"], seed=7)
    copies = torch.arange(0, len(cuts.labels), 3)
    others = torch.linspace(0, len(test.labels) - 1, round(len(copies) * (1 - planted) / planted)).round().long()
    images = ImageSet(torch.cat([cuts.images[copies], test.images[others]]),
                      torch.cat([cuts.labels[copies], test.labels[others]]))
    assert share(detector, images) == pytest.approx(planted, abs=0.01)


def test_the_distance_is_0_where_copies_begin_and_1_for_other_images(walkers, detector):
    assert detector.nearest(through(walkers["test"], seed=5)).distance.median().item() == pytest.approx(1, abs=0.25)
    assert detector.nearest(through(walkers["training"], seed=5)).distance.max() < 0


def test_held_out_images_are_taken_as_the_vae_gives_them_back_where_it_is_known(walkers, detector):
    test = walkers["test"]
    found = detector.nearest_of_held_out(test).correlation
    assert torch.equal(found, detector.nearest(through(test)).correlation)
    raw = detector.nearest(test).correlation
    assert not torch.equal(found, raw)
    assert torch.equal(replace(detector, held_out=None).nearest_of_held_out(test).correlation, raw)


def test_each_bar_lies_between_copies_and_others_and_finds_the_copies_where_these_overlap(walkers):
    windows, cuts, new = (through(walkers[name]) for name in ("training", "cuts", "validation"))
    copies, others = (CopyDetector(windows).nearest(part).correlation for part in (cuts, new))
    none = ImageSet(cuts.images[:0], cuts.labels[:0])
    between, alike, unknown = (CopyDetector.calibrated(windows, cuts, part, none) for part in (new, cuts, none))
    for label in range(3):
        own, of_new = copies[cuts.labels == label], others[new.labels == label]
        scale = between.scales[label]
        assert of_new.max() < scale.bar < own.min() and scale.usual == pytest.approx(of_new.median().item())
        for bar in (alike.scales[label].bar, unknown.scales[label].bar):
            assert (own >= bar).float().mean() >= 0.99
    assert alike.nearest(cuts).distance.isfinite().all() and unknown.nearest(cuts).distance.isfinite().all()
