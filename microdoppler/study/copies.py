"""Near-copies of training images: how similar each image is to the nearest of them, and from where on it is a copy.

A copy comes out of the generator's VAE, which blurs it. So images are compared with the training windows as the VAE
gives them back, and the bar lies between images of which it is known what they are: cuts of the training windows, which
are copies, and validation windows, which are not, both through the VAE. Compared with the training images themselves,
copies look new: of the demo's training images through its VAE, 12 % had a correlation of NEAR_COPY or more.
"""
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from groundwork.preparation import Preparation
from groundwork.progress import Progress
from microdoppler.data.control_sets import ControlSet
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


@dataclass(frozen=True, eq=False)
class NearestTraining:
    """For each of n images, the most similar training image of the same user.

    Images are compared at all time shifts, as in the overlap audit, and at Doppler shifts of up to DOPPLER_ROWS, since
    a copy of a shifted training image is a copy too.

    correlation: (n,) float32, 0 if no comparison was above it; index: (n,) int64, of the training image; shift: (n,)
    float32, how much later the image begins than the training image, as a share of the width; bar: the correlation from
    which on an image is a near-copy.
    """
    correlation: Tensor
    index: Tensor
    shift: Tensor
    bar: float

    @property
    def is_copy(self) -> Tensor:
        """(n,) bool: whether the image is a near-copy."""
        return self.correlation >= self.bar


@dataclass(frozen=True, eq=False)
class KnownImages:
    """What a bar is calibrated with. copies: cuts of the training windows; others: windows that share no column with
    them, and may be none."""
    copies: ImageSet
    others: ImageSet

    def bar(self, windows: ImageSet) -> float:
        """The correlation with training `windows` that tells copies from others: halfway between the lowest copies and
        the highest others, but at least 1 - TAIL of the copies lie above it.

        A generator's copies are less exact than those that only went through the VAE, so the bar is lower than these
        need. Of samples from training latents with a tenth of the noise, all lie above it (docs/log.md).
        """
        lowest = _nearest(self.copies, windows).correlation.quantile(TAIL).item()
        if not len(self.others.images):
            return lowest
        highest = _nearest(self.others, windows).correlation.quantile(1 - TAIL).item()
        return min(lowest, (lowest + highest) / 2)


@dataclass(frozen=True, eq=False)
class CopyDetector:
    """Finds near-copies of training images.

    windows: the recorded training windows, as the VAE gives them back if `is_calibrated`; bar: the correlation from
    which on an image that a VAE decoded is a near-copy; raw_bar: the same for an image that none did, such as a
    held-out real one.
    """
    windows: ImageSet
    bar: float = NEAR_COPY
    raw_bar: float = NEAR_COPY
    is_calibrated: bool = False

    @staticmethod
    def calibrated(windows: ImageSet, decoded: KnownImages, raw: KnownImages) -> "CopyDetector":
        """A detector with bars from known images. windows: as the VAE gives them back; decoded, raw: known images
        through the VAE, and the same images without it."""
        return CopyDetector(windows, decoded.bar(windows), raw.bar(windows), is_calibrated=True)

    @staticmethod
    def of(control: ControlSet | None, training: ImageSet, data_path: str | Path, image_size: int, channels: int = 3,
           preparation: Preparation = Preparation()) -> "CopyDetector":
        """The detector for a synthetic set with this control. Without a control it compares with the training images
        themselves, `training`, and misses blurred copies; a line says so.

        data_path: the data folder; image_size, channels: as those of the images to be compared; preparation: of the
        real image files.
        """
        if control is None:
            print("warning: without a control set, near-copies are only told from new images where the generator does "
                  "not blur them: run generate.py again, which writes one")
            return CopyDetector(training)
        options = (image_size, channels)
        return CopyDetector.calibrated(
            ImageSet(*control.decoded_windows(*options)),
            KnownImages(ImageSet(*control.decoded_cuts(*options)), ImageSet(*control.decoded_validation(*options))),
            KnownImages(*(ImageSet(*load(data_path, *options, preparation))
                          for load in (control.raw_cuts, control.raw_validation))))

    def nearest(self, images: ImageSet, is_raw: bool = False) -> NearestTraining:
        """The most similar training window of every image, among those with the same label. is_raw: whether the images
        did not go through the VAE."""
        return _nearest(images, self.windows, self.raw_bar if is_raw else self.bar)


def _nearest(images: ImageSet, windows: ImageSet, bar: float = NEAR_COPY) -> NearestTraining:
    count = len(images.images)
    nearest = NearestTraining(torch.zeros(count), torch.zeros(count, dtype=torch.int64), torch.zeros(count), bar)
    for label in Progress(images.labels.unique(), desc="looking for near-copies", unit="user", delay=1, leave=False):
        own, candidates = (images.labels == label).nonzero()[:, 0], (windows.labels == label).nonzero()[:, 0]
        small = resize(images.images[own], COMPARED_SIZE)
        small_windows = without_profile(resize(windows.images[candidates], COMPARED_SIZE))
        for rows in range(-DOPPLER_ROWS, DOPPLER_ROWS + 1):
            moved = without_profile(shift_in_doppler(small, torch.full_like(own, rows)))
            correlation, shift = best_match(moved, small_windows)
            best = correlation.max(dim=1)
            better = best.values > nearest.correlation[own]
            nearest.correlation[own[better]] = best.values[better]
            nearest.index[own[better]] = candidates[best.indices[better]]
            nearest.shift[own[better]] = shift.gather(1, best.indices[:, None])[better, 0] / COMPARED_SIZE
    return nearest
