"""Arms: which images they draw, how many, in which order, and what MixUp and CutMix make of them."""
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from microdoppler.study.arms import Arm, ImageSet, arms_of
from microdoppler.study.augmentation import cut_mix, mix_up
from microdoppler.study.kinds import CUTS, CUTS_THROUGH_VAE, KINDS, SELECTED, SYNTHETIC
from microdoppler.study.recipe import Recipe

RECIPE = Recipe(epochs=3, batch_size=16, lr=1e-3)
REAL_ONLY, WITH_SYNTHETIC, SYNTHETIC_ONLY = KINDS["real only"], KINDS["real + synthetic"], KINDS["synthetic only"]


def numbered(first: int, count: int) -> ImageSet:
    """Images (count, 3, 8, 8) whose pixels all have the image's number: first, first + 1, …"""
    numbers = torch.arange(first, first + count, dtype=torch.uint8)
    return ImageSet(numbers[:, None, None, None].expand(-1, 3, 8, 8), torch.zeros(count, dtype=torch.int64))


def drawn(arm: Arm, recipe: Recipe = RECIPE, seed: int = 0) -> list[list[int]]:
    """The numbers of the images in each batch, without augmentation."""
    batches = list(arm.batches(recipe, 2, seed))
    assert all(len(images) == len(targets) == recipe.batch_size for images, targets in batches)
    return [images[:, 0, 0, 0].tolist() for images, _ in batches]


@pytest.mark.parametrize("shares, expected", [((0.5, 0.5), [8, 8, 8]), ((0, 0), [0, 0, 0]), ((1, 0), [16, 8, 0])])
@pytest.mark.parametrize("count", [3, 150])
@pytest.mark.parametrize("kind", ["real + synthetic", "real + cuts", "real + classical + synthetic"])
def test_the_share_of_added_images_does_not_depend_on_how_many_there_are(kind, count, shares, expected):
    arm = Arm(KINDS[kind], numbered(0, 16), numbered(100, count))
    found = drawn(arm, replace(RECIPE, synthetic_shares=shares))
    assert [sum(number >= 100 for number in batch) for batch in found] == expected


@pytest.mark.parametrize("mixing", ["shares", "concat"])
def test_real_only_and_synthetic_only_see_nothing_else(mixing):
    real, synthetic, recipe = numbered(0, 16), numbered(100, 20), replace(RECIPE, mixing=mixing)
    assert {number for batch in drawn(Arm(REAL_ONLY, real), recipe) for number in batch} == set(range(16))
    found = drawn(Arm(SYNTHETIC_ONLY, real, synthetic), recipe)
    assert {number for batch in found for number in batch} == set(range(100, 120)) and len(found) == 3


def test_concatenated_images_are_shuffled_as_one_set():
    """Each comes once before any comes again, and real ones are to be found in every batch."""
    arm = Arm(WITH_SYNTHETIC, numbered(0, 16), numbered(100, 48))
    found = drawn(arm, Recipe(epochs=5, batch_size=16, lr=1e-3, mixing="concat", budget="epochs"))
    assert len(found) == 5 * 4
    for epoch in range(5):
        assert Counter(number for batch in found[4 * epoch:4 * epoch + 4] for number in batch) == Counter(
            [*range(16), *range(100, 148)])
    shares = [np.mean([number >= 100 for number in batch]) for batch in found]
    assert 0.4 < min(shares) and max(shares) <= 1 and len(set(shares)) > 2


@pytest.mark.parametrize("mixing", ["shares", "concat"])
def test_equal_steps_or_equal_epochs(mixing):
    real, added = numbered(0, 20), numbered(100, 60)
    arms = [Arm(REAL_ONLY, real), Arm(WITH_SYNTHETIC, real, added), Arm(SYNTHETIC_ONLY, real, added)]

    def steps(budget):
        recipe = Recipe(epochs=10, batch_size=4, lr=1e-3, mixing=mixing, budget=budget)
        numbers = [arm.num_steps(recipe) for arm in arms]
        assert numbers == [len(drawn(arm, recipe)) for arm in arms]
        return numbers
    assert steps("steps") == [50, 50, 50]       # 10 x 20 images in batches of 4
    assert steps("epochs") == [50, 200, 150]


def test_there_is_always_a_step():
    assert Recipe(epochs=1, batch_size=4096, lr=1e-3).num_steps(3, 3) == 1


def test_arms_with_the_same_seed_differ_only_in_what_their_names_say():
    """Real images come in the same order whatever is added, and added images in the same order whatever they are."""
    real, recipe = numbered(0, 20), replace(RECIPE, synthetic_shares=(0.5, 0.5))
    synthetic, cuts = (drawn(Arm(KINDS[kind], real, numbered(100, 30)), recipe) for kind in ("real + synthetic",
                                                                                            "real + cuts"))
    assert synthetic == cuts

    def order(batches, is_added):
        return [number for batch in batches for number in batch if (number >= 100) == is_added]
    assert order(synthetic, False) == order(drawn(Arm(REAL_ONLY, real)), False)[:len(order(synthetic, False))]
    assert drawn(Arm(WITH_SYNTHETIC, real, numbered(100, 30)), recipe, seed=1) != synthetic


@pytest.mark.parametrize("kind", ["real + classical", "real + MixUp", "real + CutMix + synthetic"])
def test_batches_follow_from_the_seed_alone(kind):
    generator = torch.Generator().manual_seed(0)
    real = ImageSet(torch.randint(0, 256, (32, 3, 8, 8), dtype=torch.uint8, generator=generator), torch.arange(32) % 2)
    results = []
    for seed in (3, 3, 4):
        torch.rand(seed)        # another global state each time
        arm = Arm(KINDS[kind], real, real if KINDS[kind].added else None)
        results.append([torch.cat(parts) for parts in zip(*arm.batches(RECIPE, 2, seed))])
    for first, again, other in zip(*results):
        assert torch.equal(first, again) and not torch.equal(first, other)


def test_without_mixture_the_target_is_the_label():
    real = ImageSet(numbered(0, 32).images, torch.arange(32) % 3)
    for images, targets in Arm(REAL_ONLY, real).batches(RECIPE, 4, seed=0):
        assert torch.equal(targets, F.one_hot(images[:, 0, 0, 0].long() % 3, 4).float())


COUNT = 200


def one_class_each() -> tuple[torch.Tensor, torch.Tensor]:
    """COUNT images of one brightness each, and targets with a class for each image."""
    return torch.arange(COUNT, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 12, 20), torch.eye(COUNT)


def test_mixup_blends_images_and_targets_alike():
    """Brightness and target then have the same expectation; the shares are uniform (Zhang et al. 2018, eq. 1)."""
    images, targets = one_class_each()
    blended, soft = mix_up(images, targets, torch.Generator().manual_seed(0))
    assert blended.dtype == torch.uint8 and blended.shape == images.shape
    expected = soft @ torch.arange(COUNT).float()
    assert (blended.float() - expected[:, None, None, None]).abs().max() <= 0.51
    torch.testing.assert_close(soft.sum(1), torch.ones(COUNT))
    assert ((soft > 0).sum(1) <= 2).all() and (soft.diagonal() < 1).float().mean() > 0.95
    assert stats.kstest(soft.diagonal()[soft.diagonal() < 1].numpy(), "uniform").pvalue > 0.01


def test_cutmix_pastes_a_box_and_mixes_targets_by_its_area():
    images, targets = one_class_each()
    mixed, soft = cut_mix(images, targets, torch.Generator().manual_seed(0))
    assert mixed.dtype == torch.uint8 and mixed.shape == images.shape
    for number in range(COUNT):     # slow and obvious: count the pixels of each image that can be seen
        seen = np.bincount(mixed[number, 0].flatten().numpy(), minlength=COUNT)
        assert soft[number].numpy() == pytest.approx(seen / (12 * 20), abs=1e-6)
        foreign = mixed[number, 0] != number
        rows, columns = foreign.any(dim=1), foreign.any(dim=0)
        assert torch.equal(foreign, rows[:, None] & columns) and (mixed[number] == mixed[number, :1]).all()
        for line in (rows, columns):        # without a gap
            assert line.int().diff().clamp(min=0).sum() + line[0].int() <= 1


def test_cutmix_takes_the_boxes_of_its_paper():
    """The mean area that is pasted, against the paper's recipe with integer coordinates, one image after the other."""
    rng, areas = np.random.default_rng(0), []
    for _ in range(4000):
        lam = rng.uniform()
        width, height = 40 * np.sqrt(1 - lam), 60 * np.sqrt(1 - lam)
        x, y = rng.integers(40), rng.integers(60)
        left, right = np.clip([x - width // 2, x + width // 2], 0, 40)
        top, bottom = np.clip([y - height // 2, y + height // 2], 0, 60)
        areas.append((right - left) * (bottom - top) / (40 * 60))
    images = torch.zeros(4000, 1, 60, 40, dtype=torch.uint8)
    _, soft = cut_mix(images, torch.eye(4000), torch.Generator().manual_seed(1))
    found = 1 - soft.diagonal().numpy()
    assert np.mean(found) == pytest.approx(np.mean(areas), abs=0.02)
    assert np.std(found) == pytest.approx(np.std(areas), abs=0.02)


def test_every_kind_has_its_arms_and_only_those_that_are_asked_for_and_possible():
    real, images = numbered(0, 4), numbered(100, 4)
    sets = {SYNTHETIC: {"x": images, "y": images}, SELECTED: {"x": images}}
    everything = arms_of(real, {**sets, CUTS: {"": images}, CUTS_THROUGH_VAE: {"": images}})
    assert list(dict.fromkeys(arm.kind.name for arm in everything)) == list(KINDS)
    assert [arm.name for arm in everything if arm.kind.added == SELECTED] == [
        "real + selected: x", "real + classical + selected: x"]
    assert [arm.name for arm in arms_of(real, sets, ("classical",))] == [
        "real only", "real + classical", "real + synthetic: x", "real + synthetic: y",
        "real + classical + synthetic: x", "real + classical + synthetic: y", "synthetic only: x", "synthetic only: y",
        "real + selected: x", "real + classical + selected: x"]
    assert [arm.name for arm in arms_of(real, {}, ())] == ["real only"]


def test_the_table_of_arms_in_the_docs_is_that_of_the_code():
    page = (Path(__file__).parents[2] / "docs" / "study.md").read_text(encoding="utf-8")
    rows = page.partition("| arm | trained on | compared with |\n|---|---|---|\n")[2].partition("\n\n")[0]
    found = [tuple(cell.strip() for cell in row.split("|")[1:-1]) for row in rows.splitlines()]
    assert [(name, baselines) for name, _, baselines in found] == [
        (kind.name, ", ".join(kind.baselines)) for kind in KINDS.values()]


def test_few_epochs_are_warned_of():
    assert "classifier_epochs is 20" in replace(RECIPE, epochs=20).warning and not replace(RECIPE, epochs=21).warning
    assert replace(RECIPE, epochs=20).warning in replace(RECIPE, epochs=20).method(64)
