"""Image files ↔ arrays."""
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from groundwork.files import atomic_path


def load_image(path: str | Path, image_size: int) -> np.ndarray:
    """One image file as (image_size, image_size, 3) uint8 RGB; the short side is resized, the long side centre-cropped.

    Raises OSError, ValueError or PIL's own errors when the file is no complete image.
    """
    with Image.open(path) as image:
        image = image.convert("RGB")
    if image.size != (image_size, image_size):
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(image)


def save_image(path: str | Path, image: np.ndarray) -> None:
    """(height, width, 3) uint8 → an image file, whole or not at all; the format follows the suffix."""
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary)
