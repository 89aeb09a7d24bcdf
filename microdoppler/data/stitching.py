"""New windows out of old: neighbours of one pass are joined where they overlap, cut at any time between them, and moved
a little along the Doppler axis, as if the walker were a little faster or slower."""
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from groundwork.images import load_images
from microdoppler.data.overlap import Successor

FADE = 0.125        # share of the width over which the one window turns into the other, so that no seam shows


@dataclass(frozen=True)
class Cut:
    """The window that begins `fraction` (0 … 1) of the way from the window at `path` to the one that follows it, moved
    down by the share `doppler_shift` of its height."""
    path: str
    following: Successor | None = None
    fraction: float = 0.0
    doppler_shift: float = 0.0

    @property
    def name(self) -> str:
        moves = [f"{move:+.4g}" for move in (self.fraction, self.doppler_shift) if move]
        return self.path + "".join(moves)


def plan_cuts(paths: Sequence[str], following: Mapping[str, Successor], cuts_per_hop: int) -> list[Cut]:
    """Each window of `paths`, and cuts_per_hop - 1 evenly spaced ones up to the next, where that is in `paths` too."""
    inside, cuts = set(paths), []
    for path in paths:
        after = following.get(path)
        steps = cuts_per_hop if after is not None and after.path in inside else 1
        cuts += [Cut(path, after if step else None, step / steps) for step in range(steps)]
    return cuts


def shift_each(cuts: Sequence[Cut], most: float, seed: int) -> list[Cut]:
    """Each cut with a shift of its own, up or down by the share `most` of the height at most."""
    shifts = np.random.default_rng(seed).uniform(-most, most, len(cuts)).tolist()
    return [replace(cut, doppler_shift=shift) for cut, shift in zip(cuts, shifts)]


def shift_in_doppler(images: Tensor, rows: Tensor) -> Tensor:
    """Each image of (n, c, h, w) moved down by its own number of rows (n,) int64; the edge is repeated."""
    height = images.shape[2]
    source = (torch.arange(height) - rows[:, None]).clamp(0, height - 1)
    return images.gather(2, source[:, None, :, None].expand_as(images))


def cut_between(first: Tensor, second: Tensor, hop: Tensor, begin: Tensor) -> Tensor:
    """Windows that begin `begin` (n,) columns after the first ones, 0 … hop (n,), where the second ones begin.

    first, second: (n, c, h, w) uint8 → (n, c, h, w) uint8. Every column comes from the window that shows it; within a
    seam of FADE of the width one turns into the other. The seam wanders from the right edge to the left as `begin`
    grows, so that the cut passes from the first window to the second without a jump.
    """
    width, column = first.shape[-1], torch.arange(first.shape[-1])
    hop, begin = hop[:, None], begin[:, None]
    fade = (width - hop).clamp(1, max(1, round(FADE * width)))
    seam = (1 - begin / hop.clamp_min(1)) * (width - fade)
    share = ((column + 0.5 - seam) / fade).clamp(0, 1)                      # of the second
    share = torch.where(column < hop - begin, 0.0, torch.where(column >= width - begin, 1.0, share))
    share = torch.where(begin == 0, 0.0, share)[:, None, None]
    from_first = take_columns(first, (column + begin).clamp_max(width - 1))
    from_second = take_columns(second, (column + begin - hop).clamp_min(0))
    return torch.lerp(from_first.float(), from_second.float(), share).round().to(first.dtype)


def take_columns(images: Tensor, columns: Tensor) -> Tensor:
    """Of each image (n, c, h, w) its own columns (n, k) → (n, c, h, k)."""
    return images.gather(3, columns[:, None, None, :].expand(*images.shape[:3], -1))


def load_cuts(root: str | Path, cuts: Sequence[Cut], image_size: int, channels: int = 3) -> Tensor:
    """(n, channels, image_size, image_size) uint8; paths are relative to root; channels as load_image's."""
    needed = list(dict.fromkeys([cut.path for cut in cuts] + [cut.following.path for cut in cuts if cut.following]))
    place = {path: i for i, path in enumerate(needed)}
    images = load_images(root, needed, image_size, channels=channels)
    first = torch.tensor([place[cut.path] for cut in cuts])
    second = torch.tensor([place[cut.following.path if cut.following else cut.path] for cut in cuts])
    hop = torch.tensor([round(cut.following.shift * image_size) if cut.following else 0 for cut in cuts])
    begin = (hop * torch.tensor([cut.fraction for cut in cuts])).round().long()
    rows = (image_size * torch.tensor([cut.doppler_shift for cut in cuts])).round().long()
    return shift_in_doppler(cut_between(images[first], images[second], hop, begin), rows)
