"""Image files: their order in time, and to and from arrays."""
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
from tqdm import tqdm

from groundwork.errors import InputError
from groundwork.files import atomic_path

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")      # others start programs (EPS) or are rarely tested
LEAST_SIDE = 8      # pixels; smaller is no spectrogram


def time_order(name: str) -> tuple[int, str]:
    """Sort key: the last number in the file's name, as a number (…Doppler9 before …Doppler10)."""
    numbers = re.findall(r"\d+", Path(name).stem)
    return (int(numbers[-1]) if numbers else -1, name)


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Sort key: runs of digits as the numbers that they are (rotor2 before rotor10), all else as text."""
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in re.findall(r"\d+|\D+", name)]


@contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """Yield PIL's image of a file, of which nothing but the header is read yet; errors as load_image's."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("is no regular file")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)      # PIL only warns up to twice its limit
        with Image.open(path, formats=FORMATS) as image:
            if min(image.size) < LEAST_SIDE:
                raise ValueError(f"{image.size[0]} x {image.size[1]} pixels, expected at least {LEAST_SIDE} each way")
            yield image


def load_image(path: str | Path, image_size: int, channels: int = 3) -> np.ndarray:
    """One image file as (image_size, image_size, channels) uint8; the short side is resized, the long side cropped.

    Of 3 channels RGB, grey repeated; of 1 grey, colours as their luminance. As a viewer shows it: turned as EXIF says,
    16 bits scaled to 8, transparency on black. Raises OSError, ValueError or
    PIL's own errors when the file is no complete image, or one of absurd size.
    """
    with open_image(path) as image:
        image = _as_rgb(ImageOps.exif_transpose(image)).convert("L" if channels == 1 else "RGB")
    if image.size != (image_size, image_size):
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(image_size, image_size, channels)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):      # 16 bits, which convert would clip to 255
        return Image.fromarray((np.asarray(image).astype(np.uint32) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert("RGB")
    return image.convert("RGB")


def load_images(root: str | Path, paths: Sequence[str], image_size: int, label: str | None = None,
                channels: int = 3) -> torch.Tensor:
    """(n, channels, image_size, image_size) uint8, in the order of `paths` (relative to root); `label` names a progress
    bar; channels as load_image's.

    Raises InputError when a file cannot be read.
    """
    images = np.empty((len(paths), image_size, image_size, channels), dtype=np.uint8)
    for i, path in enumerate(tqdm(paths, desc=label, unit="image", disable=None if label else True)):
        try:
            images[i] = load_image(Path(root) / path, image_size, channels)
        except Exception as error:      # a broken file makes PIL raise nearly anything
            raise InputError(f"{Path(root) / path} cannot be decoded: {type(error).__name__}: {error}") from None
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def save_image(path: str | Path, image: np.ndarray) -> None:
    """(height, width, 3 or 1) uint8 → an image file, whole or not at all; the format follows the suffix."""
    with atomic_path(path) as temporary:
        Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(temporary)
