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
from PIL import Image, ImageOps

from groundwork.errors import InputError
from groundwork.files import atomic_path
from groundwork.progress import Progress

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")      # others need external programs (EPS) or are rarely tested
MIN_SIDE = 8      # pixels; a smaller image is no spectrogram


def time_order(name: str) -> tuple[int, str]:
    """Sort key: the last number in the file's name, as a number (…Doppler9 before …Doppler10). Names without one come
    first.
    """
    numbers = re.findall(r"\d+", Path(name).stem)
    return (int(numbers[-1]) if numbers else -1, name)


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
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)      # up to twice its size limit PIL only warns
        with Image.open(path, formats=FORMATS) as image:
            if min(image.size) < MIN_SIDE:
                raise ValueError(f"{image.size[0]} x {image.size[1]} pixels, expected at least {MIN_SIDE} each way")
            yield image


def load_image(path: str | Path, image_size: int, channels: int = 3) -> np.ndarray:
    """Read an image file as (image_size, image_size, channels) uint8.

    An image that is not square is resized by its short side, and its long side is cropped evenly. With 3 channels the
    result is RGB, and grey images repeat their value. With 1 channel it is grey, and colours become their luminance.

    The image looks as in an image viewer: it is rotated as its EXIF data say, 16 bits are scaled to 8, and transparent
    parts are black. Raises OSError, ValueError or PIL's own errors if the file is no complete image or has an absurd
    size.
    """
    with open_image(path) as image:
        image = _as_rgb(ImageOps.exif_transpose(image)).convert("L" if channels == 1 else "RGB")
    if image.size != (image_size, image_size):
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(image_size, image_size, channels)


def _as_rgb(image: Image.Image) -> Image.Image:
    """A PIL image of any mode, converted to 8-bit RGB."""
    if image.mode.startswith("I"):      # 16 bits; convert() would clip them to 255
        return Image.fromarray((np.asarray(image).astype(np.uint32) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert("RGB")
    return image.convert("RGB")


def load_images(root: str | Path, paths: Sequence[str], image_size: int, label: str | None = None,
                channels: int = 3) -> torch.Tensor:
    """Read image files into one tensor, (n, channels, image_size, image_size) uint8, in the order of `paths`.

    paths: relative to root.
    label: text of the progress bar; None: no bar.
    channels: 3 or 1, as for load_image.

    Raises InputError if a file cannot be read.
    """
    images = np.empty((len(paths), image_size, image_size, channels), dtype=np.uint8)
    for i, path in enumerate(Progress(paths, desc=label, unit="image", hidden=not label)):
        try:
            images[i] = load_image(Path(root) / path, image_size, channels)
        except Exception as error:      # PIL raises many kinds of errors on damaged files
            raise InputError(f"{Path(root) / path} cannot be decoded: {type(error).__name__}: {error}") from None
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def save_image(path: str | Path, image: np.ndarray) -> None:
    """Write (height, width, 3 or 1) uint8 as an image file, completely or not at all. The suffix decides the format."""
    with atomic_path(path) as temporary:
        Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(temporary)
