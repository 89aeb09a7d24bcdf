"""Which synthetic images to keep: those recognised as their user, and that are no near-copies."""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from microdoppler.data.overlap import NEAR_COPY, SIZE, best_match, without_profile
from microdoppler.data.stitching import shift_in_doppler
from microdoppler.figures.report import Table
from microdoppler.study.arms import ImageSet
from microdoppler.study.classifier import predict

DOPPLER_ROWS = 2        # of SIZE, up and down
FARTHEST_DOPPLER_SHIFT = DOPPLER_ROWS / SIZE        # a training image moved farther would not be found in its copies


def resize(images: Tensor, size: int) -> Tensor:
    """(n, 3, s, s) uint8 → (n, 3, size, size) uint8."""
    if images.shape[-1] == size:
        return images
    resized = F.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return resized.round().clamp(0, 255).byte()


@dataclass(frozen=True, eq=False)
class NearestTraining:
    """For each of n images the training image of its user that it resembles most, over time shifts as in the overlap
    audit, and over Doppler shifts of up to DOPPLER_ROWS, as a copy of a moved training image is a copy too: their
    correlation (n,) float32, its index (n,) int64, and by what share of the width the image begins later (n,) float32.
    """
    correlation: Tensor
    index: Tensor
    shift: Tensor

    @property
    def is_copy(self) -> Tensor:
        """(n,) bool."""
        return self.correlation >= NEAR_COPY


def closest_training(images: ImageSet, training: ImageSet) -> NearestTraining:
    closest = NearestTraining(*(torch.zeros(len(images.images), dtype=kind) for kind in (torch.float32, torch.int64,
                                                                                 torch.float32)))
    for label in tqdm(images.labels.unique(), desc="looking for near-copies", unit="user", delay=1, leave=False,
                      disable=None):
        own, theirs = (images.labels == label).nonzero()[:, 0], (training.labels == label).nonzero()[:, 0]
        moved, against = resize(images.images[own], SIZE), without_profile(resize(training.images[theirs], SIZE))
        for rows in range(-DOPPLER_ROWS, DOPPLER_ROWS + 1):
            candidates = without_profile(shift_in_doppler(moved, torch.full_like(own, rows)))
            correlation, shift = best_match(candidates, against)
            best = correlation.max(dim=1)
            better = best.values > closest.correlation[own]
            closest.correlation[own[better]] = best.values[better]
            closest.index[own[better]] = theirs[best.indices[better]]
            closest.shift[own[better]] = shift.gather(1, best.indices[:, None])[better, 0] / SIZE
    return closest


@dataclass(frozen=True, eq=False)
class Selection:
    """doubted: (n,) bool, which of n images the evaluation classifier does not assign to their user with a confidence
    of at least `least`; copies: (n,) bool, which are near-copies of training images."""
    images: ImageSet
    doubted: Tensor
    copies: Tensor
    least: float

    @property
    def kept(self) -> Tensor:
        """(n,) bool."""
        return ~self.doubted & ~self.copies

    @property
    def kept_images(self) -> ImageSet:
        return ImageSet(self.images.images[self.kept], self.images.labels[self.kept])

    def table(self, name: str, users: dict[int, str]) -> Table:
        """How many images are kept of each user, and why the others are not."""
        labels = self.images.labels
        rows = {users[label + 1]: labels == label for label in labels.unique().tolist()}
        rows["all"] = torch.ones_like(self.kept)
        return Table([name, "images", "kept", f"confidence below {self.least:g}", "near-copies"],
                     [[user, *(str(int((own & part).sum())) for part in (own, self.kept, self.doubted, self.copies))]
                      for user, own in rows.items()])


def select_images(classifier: nn.Module, images: ImageSet, training: ImageSet, least: float) -> Selection:
    """classifier: the evaluation classifier of the `training` images, at their size."""
    seen = resize(images.images, training.images.shape[-1])
    confidence = predict(classifier, seen).gather(1, images.labels[:, None])[:, 0]
    return Selection(images, confidence < least, closest_training(images, training).is_copy, least)
