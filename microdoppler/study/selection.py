"""Select synthetic images: keep those that are classified as their user and are no near-copies of training images."""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundwork.progress import Progress
from microdoppler.data.overlap import COMPARED_SIZE, NEAR_COPY, best_match, without_profile
from microdoppler.data.stitching import shift_in_doppler
from microdoppler.figures.report import Table
from microdoppler.study.arms import ImageSet
from microdoppler.study.classifier import predict

DOPPLER_ROWS = 2        # Doppler shifts that are searched for near-copies: rows of COMPARED_SIZE, up and down
# As a share of the height. Config.doppler_shift must not exceed it: the model could copy a training image that was
# moved farther, and the search would not find the copy.
FARTHEST_DOPPLER_SHIFT = DOPPLER_ROWS / COMPARED_SIZE


def resize(images: Tensor, size: int) -> Tensor:
    """(n, c, s, s) uint8 → (n, c, size, size) uint8, bilinear with antialiasing."""
    if images.shape[-1] == size:
        return images
    resized = F.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return resized.round().clamp(0, 255).byte()


@dataclass(frozen=True, eq=False)
class NearestTraining:
    """For each of n images, the most similar training image of the same user.

    Images are compared at all time shifts, as in the overlap audit, and at Doppler shifts of up to DOPPLER_ROWS, since
    a copy of a shifted training image is a copy too.

    correlation: (n,) float32, 0 if no comparison was above it; index: (n,) int64, of the training image; shift: (n,)
    float32, how much later the image begins than the training image, as a share of the width.
    """
    correlation: Tensor
    index: Tensor
    shift: Tensor

    @property
    def is_copy(self) -> Tensor:
        """(n,) bool: whether the image is a near-copy, with a correlation of NEAR_COPY or more."""
        return self.correlation >= NEAR_COPY


def nearest_training(images: ImageSet, training: ImageSet) -> NearestTraining:
    """Find the most similar training image of every image, among those with the same label."""
    nearest = NearestTraining(*(torch.zeros(len(images.images), dtype=dtype)
                                for dtype in (torch.float32, torch.int64, torch.float32)))
    for label in Progress(images.labels.unique(), desc="looking for near-copies", unit="user", delay=1, leave=False):
        own, candidates = (images.labels == label).nonzero()[:, 0], (training.labels == label).nonzero()[:, 0]
        small = resize(images.images[own], COMPARED_SIZE)
        small_training = without_profile(resize(training.images[candidates], COMPARED_SIZE))
        for rows in range(-DOPPLER_ROWS, DOPPLER_ROWS + 1):
            moved = without_profile(shift_in_doppler(small, torch.full_like(own, rows)))
            correlation, shift = best_match(moved, small_training)
            best = correlation.max(dim=1)
            better = best.values > nearest.correlation[own]
            nearest.correlation[own[better]] = best.values[better]
            nearest.index[own[better]] = candidates[best.indices[better]]
            nearest.shift[own[better]] = shift.gather(1, best.indices[:, None])[better, 0] / COMPARED_SIZE
    return nearest


@dataclass(frozen=True, eq=False)
class Selection:
    """Which of n synthetic images to keep, and why not the others.

    low_confidence: (n,) bool, whether the evaluation classifier gives the image's own user a probability below
    min_confidence; near_copies: (n,) bool, whether the image is a near-copy of a training image.
    """
    images: ImageSet
    low_confidence: Tensor
    near_copies: Tensor
    min_confidence: float

    @property
    def kept(self) -> Tensor:
        """(n,) bool."""
        return ~self.low_confidence & ~self.near_copies

    @property
    def kept_images(self) -> ImageSet:
        """The images to keep."""
        return ImageSet(self.images.images[self.kept], self.images.labels[self.kept])

    def table(self, name: str, users: dict[int, str]) -> Table:
        """How many images of each user are kept, and why the others are not.

        name: what the set is called in the header; users: {user number: name}, in the order of the labels.
        """
        labels, names = self.images.labels, list(users.values())
        rows = {names[label]: labels == label for label in labels.unique().tolist()}
        rows["all"] = torch.ones_like(self.kept)
        return Table([name, "images", "kept", f"confidence below {self.min_confidence:g}", "near-copies"],
                     [[user, *(str(int((own & part).sum()))
                               for part in (own, self.kept, self.low_confidence, self.near_copies))]
                      for user, own in rows.items()])


def select_images(classifier: nn.Module, images: ImageSet, training: ImageSet, min_confidence: float) -> Selection:
    """Select among synthetic `images`. classifier: the evaluation classifier, which works at the size of `training`.

    min_confidence: the smallest probability (0 … 1) of an image's own user with which it is kept.
    """
    resized = resize(images.images, training.images.shape[-1])
    confidence = predict(classifier, resized).gather(1, images.labels[:, None])[:, 0]
    return Selection(images, confidence < min_confidence, nearest_training(images, training).is_copy, min_confidence)
