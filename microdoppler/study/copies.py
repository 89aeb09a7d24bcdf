"""Near-copies of training images: how similar each image is to the nearest of them, and from where on it is a copy.

A copy comes out of the generator's VAE, which blurs it. So images are compared with the training windows as the VAE
gives them back, and the bar lies between images of which it is known what they are: cuts of the training windows, which
are copies, and validation windows, which are not, both through the VAE. Compared with the training images themselves,
copies look new: of the demo's training images through its VAE, 12 % had a correlation of NEAR_COPY or more.
"""
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from groundwork.progress import Progress
from microdoppler.data.control_sets import CUT, TEST, TRAINING, VALIDATION, ControlSet
from microdoppler.data.overlap import COMPARED_SIZE, NEAR_COPY, best_match, without_profile
from microdoppler.data.stitching import shift_in_doppler
from microdoppler.study.arms import ImageSet

DOPPLER_ROWS = 2        # Doppler shifts that are searched for near-copies: rows of COMPARED_SIZE, up and down
# As a share of the height. Config.doppler_shift must not exceed it: the model could copy a training image that was
# moved farther, and the search would not find the copy.
FARTHEST_DOPPLER_SHIFT = DOPPLER_ROWS / COMPARED_SIZE
TAIL = 0.01             # at most this share of known copies is missed; of the others, this share counts as outliers


def resize(images: Tensor, size: int) -> Tensor:
    """(n, c, s, s) uint8 → (n, c, size, size) uint8, bilinear with antialiasing."""
    if images.shape[-1] == size:
        return images
    resized = F.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return resized.round().clamp(0, 255).byte()


@dataclass(frozen=True)
class Scale:
    """What a correlation with the nearest training image means, for one user. bar: from here on an image is a
    near-copy; usual: that of most images that are none, 0 if there are none of which that is known."""
    bar: float = NEAR_COPY
    usual: float = 0.0


@dataclass(frozen=True, eq=False)
class NearestTraining:
    """For each of n images, the most similar training image of the same user.

    Images are compared at all time shifts, as in the overlap audit, and at Doppler shifts of up to DOPPLER_ROWS, since
    a copy of a shifted training image is a copy too.

    correlation: (n,) float32, 0 if no comparison was above it; index: (n,) int64, of the training image; shift: (n,)
    float32, how much later the image begins than the training image, as a share of the width; bar, usual: (n,) float32,
    of the `Scale` of the image's user.
    """
    correlation: Tensor
    index: Tensor
    shift: Tensor
    bar: Tensor
    usual: Tensor

    @property
    def is_copy(self) -> Tensor:
        """(n,) bool: whether the image is a near-copy."""
        return self.correlation >= self.bar

    @property
    def distance(self) -> Tensor:
        """(n,) float32, from the nearest training image: 0 where near-copies begin, 1 for most images that are none."""
        return (self.bar - self.correlation) / (self.bar - self.usual)


@dataclass(frozen=True, eq=False)
class CopyDetector:
    """Finds near-copies of training images.

    windows: the recorded training windows, as the VAE gives them back; scales: {label: what correlations with them
    mean}; held_out: real images that are no copies, as the VAE gives them back. Without scales it is not calibrated:
    windows are then the training images themselves, and blurred copies are missed.
    """
    windows: ImageSet
    scales: dict[int, Scale] = field(default_factory=dict)
    held_out: ImageSet | None = None

    @property
    def is_calibrated(self) -> bool:
        """Whether the bars come from known copies."""
        return bool(self.scales)

    @staticmethod
    def calibrated(windows: ImageSet, copies: ImageSet, others: ImageSet, held_out: ImageSet) -> "CopyDetector":
        """A detector with scales from images of which it is known what they are, all through the VAE.

        copies: cuts of the training windows; others: windows that share no column with them, and may be none.

        The bar lies halfway between a user's lowest copies and highest others, but at least 1 - TAIL of the copies lie
        above it. It is lower than these copies need, because those of a generator are less exact than those that only
        went through the VAE.
        """
        found = [(part.labels, _nearest(part, windows)[0]) for part in (copies, others)]
        scales = {}
        for label in windows.labels.unique().tolist():
            known, new = (correlation[labels == label] for labels, correlation in found)
            bar, usual = known.quantile(TAIL, interpolation="lower").item(), 0.0
            if len(new):
                bar = min(bar, (bar + new.quantile(1 - TAIL, interpolation="higher").item()) / 2)
                usual = new.median().item()
            scales[label] = Scale(bar, usual if usual < bar else 0.0)
        return CopyDetector(windows, scales, held_out)

    @staticmethod
    def of(control: ControlSet | None, training: ImageSet, image_size: int, channels: int = 3) -> "CopyDetector":
        """The detector for a synthetic set with this control, at the size and with the channels of its images. Without
        a control it is not calibrated, and a line says so; training: the training images themselves."""
        if control is None:
            print("warning: without a control set, near-copies that are blurred are missed: run generate.py again, "
                  "which writes one")
            return CopyDetector(training)
        return CopyDetector.calibrated(*(ImageSet(*control.decoded(kind, image_size, channels))
                                         for kind in (TRAINING, CUT, VALIDATION, TEST)))

    def nearest(self, images: ImageSet) -> NearestTraining:
        """The most similar training window of every image, among those with the same label."""
        scales = [self.scales.get(label, Scale()) for label in images.labels.tolist()]
        return NearestTraining(*_nearest(images, self.windows), torch.tensor([scale.bar for scale in scales]),
                               torch.tensor([scale.usual for scale in scales]))

    def nearest_of_held_out(self, images: ImageSet) -> NearestTraining:
        """The same for held-out real images, which takes them as the VAE gives them back, where it has these: real
        images are not blurred, and so are less similar to what the VAE gives back than any that come out of it."""
        has_them = self.held_out is not None and torch.equal(self.held_out.labels, images.labels)
        return self.nearest(self.held_out if self.held_out is not None and has_them else images)


def _nearest(images: ImageSet, windows: ImageSet) -> tuple[Tensor, Tensor, Tensor]:
    """correlation, index and shift of `NearestTraining`."""
    count = len(images.images)
    correlations, indices, shifts = torch.zeros(count), torch.zeros(count, dtype=torch.int64), torch.zeros(count)
    for label in Progress(images.labels.unique(), desc="looking for near-copies", unit="user", delay=1, leave=False):
        own, candidates = (images.labels == label).nonzero()[:, 0], (windows.labels == label).nonzero()[:, 0]
        small = resize(images.images[own], COMPARED_SIZE)
        small_windows = without_profile(resize(windows.images[candidates], COMPARED_SIZE))
        for rows in range(-DOPPLER_ROWS, DOPPLER_ROWS + 1):
            moved = without_profile(shift_in_doppler(small, torch.full_like(own, rows)))
            correlation, shift = best_match(moved, small_windows)
            best = correlation.max(dim=1)
            better = best.values > correlations[own]
            correlations[own[better]] = best.values[better]
            indices[own[better]] = candidates[best.indices[better]]
            shifts[own[better]] = shift.gather(1, best.indices[:, None])[better, 0] / COMPARED_SIZE
    return correlations, indices, shifts
