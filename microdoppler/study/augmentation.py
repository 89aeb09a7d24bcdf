"""Augmentation of a batch of spectrograms.

Classical: shift in time, small shift in Doppler, masks in time and Doppler. MixUp and CutMix: images and targets of two
persons are mixed. torchvision has them too, but it draws from PyTorch's global generator, and mixes each image with its
neighbour in the batch. Here a batch may have all its real images before all the added ones.

Images may lie on any device. All else (random numbers, indices, masks, targets) is small and computed on the CPU, so
that it is the same for every device; the device only moves and blends pixels, and the CPU never waits for it.
"""
from dataclasses import dataclass
from typing import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from groundwork.device import send
from microdoppler.data.overlap import Successor
from microdoppler.data.stitching import cut_between, shift_in_doppler
from microdoppler.study.kinds import CUTMIX, MIXUP

MAX_DOPPLER_SHIFT = 0.03    # share of the height, up or down: a walker's speed varies by a few per cent
MAX_TIME_MASK = 0.15        # share of the width (SpecAugment, Park et al. 2019, section 2)
MAX_DOPPLER_MASK = 0.10     # share of the height


@dataclass(frozen=True, eq=False)
class SuccessorIndex:
    """The next window in the same pass of each of n images.

    index: (n,) int64, which of the images is the next window; the image itself where none is known. hop: (n,) int64,
    how many columns later it begins; 0 where none is known.
    """
    index: Tensor
    hop: Tensor

    @staticmethod
    def among(paths: Sequence[str], successor_of: Mapping[str, Successor], image_size: int) -> "SuccessorIndex":
        """For images in the order of `paths`, image_size pixels wide. Only successors that are in `paths` count."""
        index_of = {path: i for i, path in enumerate(paths)}
        known = [successor if (successor := successor_of.get(path)) and successor.path in index_of else None
                 for path in paths]
        return SuccessorIndex(
            torch.tensor([index_of[successor.path] if successor else i for i, successor in enumerate(known)]),
            torch.tensor([round(successor.shift * image_size) if successor else 0 for successor in known]))


def take(images: Tensor, chosen: Tensor) -> Tensor:
    """The `chosen` (b,) of the images (n, c, h, w) → (b, c, h, w), on the device of the images."""
    return images.index_select(0, send(chosen, images.device))


def shift_in_time(images: Tensor, chosen: Tensor, successors: SuccessorIndex, generator: torch.Generator) -> Tensor:
    """Let each of the `chosen` (b,) images begin up to one hop later: (b, c, h, w) uint8.

    images: (n, c, h, w) uint8. The later window is cut from the image stitched to its successor, so nothing is wrapped
    round.
    """
    hop = successors.hop[chosen]
    begin = (torch.rand(len(chosen), generator=generator) * hop).long()
    return cut_between(take(images, chosen), take(images, successors.index[chosen]), hop, begin)


def shift_and_mask(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image a little along the Doppler axis, and mask one stretch of time and one of Doppler.

    images: (b, c, h, w) uint8 → (b, c, h, w) uint8. Masked pixels get the image's median colour.
    """
    count, _, height, width = images.shape
    uniform = torch.rand(5, count, generator=generator)
    shift = ((2 * uniform[0] - 1) * MAX_DOPPLER_SHIFT * height).round().long()
    images = shift_in_doppler(images, -shift)
    columns = send(_stretch(width, MAX_TIME_MASK, uniform[1], uniform[2]), images.device)
    rows = send(_stretch(height, MAX_DOPPLER_MASK, uniform[3], uniform[4]), images.device)
    return torch.where(columns[:, None, None, :] | rows[:, None, :, None], _median_colour(images), images)


def _median_colour(images: Tensor) -> Tensor:
    """The median of each channel: (b, c, h, w) uint8 → (b, c, 1, 1) uint8; of an even number of pixels, the lower one.

    A stable sort of NumPy is a radix sort for 8 bits: on the CPU it takes a tenth of the time of torch.median.
    """
    pixels = images.flatten(2)
    if images.is_cpu:
        ordered = torch.from_numpy(np.sort(pixels.numpy(), axis=2, kind="stable"))
        return ordered[:, :, (pixels.shape[2] - 1) // 2, None, None]
    return pixels.median(dim=2).values[:, :, None, None]


def _stretch(size: int, max_share: float, length: Tensor, place: Tensor) -> Tensor:
    """(b, size) bool, True over one stretch per row.

    length, place: (b,) in [0, 1): the stretch's length as a share of the longest (max_share · size), and where it
    begins, as a share of the possible positions.
    """
    length = length * max_share * size
    start = place * (size - length)
    position = torch.arange(size) + 0.5
    return (position > start[:, None]) & (position < (start + length)[:, None])


def mix_up(images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Blend each image, and its target, with those of another one (Zhang et al. 2018, eq. 1, with alpha = 1).

    images: (b, c, h, w) uint8; targets: (b, classes) float32; the same is returned. The share of each image is uniform
    in [0, 1), which is Beta(1, 1).
    """
    partner = torch.randperm(len(images), generator=generator)
    share = torch.rand(len(images), generator=generator)
    blended = torch.lerp(take(images, partner).float(), images.float(), send(share, images.device)[:, None, None, None])
    return blended.round().to(images.dtype), torch.lerp(targets[partner], targets, share[:, None])


def cut_mix(images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Paste a box of another image into each image, and mix their targets by area (Yun et al. 2019, eq. 1 and 2, with
    alpha = 1).

    images: (b, c, h, w) uint8; targets: (b, classes) float32; the same is returned. The box covers a share of the area
    that is uniform in [0, 1), less what lies outside the image: its centre is anywhere in the image.
    """
    count, _, height, width = images.shape
    partner = torch.randperm(count, generator=generator)
    area, row, column = torch.rand(3, count, generator=generator)
    rows, columns = _box(height, row, area), _box(width, column, area)
    share = 1 - rows.sum(dim=1) * columns.sum(dim=1) / (height * width)
    in_box = send(rows, images.device)[:, None, :, None] & send(columns, images.device)[:, None, None, :]
    return torch.where(in_box, take(images, partner), images), torch.lerp(targets[partner], targets, share[:, None])


def _box(size: int, centre: Tensor, area: Tensor) -> Tensor:
    """(b, size) bool, True over the sqrt(area) · size pixels about centre · size."""
    return (torch.arange(size) + 0.5 - centre[:, None] * size).abs() < area.sqrt()[:, None] * size / 2


MIXTURES = {MIXUP: mix_up, CUTMIX: cut_mix}
