"""Cheap figures of synthetic images, in the features of the evaluation classifier."""
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from microdoppler.fidelity.distributions import diversity_ratio
from microdoppler.study.arms import ImageSet
from microdoppler.study.classifier import features, predict
from microdoppler.study.selection import closest_training, resize


@dataclass(frozen=True, eq=False)
class SampleEvaluator:
    """classifier: the evaluation classifier, a ResNet18 trained on real training images only; training: those images,
    at the size that it works at."""
    classifier: nn.Module
    training: ImageSet

    def features(self, images: Tensor) -> np.ndarray:
        """(n, 3, s, s) uint8 → (n, 512) float32."""
        return features(self.classifier, resize(images, self.training.images.shape[-1])).numpy()

    def probabilities(self, images: Tensor) -> Tensor:
        """(n, 3, s, s) uint8 → (n, users) float32."""
        return predict(self.classifier, resize(images, self.training.images.shape[-1]))

    @cached_property
    def training_features(self) -> np.ndarray:
        return self.features(self.training.images)

    def evaluate(self, images: ImageSet) -> dict[str, float]:
        """recognised: the share taken for the user they were drawn for; diversity: their mean distance within a user by
        that of training images, 1 is right; copies: the share of near-copies of training images."""
        found, ratios = self.features(images.images), []
        for label in images.labels.unique():
            ratios.append(diversity_ratio(self.training_features[self.training.labels == label],
                                          found[images.labels == label]))
        known = [ratio for ratio in ratios if math.isfinite(ratio)]
        return {"recognised": (self.probabilities(images.images).argmax(dim=1) == images.labels).float().mean().item(),
                "diversity": float(np.mean(known)) if known else math.nan,
                "copies": closest_training(images, self.training).is_copy.float().mean().item()}


def halves_by_pass(passes: list[str], labels: Tensor) -> Tensor:
    """(n,) bool: images of every other pass of each user, in the order in which these come up."""
    of_user: dict[int, dict[str, int]] = {}
    numbers = [of_user.setdefault(label, {}).setdefault(name, len(of_user[label]))
               for name, label in zip(passes, labels.tolist())]
    return torch.tensor([number % 2 == 0 for number in numbers])
