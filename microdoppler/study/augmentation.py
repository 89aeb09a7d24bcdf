"""Classical augmentation of spectrograms: another time, a little faster or slower, parts hidden."""
from dataclasses import dataclass
from typing import Mapping, Sequence

import torch
from torch import Tensor

from microdoppler.data.overlap import Successor
from microdoppler.data.stitching import cut_between, shift_in_doppler

DOPPLER_SHIFT = 0.03    # of the height, up or down at most: a walker's speed varies by a few per cent
TIME_MASK = 0.15        # of the width at most (SpecAugment, Park et al. 2019, section 2)
DOPPLER_MASK = 0.10     # of the height at most


@dataclass(frozen=True, eq=False)
class SuccessorIndex:
    """What follows each of n images in its pass: following (n,) int64 its index, or its own where there is none;
    hop (n,) int64 by how many columns later that one begins, 0 where there is none."""
    following: Tensor
    hop: Tensor

    @staticmethod
    def among(paths: Sequence[str], following: Mapping[str, Successor], image_size: int) -> "SuccessorIndex":
        """For images in the order of `paths`; a window that is not among them is not known to follow."""
        place = {path: i for i, path in enumerate(paths)}
        known = [after if (after := following.get(path)) and after.path in place else None for path in paths]
        return SuccessorIndex(torch.tensor([place[after.path] if after else i for i, after in enumerate(known)]),
                      torch.tensor([round(after.shift * image_size) if after else 0 for after in known]))


def shift_in_time(images: Tensor, chosen: Tensor, sequel: SuccessorIndex, generator: torch.Generator) -> Tensor:
    """The chosen (b,) of the images (n, c, h, w), each begun up to a hop later: cut from stitched neighbours, so that
    nothing is wrapped round."""
    hop = sequel.hop[chosen]
    begin = (torch.rand(len(chosen), generator=generator) * hop).long()
    return cut_between(images[chosen], images[sequel.following[chosen]], hop, begin)


def shift_and_mask(images: Tensor, generator: torch.Generator) -> Tensor:
    """(b, c, h, w) uint8, each moved a little along the Doppler axis, and one stretch of time and one of Doppler
    hidden under the picture's median colour."""
    count, _, height, width = images.shape
    draw = torch.rand(5, count, generator=generator)
    shift = ((2 * draw[0] - 1) * DOPPLER_SHIFT * height).round().long()
    images = shift_in_doppler(images, -shift)
    background = images.flatten(2).median(dim=2).values[:, :, None, None]
    hidden = (_stretch(width, TIME_MASK, draw[1], draw[2])[:, None, None, :]
              | _stretch(height, DOPPLER_MASK, draw[3], draw[4])[:, None, :, None])
    return torch.where(hidden, background, images)


def _stretch(size: int, most: float, length: Tensor, place: Tensor) -> Tensor:
    """(b, size) bool, True over a stretch of up to `most` of the size; length, place (b,) in [0, 1)."""
    length = length * most * size
    start = place * (size - length)
    position = torch.arange(size) + 0.5
    return (position > start[:, None]) & (position < (start + length)[:, None])
