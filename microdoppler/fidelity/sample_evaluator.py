"""Quick metrics of synthetic images with the evaluation classifier, as each milestone of a training needs them."""
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from microdoppler.fidelity.distributions import diversity_ratio
from microdoppler.study.arms import ImageSet
from microdoppler.study.classifier import features, predict
from microdoppler.study.copies import CopyDetector, resize


@dataclass(frozen=True, eq=False)
class SampleEvaluator:
    """Evaluates synthetic images with the evaluation classifier, trained on real training images only.

    training: these training images, (n, 3 or 1, size, size) at the size that the classifier works at. Other images are
    resized to it. copy_detector: tells copies of them; None: one that is not calibrated.
    """
    classifier: nn.Module
    training: ImageSet
    copy_detector: CopyDetector | None = None

    def features(self, images: Tensor) -> np.ndarray:
        """Features of images (n, 3 or 1, s, s) uint8: (n, d) float32; d = 512 of a ResNet18."""
        return features(self.classifier, resize(images, self.training.images.shape[-1])).numpy()

    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities of images (n, 3 or 1, s, s) uint8: (n, users) float32 on the CPU."""
        return predict(self.classifier, resize(images, self.training.images.shape[-1]))

    @cached_property
    def training_features(self) -> np.ndarray:
        """Features of the training images."""
        return self.features(self.training.images)

    def evaluate(self, images: ImageSet) -> dict[str, float]:
        """Metrics of synthetic images, labelled with the user that each was generated for.

        recognised: the share that is classified as this user; diversity: the mean distance of features within a user,
        divided by that of training images (1 is as diverse), averaged over the users with enough images, NaN if there
        is none; copies: the share of near-copies of training images.
        """
        image_features, ratios = self.features(images.images), []
        for label in images.labels.unique():
            ratios.append(diversity_ratio(self.training_features[self.training.labels == label],
                                          image_features[images.labels == label]))
        detector = self.copy_detector or CopyDetector(self.training)
        known = [ratio for ratio in ratios if math.isfinite(ratio)]
        return {"recognised": (self.probabilities(images.images).argmax(dim=1) == images.labels).float().mean().item(),
                "diversity": float(np.mean(known)) if known else math.nan,
                "copies": detector.nearest(images).is_copy.float().mean().item()}


def halves_by_pass(passes: list[str], labels: Tensor) -> Tensor:
    """Split n images in two halves of whole passes: (n,) bool, True for every other pass of each user.

    passes: the name of each image's pass; labels: (n,). Passes are counted in the order of their first images.
    """
    passes_of_user: dict[int, dict[str, int]] = {}      # {label: {pass: its number}}
    numbers = [passes_of_user.setdefault(label, {}).setdefault(name, len(passes_of_user[label]))
               for name, label in zip(passes, labels.tolist())]
    return torch.tensor([number % 2 == 0 for number in numbers])
