"""Animations of spectrograms: frames with titles in an endless loop, as GIF or WebP."""
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
from microdoppler.figures.fonts import plain_text, text_width
from microdoppler.figures.pictures import label_speeds, label_time

FILM_FORMATS = (".webp", ".gif")
MIN_SIDE = 256        # pixels; smaller images are enlarged to about this size, by a whole factor
DPI = 100
TITLE_PIXELS, MARGIN_PIXELS, SPEEDS_PIXELS, TIME_PIXELS = 46, 14, 38, 12        # margins of the image
TITLE_POINTS, LETTER = 9.0, 0.6     # font size of a title; mean width of a letter, relative to the font size
LOSSLESS, LOSSY = {"lossless": True, "method": 2}, {"quality": 90, "method": 2}     # method 0: a third larger


@dataclass(frozen=True)
class Frame:
    """One image of an animation.

    image: (s, s, 3 or 1) uint8.
    title: one or two lines above the image.
    seconds: how long it is shown.
    """
    image: Tensor
    title: str
    seconds: float


def check_film_path(path: Path) -> None:
    """Raises InputError if no animation can be written to this path."""
    if path.suffix.lower() not in FILM_FORMATS:
        raise InputError(f"{path} is no name for an animation; expected it to end in {' or '.join(FILM_FORMATS)}")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the name of a file for the animation")


def save_film(path: Path, frames: Sequence[Frame], axes: PictureAxes | None) -> None:
    """Write frames, whose images have the same size, as an animation, completely or not at all. The suffix decides the
    format.

    Colours are not rescaled, so a colour means the same in all frames. A GIF has 256 colours, which are chosen for all
    frames together. WebP is lossless for images smaller than MIN_SIDE: enlarged pixels compress well, and lossy
    compression would blur their edges. For larger images WebP is lossy, with high quality.
    """
    pictures = draw_frames(frames, axes)
    options: dict[str, Any] = LOSSLESS if frames[0].image.shape[0] < MIN_SIDE else LOSSY
    if path.suffix.lower() == ".gif":
        pictures, options = with_common_palette(pictures), {}
    with atomic_path(path) as temporary:
        pictures[0].save(temporary, save_all=True, append_images=pictures[1:], loop=0,
                         duration=[round(1000 * frame.seconds) for frame in frames], **options)


def draw_frames(frames: Sequence[Frame], axes: PictureAxes | None) -> list[Image.Image]:
    """Each frame with its title and axes, as an RGB image. All results have the same size. Pixels become squares of
    pixels if the frame is enlarged.
    """
    side = frames[0].image.shape[0]
    side *= max(1, round(MIN_SIDE / side))
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
    longest = max(text_width(line) for frame in frames for line in frame.title.splitlines())
    title = cell.set_title("", fontsize=min(TITLE_POINTS, side / DPI * 72 / (LETTER * longest)))
    pictures = []
    for frame in frames:
        shown.set_data(as_rgb(frame))
        title.set_text(plain_text(frame.title))
        canvas.draw()
        pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    return pictures


def as_rgb(frame: Frame) -> np.ndarray:
    """The image of a frame as (s, s, 3) uint8."""
    return frame.image.expand(-1, -1, 3).numpy()


def with_common_palette(pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """Convert RGB images of the same size to one palette of 256 colours, without dithering."""
    width, height = pictures[0].size
    strip = Image.new("RGB", (width, height * len(pictures)))
    for i, picture in enumerate(pictures):
        strip.paste(picture, (0, i * height))
    palette = strip.quantize(256)
    return [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
