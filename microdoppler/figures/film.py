"""Moving pictures of spectrograms: titled frames that loop for ever, as GIF or WebP."""
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from groundwork.errors import InputError
from groundwork.files import atomic_path
from microdoppler.figures.axes import PictureAxes
from microdoppler.figures.pictures import label_speeds, label_time
from microdoppler.figures.report import plain_text

FILM_FORMATS = (".webp", ".gif")
LEAST_SIDE = 256        # smaller pictures are shown this large, in whole multiples of a pixel
DPI = 100
TITLE_PIXELS, MARGIN_PIXELS, SPEEDS_PIXELS, TIME_PIXELS = 46, 14, 38, 12        # around the picture
TITLE_POINTS, LETTER = 9.0, 0.6     # of a title's font; a letter's mean width as a share of it
LOSSLESS, LOSSY = {"lossless": True, "method": 2}, {"quality": 90, "method": 2}     # method 0 packs a third worse


@dataclass(frozen=True)
class Frame:
    """image (s, s, 3 or 1) uint8; title: one or two lines above it; seconds: how long it stands."""
    image: Tensor
    title: str
    seconds: float


def check_film_path(path: Path) -> None:
    """Raises InputError when no film can be written under that name."""
    if path.suffix.lower() not in FILM_FORMATS:
        raise InputError(f"{path} is no name for an animation; expected it to end in {' or '.join(FILM_FORMATS)}")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the name of a file for the animation")


def save_film(path: Path, frames: Sequence[Frame], axes: PictureAxes | None) -> None:
    """Frames of one image size → an animated file, whole or not at all; the format follows the suffix.

    All images are drawn as they are, so that a colour means the same in each: a GIF's 256 colours are chosen for all
    frames together. WebP is lossless where pixels are enlarged (their repetition packs well, and their edges would
    blur), else of high quality.
    """
    pictures = draw_frames(frames, axes)
    options: dict[str, Any] = LOSSLESS if frames[0].image.shape[0] < LEAST_SIDE else LOSSY
    if path.suffix.lower() == ".gif":
        pictures, options = with_common_palette(pictures), {}
    with atomic_path(path) as temporary:
        pictures[0].save(temporary, save_all=True, append_images=pictures[1:], loop=0,
                         duration=[round(1000 * frame.seconds) for frame in frames], **options)


def draw_frames(frames: Sequence[Frame], axes: PictureAxes | None) -> list[Image.Image]:
    """Each with its title and axes as an RGB picture, all of one size; a pixel of an image is a square of pixels."""
    side = frames[0].image.shape[0]
    side *= max(1, round(LEAST_SIDE / side))
    left, bottom = MARGIN_PIXELS + (SPEEDS_PIXELS if axes else 0), MARGIN_PIXELS + (TIME_PIXELS if axes else 0)
    width, height = left + side + MARGIN_PIXELS, bottom + side + TITLE_PIXELS
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    cell = figure.add_axes((left / width, bottom / height, side / width, side / height),
                           xticks=[], yticks=[], frame_on=False)
    shown = cell.imshow(as_rgb(frames[0]), interpolation="nearest", aspect="auto",
                        extent=axes.extent if axes else None)
    if axes is not None:
        label_time(cell, axes)
        label_speeds(cell, axes)
    longest = max(len(line) for frame in frames for line in frame.title.splitlines())
    title = cell.set_title("", fontsize=min(TITLE_POINTS, side / DPI * 72 / (LETTER * longest)))
    pictures = []
    for frame in frames:
        shown.set_data(as_rgb(frame))
        title.set_text(plain_text(frame.title))
        canvas.draw()
        pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    return pictures


def as_rgb(frame: Frame) -> np.ndarray:
    return frame.image.expand(-1, -1, 3).numpy()


def with_common_palette(pictures: Sequence[Image.Image]) -> list[Image.Image]:
    width, height = pictures[0].size
    strip = Image.new("RGB", (width, height * len(pictures)))
    for i, picture in enumerate(pictures):
        strip.paste(picture, (0, i * height))
    palette = strip.quantize(256)
    return [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
