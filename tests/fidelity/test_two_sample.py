"""The two-sample test: AUC about 0.5 for equal distributions, near 1 for blurred images, and passes that stay apart."""
import numpy as np
import pytest
import torch

from microdoppler.fidelity import two_sample
from microdoppler.fidelity.two_sample import TwoSample, two_sample_test
from microdoppler.study.arms import ImageSet

CPU = torch.device("cpu")


def noise(count: int, seed: int, users: int = 2) -> ImageSet:
    """White noise in grey, 32 px."""
    images = torch.randint(0, 256, (count, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return ImageSet(images, torch.arange(count) % users)


def test_equal_distributions_cannot_be_told_and_a_slight_blur_can(monkeypatch):
    monkeypatch.setattr(two_sample, "MAX_STEPS", 40)
    first, same = noise(60, 0), noise(60, 1)
    smooth = torch.nn.functional.avg_pool2d(same.images.float(), 3, stride=1, padding=1)
    blurred = ImageSet((0.7 * same.images + 0.3 * smooth).byte(), same.labels)
    names = [[f"{name} {i}" for i in range(60)] for name in "ab"]
    equal, told = (two_sample_test(first, names[0], other, names[1], device=CPU, label="") for other in (same, blurred))
    assert equal.auc == pytest.approx(0.5, abs=0.15) and told.auc > 0.95
    assert equal.interval[0] <= 0.5 <= equal.interval[1] < told.auc


def test_windows_of_one_pass_are_never_on_both_sides_and_each_user_counts_the_same_in_both(monkeypatch):
    """The images hold their own number, so that what is trained on and what is tested on can be seen."""
    def numbered(start: int, labels: torch.Tensor) -> ImageSet:
        return ImageSet((start + torch.arange(len(labels))).byte()[:, None, None, None].expand(-1, 1, 4, 4), labels)
    first, second = numbered(0, torch.arange(60) % 3), numbered(100, torch.arange(36) % 3)
    passes = [f"user {i % 3} pass {i // 12}" for i in range(60)], [f"user {i % 3} other {i // 9}" for i in range(36)]
    passes[1][:3] = passes[0][:3]           # one pass of each user is in both sets
    group_of = dict(enumerate(passes[0])) | {100 + i: name for i, name in enumerate(passes[1])}
    seen = []

    def numbers(images: torch.Tensor) -> list[int]:
        return images[:, 0, 0, 0].tolist()
    monkeypatch.setattr(two_sample, "_train", lambda sets, seed, device: seen.append([*map(numbers, sets)]))
    monkeypatch.setattr(two_sample, "predict", lambda model, images: (
        seen[-1].append(numbers(images)), torch.rand(len(images), 2))[1])
    two_sample_test(first, passes[0], second, passes[1], device=CPU, label="")
    for training_first, training_second, test_first, test_second in seen:
        trained_on = {group_of[i] for i in training_first + training_second}
        assert trained_on.isdisjoint(group_of[i] for i in test_first + test_second)
        for one, other in ((training_first, training_second), (test_first, test_second)):
            assert one and all(sum(i % 3 == user for i in one) == sum((i - 100) % 3 == user for i in other)
                               for user in range(3))
    assert len(seen) == two_sample.NUM_FOLDS


def test_too_few_passes_leave_it_unknown():
    first, second = noise(8, 0), noise(8, 1)
    alone = two_sample_test(first, ["one"] * 8, second, [f"image {i}" for i in range(8)], device=CPU, label="")
    assert np.isnan(alone.auc) and np.isnan(alone.spread) and np.isnan(alone.interval).all()


def test_the_interval_is_as_far_from_one_half_as_the_value_and_its_spread():
    assert TwoSample(np.array([0.5, 0.6, 0.7])).interval == pytest.approx((0.2, 0.8))
    assert TwoSample(np.array([0.2, 0.2, np.nan])).interval == pytest.approx((0.2, 0.8))
    assert TwoSample(np.array([1.0, 0.8, 0.9])).interval == (0, 1)
