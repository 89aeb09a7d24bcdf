"""New windows out of old: neighbours of one pass are joined where they overlap, and cut at any time between them."""
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Sequence

import torch
from torch import Tensor

from groundwork.images import load_images
from microdoppler.overlap import Next

FADE = 0.125        # share of the width over which the one window turns into the other, so that no seam shows


@dataclass(frozen=True)
class Cut:
    """The window that begins `fraction` (0 … 1) of the way from the window at `path` to the one that follows it."""
    path: str
    following: Next | None = None
    fraction: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.path}+{self.fraction:g}" if self.fraction else self.path


def plan_cuts(paths: Sequence[str], following: Mapping[str, Next], cuts_per_hop: int) -> list[Cut]:
    """Each window of `paths`, and cuts_per_hop - 1 evenly spaced ones up to the next, where that is in `paths` too."""
    inside, cuts = set(paths), []
    for path in paths:
        after = following.get(path)
        steps = cuts_per_hop if after is not None and after.path in inside else 1
        cuts += [Cut(path, after if step else None, step / steps) for step in range(steps)]
    return cuts


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


def load_cuts(root: str | Path, cuts: Sequence[Cut], image_size: int, label: str | None = None) -> Tensor:
    """(n, 3, image_size, image_size) uint8; paths are relative to root; `label` names a progress bar."""
    needed = list(dict.fromkeys([cut.path for cut in cuts] + [cut.following.path for cut in cuts if cut.following]))
    place = {path: i for i, path in enumerate(needed)}
    images = load_images(root, needed, image_size, label)
    first = torch.tensor([place[cut.path] for cut in cuts])
    second = torch.tensor([place[cut.following.path if cut.following else cut.path] for cut in cuts])
    hop = torch.tensor([round(cut.following.shift * image_size) if cut.following else 0 for cut in cuts])
    begin = (hop * torch.tensor([cut.fraction for cut in cuts])).round().long()
    return cut_between(images[first], images[second], hop, begin)
