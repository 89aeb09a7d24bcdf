"""Image files: sort their names, and read and write them as arrays."""
import os
import re
import stat
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Sequence

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps

from groundwork.errors import InputError
from groundwork.files import atomic_path
from groundwork.memory import large_array
from groundwork.preparation import MIN_SIDE, Preparation
from groundwork.progress import Progress

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")      # others need external programs (EPS) or are rarely tested
SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}     # of files in these formats
UNDECIDED_MODES = ("I", "F")        # of PIL: 32-bit values, for which no two are black and white by themselves
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)      # open_image raises an error instead


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Sort key that compares digits as numbers (rotor2 before rotor10) and everything else as text."""
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in re.findall(r"\d+|\D+", name)]


@contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """Yield a file as a PIL image of which only the header has been read.

    Raises OSError, ValueError or PIL's own errors if it is no regular file, no image in one of FORMATS, too small, or
    so large that decoding it may exhaust memory.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("is no regular file")
    with Image.open(path, formats=FORMATS) as image:
        if min(image.size) < MIN_SIDE:
            raise ValueError(f"{image.size[0]} x {image.size[1]} pixels, expected at least {MIN_SIDE} each way")
        most = Image.MAX_IMAGE_PIXELS       # up to twice as many, PIL only warns
        if most is not None and image.width * image.height > most:
            raise Image.DecompressionBombError(f"{image.size[0]} x {image.size[1]} pixels, expected at most {most}")
        yield image


def size_as_shown(image: Image.Image) -> tuple[int, int]:
    """Width and height once the image is rotated as its EXIF data say."""
    width, height = image.size
    is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (height, width) if is_turned else (width, height)


def read_as_shown(path: str | Path) -> Image.Image:
    """Read an image file as a viewer shows it, with the values of the file. Of several pages, it is the first.

    The result is rotated as its EXIF data say, and transparent parts are black. Its mode is L (8 bits, grey), RGB,
    I;16 (16 bits), I (32 bits) or F (float). Raises errors as `open_image` does, or if the file is incomplete.
    """
    with open_image(path) as image:
        is_16_bit_png = image.format == "PNG" and image.mode == "I"       # for Pillow before 11.0
        image = ImageOps.exif_transpose(image)
        if is_16_bit_png or image.mode.startswith("I;16"):
            return Image.fromarray(np.asarray(image).astype(np.uint16))
        if image.mode in UNDECIDED_MODES:
            return image
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
        return image.convert("L" if image.mode in ("1", "L") else "RGB")


def to_picture(image: Image.Image, preparation: Preparation = Preparation()) -> Image.Image:
    """The part of an image that `preparation` keeps, with its levels and before `fit`, in mode L or RGB.

    image: from `read_as_shown`. Without levels, 16 bits are scaled to 8. Raises InputError if levels are needed and not
    given, or if the box to keep does not lie in the image.
    """
    box = preparation.box(image.size)
    if box != (0, 0, *image.size):
        image = image.crop(box)
    if preparation.levels is not None:
        return Image.fromarray(preparation.levelled(np.asarray(image)))
    if image.mode in UNDECIDED_MODES:
        low, high = image.getextrema()
        raise InputError(f"it holds 32-bit values, from {low:.6g} to {high:.6g}; say which become black and white: "
                         "--levels low high")
    if image.mode == "I;16":        # convert() would clip it to 255
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    return image


def load_image(path: str | Path, image_size: int, channels: int = 3, preparation: Preparation = Preparation()
               ) -> np.ndarray:
    """Read an image file as (image_size, image_size, channels) uint8.

    With 3 channels the result is RGB, and grey images repeat their value. With 1 channel it is grey, and colours become
    their luminance. `preparation` says what is kept of the file. Apart from that, the image looks as in an image viewer
    (see `read_as_shown`).

    Raises OSError, ValueError or PIL's own errors if the file is no complete image or has an absurd size, and
    InputError if it needs other settings.
    """
    image = to_picture(read_as_shown(path), preparation).convert("L" if channels == 1 else "RGB")
    return np.asarray(preparation.fitted(image, image_size)).reshape(image_size, image_size, channels)


def load_images(root: str | Path, paths: Sequence[str], image_size: int, label: str | None = None,
                channels: int = 3, preparation: Preparation = Preparation()) -> torch.Tensor:
    """Read image files into one tensor, (n, channels, image_size, image_size) uint8, in the order of `paths`.

    paths: relative to root.
    label: text of the progress bar; None: no bar.
    channels, preparation: as for load_image.

    Many images lie in a temporary file, see `large_array`. Raises InputError if a file cannot be read.
    """
    images = large_array((len(paths), channels, image_size, image_size))
    for i, path in enumerate(Progress(paths, desc=label, unit="image", hidden=not label)):
        try:
            images[i] = load_image(Path(root) / path, image_size, channels, preparation).transpose(2, 0, 1)
        except InputError as error:
            raise InputError(f"{Path(root) / path}: {error}") from None
        except Exception as error:      # PIL raises many kinds of errors on damaged files
            raise InputError(f"{Path(root) / path} cannot be decoded: {type(error).__name__}: {error}") from None
    return torch.from_numpy(images)


def save_image(path: str | Path, image: np.ndarray) -> None:
    """Write (height, width, 3 or 1) uint8 as an image file, completely or not at all. The suffix decides the format.

    PNG files are compressed at level 1: a spectrogram takes 10 ms instead of 26, and 11 % more bytes.
    """
    with atomic_path(path) as temporary:
        Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(temporary, compress_level=1)
