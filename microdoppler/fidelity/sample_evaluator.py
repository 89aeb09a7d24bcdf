"""Quick metrics of synthetic images with the evaluation classifier, as each milestone of a training needs them."""
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from microdoppler.fidelity.distributions import across_groups, diversity, mean_distance
from microdoppler.study.arms import ImageSet
from microdoppler.study.classifier import features, predict
from microdoppler.study.copies import CopyDetector, NearestTraining, resize


@dataclass(frozen=True, eq=False)
class SampleEvaluator:
    """Evaluates synthetic images with the evaluation classifier, trained on real training images only.

    training: these training images, (n, 3 or 1, size, size) at the size that the classifier works at. Other images are
    resized to it. held_out: other real images, the validation part of the split, None without one; held_out_passes: the
    name of the pass of each; copy_detector: tells copies of training images; None: one that is not calibrated.
    """
    classifier: nn.Module
    training: ImageSet
    held_out: ImageSet | None = None
    held_out_passes: Sequence[str] = ()
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
        divided by that of training images, averaged over the users with enough images, NaN if there is none; copies:
        the share of near-copies of training images.

        The classifier knows the training images by heart, so their features lie closer together than those of other
        real images. A diversity of 1 is therefore too low; `yardstick` gives the right one.
        """
        return self._metrics(images, np.arange(len(images.labels)), self._detector.nearest(images))

    def yardstick(self, labels: Sequence[int]) -> dict[str, float]:
        """The same metrics of the held-out real images of these users: the values that samples should have. Their
        distances are between passes. count: of how many images they are. {} without held-out images of these users."""
        if self.held_out is None:
            return {}
        own = torch.isin(self.held_out.labels, torch.tensor(labels))
        if not own.any():
            return {}
        images = ImageSet(self.held_out.images[own], self.held_out.labels[own])
        return {"count": len(images.images),
                **self._metrics(images, np.array(self.held_out_passes)[own.numpy()],
                                self._detector.nearest_of_held_out(images))}

    @property
    def _detector(self) -> CopyDetector:
        return self.copy_detector or CopyDetector(self.training)

    def _metrics(self, images: ImageSet, groups: np.ndarray, nearest: NearestTraining) -> dict[str, float]:
        """The metrics of `evaluate`. groups: (n,) images of one group are not independent, as windows of a pass."""
        image_features, ratios = self.features(images.images), []
        for label in images.labels.unique():
            own, of_training = (part.labels == label for part in (images, self.training))
            ratios.append(diversity(mean_distance(across_groups(image_features[own], groups[own.numpy()])),
                                    mean_distance(across_groups(self.training_features[of_training],
                                                                np.arange(int(of_training.sum()))))))
        known = [ratio for ratio in ratios if math.isfinite(ratio)]
        return {"recognised": (self.probabilities(images.images).argmax(dim=1) == images.labels).float().mean().item(),
                "diversity": float(np.mean(known)) if known else math.nan,
                "copies": nearest.is_copy.float().mean().item()}
