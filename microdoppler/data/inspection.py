"""A look at image files before anything is made of them: what is cut or stretched, margins and titles, unused levels,
and single images that are unlike the rest. Each finding says which option mends it.
"""
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from groundwork.errors import InputError, printable, shortened
from groundwork.images import UNDECIDED_MODES, load_image, open_image, read_as_shown, size_as_shown, to_picture
from groundwork.preparation import Preparation, as_option
from groundwork.progress import Progress
from microdoppler.data.levels import find_levels
from microdoppler.data.margins import Extremes, find_plot, tells_class, text_differs
from microdoppler.data.odd_images import THUMBNAIL, cell_means, find_odd
from microdoppler.figures.fonts import plain_text

MAX_SAMPLE = 200            # images that are looked at in full size
MAX_SAMPLE_PIXELS = 5e7     # of all of them together; 0.15 GB
MIN_PER_CLASS = 5           # of these images; fewer are alike by chance
GREY_MODES = ("1", "L", "LA", "I", "F")     # of PIL
SHOWN_SIZE = 256            # pixels per side of the square in the figure
Size = tuple[int, int]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Inspection:
    """What was found out about the images of a data set.

    preparation: with which they were looked at; sizes: {class folder: {(width, height): number of images}}; num_grey:
    number of files without colours, by their headers; num_pages:
    number of images with more pages than the one that is read; crop, levels: what is proposed, as in Preparation, or
    None; has_class_text, has_image_text: whether something, such as a title, is the same in all images of a class and
    differs between classes, or differs between images beside the plot; odd: paths of images unlike the rest; example:
    the path of an image of the usual size, for the figure.
    """
    preparation: Preparation
    sizes: dict[str, dict[Size, int]]
    num_grey: int
    num_pages: int
    crop: tuple[float, float, float, float] | None
    levels: tuple[float, float] | None
    has_class_text: bool
    has_image_text: bool
    odd: list[str]
    example: Path

    @property
    def lines(self) -> list[str]:
        """Notes, and warnings that begin with "warning:", to print. Empty if nothing was found."""
        lines = [*self._lines_about_sizes(), *self._lines_about_margins()]
        total = sum(sum(sizes.values()) for sizes in self.sizes.values())
        if 0 < self.num_grey < total:
            lines.append(f"warning: {self.num_grey} of {total} images are grey, the others in colour; a network sees "
                         "that: save all in one way")
        if self.num_pages:
            lines.append(f"{self.num_pages} images have several pages; only the first page is read")
        if self.levels is not None:
            lines.append("warning: the images use a small part of the values that their files allow, and come out "
                         f"nearly black or flat: --levels {as_option(self.levels)}")
        if self.odd:
            lines.append(f"warning: unlike the rest: {shortened(self.odd)}; look at them, and remove those that show "
                         "something else")
        return [printable(line) for line in lines]

    def _lines_about_sizes(self) -> list[str]:
        """What is cut or stretched, and which classes have other sizes than the rest."""
        counts: Counter[Size] = sum(map(Counter, self.sizes.values()), Counter())
        shapes = [line for size, _ in counts.most_common(3) if (line := self._line_about_shape(size))]
        if len(counts) == 1:
            return shapes
        described = [f"{count} of {width} x {height}" for (width, height), count in counts.most_common()]
        lines = [f"warning: the images differ in size: {shortened(described)}; resizing blurs them differently, and a "
                 "network may see that"]
        usual = counts.most_common(1)[0][0]
        others = [name for name, sizes in self.sizes.items() if usual not in sizes]
        if others:
            lines.append(f"warning: {shortened(others)} has no image of the usual size: the size gives the class away, "
                         "and accuracies will be too good; save all classes in one way")
        return shapes + lines

    def _line_about_shape(self, size: Size) -> str:
        """What happens to images of this size that are not square; empty for others."""
        left, top, right, bottom = self.preparation.box(size)
        width, height = right - left, bottom - top
        if width == height:
            return ""
        region = self.preparation.region_of_box(size)
        axis, shown = ("width", region.width) if width > height else ("height", region.height)
        if self.preparation.fit == "stretch":
            return f"images of {width} x {height} become square: each axis is resized on its own (--fit stretch)"
        if self.preparation.fit == "crop":
            return (f"warning: {1 - shown:.0%} of the {axis} of images of {width} x {height} is cut away (--fit crop); "
                    "--fit stretch keeps all of it")
        short = "height" if width > height else "width"
        extra = max(region.width, region.height) - 1
        return f"images of {width} x {height} get black borders, {extra:.0%} of their {short} (--fit pad)"

    def _lines_about_margins(self) -> list[str]:
        """The proposed crop, and what may hold the label."""
        lines = []
        if self.crop is not None:
            lines.append("warning: the images are figures with margins or axes; to keep only the plot: --crop "
                         f"{as_option(self.crop)}")
        if self.has_class_text:
            lines.append("warning: something is the same in all images of a class and differs between classes, as a "
                         "title with the label does; a network reads it, and accuracies mean nothing: cut it away"
                         + ("" if self.crop else " with --crop"))
        elif self.has_image_text:
            lines.append("warning: text beside the plot differs between images; it may hold the label: cut it away")
        return lines

    def figure(self) -> Figure:
        """An image as its file is, with the part that would be kept, and the square that would become of it."""
        proposed = self.proposal()
        picture = to_picture(read_as_shown(self.example), replace(proposed, crop=None))
        left, top, right, bottom = proposed.box(picture.size)
        figure = Figure(figsize=(9, 4.5), layout="constrained")
        before, after = figure.subplots(1, 2)
        before.imshow(picture, cmap="gray", vmin=0, vmax=255)
        before.add_patch(Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor="magenta",
                                   linewidth=2))
        before.set_title(plain_text(f"{self.example.parent.name}/{self.example.name}, and what is kept"), fontsize=8)
        after.imshow(load_image(self.example, SHOWN_SIZE, preparation=proposed))
        after.set_title(f"after --fit {proposed.fit}"
                        + (f" --crop {as_option(proposed.crop)}" if proposed.crop else "")
                        + (f" --levels {as_option(proposed.levels)}" if proposed.levels else ""), fontsize=8)
        return figure

    def proposal(self) -> Preparation:
        """The preparation with the proposed crop and levels."""
        return replace(self.preparation, crop=self.crop or self.preparation.crop,
                       levels=self.levels or self.preparation.levels)


def inspect(root: str | Path, images: dict[int, list[str]], preparation: Preparation = Preparation()) -> Inspection:
    """Look at the images of a data set. images: {user number: paths relative to root, in time order}.

    All headers are read, all images in small, and at most MAX_SAMPLE in full size. Images that cannot be read are left
    out; `drop_broken` names them. Raises InputError if no image can be read, or if a crop does not fit them.
    """
    root = Path(root)
    size_of, num_grey, num_pages = _headers(root, images)
    if not size_of:
        raise InputError(f"none of the images in {root} can be read; expected PNG, JPEG, TIFF or the like")
    for size in set(size_of.values()):
        preparation.box(size)       # says so if the crop does not lie in one of them
    sizes: dict[str, Counter[Size]] = {}
    for name, size in size_of.items():
        sizes.setdefault(name.split("/")[0], Counter())[size] += 1
    usual = sum(sizes.values(), Counter()).most_common(1)[0][0]
    alike = [[name for name in names if size_of.get(name) == usual] for names in images.values()]
    sample = [[image for name in names if (image := _readable(root / name))] for names in _sample(alike, usual)]
    levels = find_levels([image for own in sample for image in own], preparation)
    plot, class_text, image_text, odd = None, False, False, []
    if preparation.levels or not any(image.mode in UNDECIDED_MODES for own in sample for image in own):
        pictures = [[np.asarray(to_picture(image, preparation).convert("RGB")) for image in own] for own in sample]
        plot, class_text, image_text = _find_margins(pictures)
        odd = _find_odd(root, [name for names in images.values() for name in names if name in size_of], preparation)
    crop = None if plot is None else _in_file(plot, usual, preparation, as_shares=len(set(size_of.values())) > 1)
    return Inspection(preparation, {name: dict(found) for name, found in sizes.items()}, num_grey, num_pages, crop,
                      levels, class_text, image_text, odd, root / next(name for names in alike for name in names))


def _headers(root: Path, images: dict[int, list[str]]) -> tuple[dict[str, Size], int, int]:
    """({path: size} of the images whose headers can be read, the number of grey ones, of those with several pages)."""
    found, num_grey, num_pages = {}, 0, 0
    for name in (name for names in images.values() for name in names):
        try:
            with open_image(root / name) as image:
                found[name] = size_as_shown(image)
                num_grey += image.mode in GREY_MODES or image.mode.startswith("I;16")
                num_pages += getattr(image, "n_frames", 1) > 1
        except Exception:       # a broken file makes PIL raise nearly anything
            continue
    return found, num_grey, num_pages


def _sample(classes: list[list[str]], size: Size) -> list[list[str]]:
    """For some classes the paths of some images, both evenly spread: MAX_SAMPLE images at most."""
    budget = int(min(MAX_SAMPLE, max(2 * MIN_PER_CLASS, MAX_SAMPLE_PIXELS / (size[0] * size[1]))))
    some = _spread([names for names in classes if names], budget // MIN_PER_CLASS)
    return [_spread(names, budget // len(some)) for names in some]


def _spread(values: list, count: int) -> list:
    """At most `count` of the values, evenly spread."""
    return [values[i] for i in np.unique(np.linspace(0, len(values) - 1, min(count, len(values))).astype(int))]


def _readable(path: Path) -> Image.Image | None:
    try:
        return read_as_shown(path)
    except Exception:       # as in _headers
        return None


def _find_margins(classes: list[list[np.ndarray]]) -> tuple[Box | None, bool, bool]:
    """(the box of the plot, has_class_text, has_image_text), from the pictures of each class, of one size."""
    classes = [own for own in classes if len(own) >= MIN_PER_CLASS]
    if not classes:
        return None, False, False
    found = Extremes.of(classes)
    plot = find_plot(found, [own[0] for own in classes])
    return plot, tells_class(found, plot), plot is not None and text_differs(found, plot)


def _in_file(box: Box, size: Size, preparation: Preparation, as_shares: bool) -> tuple[float, float, float, float]:
    """A box of the part that is kept as a box of the file, in pixels or as shares of the size."""
    left, top = preparation.box(size)[:2]
    pixels = (box[0] + left, box[1] + top, box[2] + left, box[3] + top)
    if not as_shares:
        return pixels
    x0, y0, x1, y1 = (round(position / side, 4) for position, side in zip(pixels, size * 2))
    return x0, y0, x1, y1


def _find_odd(root: Path, names: list[str], preparation: Preparation) -> list[str]:
    """The paths of the images that are unlike the rest."""
    cells, read = [], []
    for name in Progress(names, desc="looking at images", unit="image"):
        try:
            cells.append(cell_means(load_image(root / name, THUMBNAIL, preparation=preparation)))
            read.append(name)
        except Exception:       # as in _headers
            continue
    return [read[i] for i in find_odd(np.array(cells), [name.split("/")[0] for name in read])]
