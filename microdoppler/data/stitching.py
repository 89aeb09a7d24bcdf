"""New windows from recorded ones.

Neighbours of one pass are joined where they overlap, and new windows are cut at any time between them. Each can also be
shifted a little along the Doppler axis, as if the walker were a little faster or slower.
"""
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from groundwork.device import send
from groundwork.images import load_images
from groundwork.memory import large_array
from groundwork.preparation import Preparation
from microdoppler.data.overlap import Successor

AT_ONCE = 256       # cuts that are made at a time: as floats they take four times the memory
FADE = 0.125        # share of the width over which one window fades into the other, so that no seam is visible


@dataclass(frozen=True)
class Cut:
    """A window to be cut. It begins between the window at `path` and the next one, and is shifted in Doppler.

    path: relative to the data folder; successor: the next window, None to take the window at `path` itself; fraction:
    where it begins, from 0 (with the window at `path`) to 1 (with the next one); doppler_shift: how far the image is
    moved down, as a share of its height.
    """
    path: str
    successor: Successor | None = None
    fraction: float = 0.0
    doppler_shift: float = 0.0

    @property
    def name(self) -> str:
        """The path, followed by fraction and Doppler shift where they are not 0."""
        moves = [f"{move:+.4g}" for move in (self.fraction, self.doppler_shift) if move]
        return self.path + "".join(moves)

    @property
    def identity(self) -> str:
        """All values as text, for the fingerprint of a latent cache. Other words make every stored cache stale."""
        following = f"Next(path={self.successor.path!r}, shift={self.successor.shift!r})" if self.successor else None
        return (f"Cut(path={self.path!r}, following={following}, fraction={self.fraction!r}, "
                f"doppler_shift={self.doppler_shift!r})")


def window_of(name: str) -> str:
    """The path in a Cut.name, without the fraction and the Doppler shift that follow its file's suffix."""
    return re.sub(r"([+-][0-9][0-9.]*(e[+-][0-9]+)?)+$", "", name)


def plan_cuts(paths: Sequence[str], successor_of: Mapping[str, Successor], cuts_per_hop: int) -> list[Cut]:
    """Each window of `paths`, followed by cuts_per_hop - 1 evenly spaced cuts between it and its successor.

    There are none where the successor is unknown or not in `paths`, so cuts of training windows show only these.
    """
    inside, cuts = set(paths), []
    for path in paths:
        successor = successor_of.get(path)
        steps = cuts_per_hop if successor is not None and successor.path in inside else 1
        cuts += [Cut(path, successor if step else None, step / steps) for step in range(steps)]
    return cuts


def add_doppler_shifts(cuts: Sequence[Cut], max_shift: float, seed: int) -> list[Cut]:
    """Give each cut a random Doppler shift, uniform in ±max_shift (a share of the height)."""
    shifts = np.random.default_rng(seed).uniform(-max_shift, max_shift, len(cuts)).tolist()
    return [replace(cut, doppler_shift=shift) for cut, shift in zip(cuts, shifts)]


def shift_in_doppler(images: Tensor, rows: Tensor) -> Tensor:
    """Move each image of (n, c, h, w) down by its number of `rows` (n,) int64 on the CPU; the edge row is repeated."""
    count, channels, height, _ = images.shape
    source = (torch.arange(height) - rows[:, None]).clamp(0, height - 1)
    first = height * torch.arange(count * channels).view(count, channels, 1)        # row of each picture
    row = (first + source[:, None]).flatten()
    return images.flatten(0, 2).index_select(0, send(row, images.device)).view_as(images)   # faster than a gather


def cut_between(first: Tensor, second: Tensor, hop: Tensor, begin: Tensor) -> Tensor:
    """Cut windows between pairs of overlapping windows.

    first, second: (n, c, h, w) uint8 on any device; hop: (n,) int64 on the CPU, how many columns later the second
    begins than the first; begin: (n,) int64 on the CPU, in 0 … hop, how many columns later the cut begins than the
    first. Returns (n, c, h, w) uint8.

    A column that only one window shows comes from that window. Where both show it, the first fades into the second over
    FADE of the width. As `begin` grows, this seam moves from the right edge to the left, so that the cut changes from
    the first window to the second without a jump.
    """
    width, column = first.shape[-1], torch.arange(first.shape[-1])
    hop, begin = hop[:, None], begin[:, None]
    fade = (width - hop).clamp(1, max(1, round(FADE * width)))
    seam = (1 - begin / hop.clamp_min(1)) * (width - fade)
    share = ((column + 0.5 - seam) / fade).clamp(0, 1)                      # of the second window in a column
    share = torch.where(column < hop - begin, 0.0, torch.where(column >= width - begin, 1.0, share))
    share = send(torch.where(begin == 0, 0.0, share), first.device)[:, None, None]
    from_first = take_columns(first, (column + begin).clamp_max(width - 1))
    from_second = take_columns(second, (column + begin - hop).clamp_min(0))
    return torch.lerp(from_first.float(), from_second.float(), share).round().to(first.dtype)


def take_columns(images: Tensor, columns: Tensor) -> Tensor:
    """Take from each image of (n, c, h, w) its own `columns` (n, k) int64 on the CPU → (n, c, h, k)."""
    return images.gather(3, send(columns, images.device)[:, None, None].expand(*images.shape[:3], -1))


def load_cuts(root: str | Path, cuts: Sequence[Cut], image_size: int, channels: int = 3,
              preparation: Preparation = Preparation()) -> Tensor:
    """Load the images that n cuts need, and make the cuts: (n, channels, image_size, image_size) uint8.

    root: the folder that paths are relative to; channels: 3 for RGB or 1 for grey; preparation: how files
    become square arrays. Raises InputError when an image cannot be read.
    """
    needed = list(dict.fromkeys([cut.path for cut in cuts] + [cut.successor.path for cut in cuts if cut.successor]))
    index_of = {path: i for i, path in enumerate(needed)}
    images = load_images(root, needed, image_size, channels=channels, preparation=preparation)
    first = torch.tensor([index_of[cut.path] for cut in cuts])
    second = torch.tensor([index_of[cut.successor.path if cut.successor else cut.path] for cut in cuts])
    hop = torch.tensor([round(cut.successor.shift * image_size) if cut.successor else 0 for cut in cuts])
    begin = (hop * torch.tensor([cut.fraction for cut in cuts])).round().long()
    rows = (image_size * torch.tensor([cut.doppler_shift for cut in cuts])).round().long()
    made = torch.from_numpy(large_array((len(cuts), channels, image_size, image_size)))
    for own in torch.arange(len(cuts)).split(AT_ONCE):
        made[own] = shift_in_doppler(
            cut_between(images[first[own]], images[second[own]], hop[own], begin[own]), rows[own])
    return made
