"""How an image file becomes a square array of 8 bits: the part of it that is kept, its levels, and its shape."""
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from groundwork.errors import InputError

FITS = ("stretch", "crop", "pad")
MIN_SIDE = 8      # pixels; a smaller image is no spectrogram
LARGEST = 2 ** 53       # of the numbers given; beyond it, float64 lacks some whole numbers


class Region(NamedTuple):
    """Where a square lies in a picture, as shares of the picture's width and height from its upper left corner.

    Below 0 and above 1 are the borders of a square that shows more than the picture.
    """
    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """The share of the picture's width; more than 1 with borders."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """The share of the picture's height; more than 1 with borders."""
        return self.bottom - self.top


@dataclass(frozen=True)
class Preparation:
    """How image files become square arrays: first `crop`, then `levels`, then `fit`.

    fit: what happens to a picture that is not square. stretch: each axis is resized on its own, so that all of the
    picture is kept. crop: the middle of the longer axis is kept. pad: black borders along the longer sides.
    crop: the box of the file that is kept, (left, top, right, bottom), as in PIL: in pixels, or as shares of width and
    height if no value is above 1. None: the whole file.
    levels: the two values of the file that become black and white; values beyond them are clipped. None: the whole
    range of the file's type, 255 or 65535.

    Raises InputError for other values.
    """
    fit: str = "stretch"
    crop: tuple[float, float, float, float] | None = None
    levels: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise InputError(f"--fit is {self.fit!r}; expected {', '.join(FITS[:-1])} or {FITS[-1]}")
        if self.crop is not None:
            left, top, right, bottom = crop = _numbers("--crop", self.crop, "left top right bottom")
            if not (0 <= left < right and 0 <= top < bottom):
                raise InputError(f"--crop is {as_option(crop)}; expected left top right bottom of the box to keep, "
                                 "counted from the upper left corner, with left < right and top < bottom")
            if max(crop) > 1 and any(value % 1 for value in crop):
                raise InputError(f"--crop is {as_option(crop)}; expected whole pixels, or four shares of at most 1")
            object.__setattr__(self, "crop", crop)
        if self.levels is not None:
            low, high = levels = _numbers("--levels", self.levels, "low high")
            if not low < high:
                raise InputError(f"--levels is {as_option(levels)}; expected the values that become black and white, "
                                 "the lower one first")
            object.__setattr__(self, "levels", levels)

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON's types."""
        return {"fit": self.fit, "crop": self.crop and list(self.crop), "levels": self.levels and list(self.levels)}

    @staticmethod
    def from_json(value: Any) -> "Preparation":
        """The inverse of to_json. Raises InputError if `value` is not what it returns."""
        if not isinstance(value, dict) or value.keys() != {"fit", "crop", "levels"}:
            raise InputError(f"preparation is {value!r}; expected fit, crop and levels")
        return Preparation(**value)

    def box(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """The box (left, top, right, bottom) in pixels that is kept of an image of this size (width, height).

        Raises InputError when it reaches beyond the image, or fewer than MIN_SIDE pixels are left.
        """
        width, height = size
        if self.crop is None:
            return 0, 0, width, height
        scale = (width, height, width, height) if max(self.crop) <= 1 else (1, 1, 1, 1)
        left, top, right, bottom = (round(value * factor) for value, factor in zip(self.crop, scale))
        if right > width or bottom > height or min(right - left, bottom - top) < MIN_SIDE:
            raise InputError(f"--crop {as_option(self.crop)} cannot be cut out of an image of {width} x {height} "
                             f"pixels; expected a box inside it, of at least {MIN_SIDE} pixels each way")
        return left, top, right, bottom

    def region_of_box(self, size: tuple[int, int]) -> Region:
        """Where the square lies in what `crop` keeps of an image of this size (width, height).

        An axis in seconds or m/s that is known for the kept box becomes that of the square by it. With pad, the borders
        may be half a pixel of the square wider or narrower. Raises InputError as `box` does.
        """
        left, top, right, bottom = self.box(size)
        width, height = right - left, bottom - top
        if self.fit == "stretch":
            return Region(0.0, 0.0, 1.0, 1.0)
        side = min(width, height) if self.fit == "crop" else max(width, height)
        x, y = side / width, side / height
        return Region((1 - x) / 2, (1 - y) / 2, (1 + x) / 2, (1 + y) / 2)

    def region_of_file(self, size: tuple[int, int]) -> Region:
        """Where the square lies in an image of this size (width, height). Raises InputError as `box` does."""
        left, top, right, bottom = self.box(size)
        region = self.region_of_box(size)
        (x, width), (y, height) = (left, right - left), (top, bottom - top)
        return Region((x + region.left * width) / size[0], (y + region.top * height) / size[1],
                      (x + region.right * width) / size[0], (y + region.bottom * height) / size[1])

    def fitted(self, image: Image.Image, image_size: int) -> Image.Image:
        """A picture, already cut to the box, as a square of image_size pixels."""
        square = (image_size, image_size)
        if image.size == square:
            return image
        if self.fit == "stretch":
            return image.resize(square, Image.Resampling.BICUBIC)
        fit = ImageOps.fit if self.fit == "crop" else ImageOps.pad
        return fit(image, square, Image.Resampling.BICUBIC)

    def levelled(self, values: np.ndarray) -> np.ndarray:
        """Values of a file, of any type and shape, as uint8 by `levels`, which must be given. NaN becomes black."""
        assert self.levels is not None
        low, high = self.levels
        scaled = (values.astype(np.float64) - low) * (255 / (high - low))
        return np.nan_to_num(scaled).clip(0, 255).round().astype(np.uint8)


def _numbers(option: str, values: Any, names: str) -> tuple[float, ...]:
    """The values, once it is certain that they are as many finite numbers as there are names."""
    count = len(names.split())
    if (not isinstance(values, (list, tuple)) or len(values) != count
            or not all(isinstance(value, (int, float)) and abs(value) <= LARGEST for value in values)):
        raise InputError(f"{option} is {values!r}; expected {count} numbers: {names}")
    return tuple(values)


def as_option(values: tuple[float, ...]) -> str:
    """The values of an option as they are given on a command line."""
    return " ".join(f"{value:.12g}" if isinstance(value, float) else str(value) for value in values)
