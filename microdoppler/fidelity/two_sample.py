"""Classifier two-sample test: how well can a network that is trained for it tell two sets of images apart?

Lopez-Paz & Oquab 2017. The figure is the area under the ROC curve (AUC): 0.5 if the sets have the same distribution, 1
if every image is told. The test is cross-validated by pass, since overlapping windows must not stand on both sides.
"""
from dataclasses import dataclass
from functools import cached_property
from typing import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock
from torchvision.ops import Conv2dNormActivation

from groundwork.progress import Progress
from groundwork.seeding import derive_seed, seeded
from microdoppler.fidelity.yardsticks import mean_of_known
from microdoppler.study.arms import ImageSet
from microdoppler.study.classifier import index_batches, predict, train_classifier

NUM_FOLDS = 3
EPOCHS, MAX_STEPS = 20, 100     # of a fold: by MAX_STEPS, sets that a blur of 0.4 px tells apart have an AUC of 1
BATCH_SIZE = 32
LR = 3e-3
CROP = 64                       # pixels: of larger images, it is trained on crops, and tested on the whole
WIDTHS = (16, 32, 64)           # channels of the stages: the smallest of He et al. 2016, section 4.2


@dataclass(frozen=True, eq=False)
class TwoSample:
    """The result: the AUC of each fold, (NUM_FOLDS,), NaN where a fold has too few images or passes."""
    aucs: np.ndarray

    @cached_property
    def auc(self) -> float:
        """The mean over folds."""
        return mean_of_known(self.aucs)

    @cached_property
    def spread(self) -> float:
        """The standard deviation over folds; NaN for fewer than two."""
        known = self.aucs[np.isfinite(self.aucs)]
        return float(known.std(ddof=1)) if len(known) > 1 else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """What counts as equal when this is the test of real images against real ones: values as far from 0.5 as its
        own, plus two standard deviations. NaN where it is unknown."""
        margin = abs(self.auc - 0.5) + 2 * self.spread
        return float(np.clip(0.5 - margin, 0, 1)), float(np.clip(0.5 + margin, 0, 1))


class SmallResNet:
    """A ResNet of three blocks for images of any size; its first convolution halves them, which keeps it cheap."""

    def build(self, num_classes: int) -> nn.Module:
        """The untrained network: images (n, 3, h, w) → logits (n, num_classes)."""
        layers: list[nn.Module] = [Conv2dNormActivation(3, WIDTHS[0], stride=2)]
        for before, after in zip((WIDTHS[0], *WIDTHS), WIDTHS):
            shortcut = Conv2dNormActivation(before, after, 1, stride=2, activation_layer=None)
            layers.append(BasicBlock(before, after) if before == after else BasicBlock(before, after, 2, shortcut))
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], num_classes))


def two_sample_test(first: ImageSet, first_groups: Sequence[str], second: ImageSet, second_groups: Sequence[str], *,
                    device: torch.device, label: str, seed: int = 0) -> TwoSample:
    """Test whether a small ResNet tells the images of two sets apart.

    The images have one size. labels: their users: in each part of each fold, both sets have the same number of images
    of each user, so that no user gives a set away. first_groups, second_groups: the pass that each image comes from; a
    group stays together in one fold, also one that both sets have, such as an image and its reconstruction. label: of
    the progress bar. All that is random follows from the seed.
    """
    fold_of = _deal([first.labels, second.labels], [first_groups, second_groups], np.random.default_rng(seed))
    aucs = np.full(NUM_FOLDS, np.nan)
    for fold in Progress(range(NUM_FOLDS), desc=label, unit="fold", delay=1, leave=False):
        rng = np.random.default_rng([seed, fold])
        training, test = ([*map(torch.from_numpy, _balanced([first.labels, second.labels], where, rng))] for where in (
            [own != fold for own in fold_of], [own == fold for own in fold_of]))
        if len(training[0]) and len(test[0]):
            model = _train([first.images[training[0]], second.images[training[1]]], derive_seed(seed, fold), device)
            scores = [predict(model, own.images[chosen])[:, 1].numpy() for own, chosen in zip((first, second), test)]
            aucs[fold] = roc_auc_score(np.repeat([0, 1], [*map(len, test)]), np.concatenate(scores))
    return TwoSample(aucs)


def _deal(labels: Sequence[Tensor], groups: Sequence[Sequence[str]], rng: np.random.Generator) -> list[np.ndarray]:
    """The fold of each image of both sets. Each user's groups are dealt in turn, in random order, from the same fold on
    in both sets, so that both have images of the user in it; the next user begins at the next fold."""
    fold_of: dict[str, int] = {}
    for of_set, own_groups in zip(labels, groups):
        for user in of_set.unique().tolist():
            own = sorted({group for group, label in zip(own_groups, of_set.tolist()) if label == user} - fold_of.keys())
            fold_of |= {own[at]: (user + turn) % NUM_FOLDS for turn, at in enumerate(rng.permutation(len(own)))}
    return [np.array([fold_of[group] for group in own]) for own in groups]


def _balanced(labels: Sequence[Tensor], where: Sequence[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Indices of as many images of each user in both sets, at random among those that `where` (n,) bool allows."""
    chosen: list[list[np.ndarray]] = [[], []]
    for user in labels[0].unique().numpy():
        own = [np.flatnonzero((of_set.numpy() == user) & allowed) for of_set, allowed in zip(labels, where)]
        count = min(map(len, own))
        for part, candidates in zip(chosen, own):
            part.append(rng.choice(candidates, count, replace=False))
    return [np.concatenate(part) for part in chosen]


def _train(sets: Sequence[Tensor], seed: int, device: torch.device) -> nn.Module:
    """A network trained to tell the images (n, c, s, s) uint8 of two sets apart: class 0 and class 1."""
    images = torch.cat(list(sets))
    targets = F.one_hot(torch.arange(2).repeat_interleave(torch.tensor([*map(len, sets)])), 2).float()
    num_steps = min(MAX_STEPS, -(-EPOCHS * len(images) // BATCH_SIZE))
    generator = seeded(seed)
    size = min(CROP, images.shape[-1])

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in index_batches(len(images), [min(BATCH_SIZE, len(images))] * num_steps, generator):
            top, left = torch.randint(images.shape[-1] - size + 1, (2,), generator=generator).tolist()
            yield images[chosen, :, top:top + size, left:left + size], targets[chosen]
    return train_classifier(batches(), network=SmallResNet(), num_classes=2, num_steps=num_steps, lr=LR, seed=seed,
                            device=device)
