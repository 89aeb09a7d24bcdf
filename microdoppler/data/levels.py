"""Images that use a small part of their range of values, as 12 bits in files of 16 do, and the levels that mend it."""
from typing import Sequence

import numpy as np
from PIL import Image

from groundwork.preparation import Preparation

FULL_RANGE = {"L": 255.0, "RGB": 255.0, "I;16": 65535.0}        # by PIL's mode; unknown for others
VALUES_PER_IMAGE = 5000     # that are looked at
OUTSIDE = 0.1               # per cent of the values, on each side, that may be single dark or bright pixels
# Share of the range between them. The real images use 1.0 of it, simulated ones at least 0.86 (drones in grey). 12 bits
# in 16 use 0.06 at most, 13 bits 0.12.
MIN_USED = 0.2


def find_levels(images: Sequence[Image.Image], preparation: Preparation) -> tuple[float, float] | None:
    """The levels to propose; None if the images use their range. images: from `read_as_shown`, at least one.

    Whole numbers from 0 on get the smallest range 0 … 2^n - 1 that holds them, as the sensor had n bits. Others get the
    values that nearly all pixels lie between.
    """
    values = np.concatenate([_some_values(image, preparation) for image in images])
    full = 255.0 if preparation.levels else max(FULL_RANGE.get(image.mode, np.inf) for image in images)
    low, high = (float(value) for value in np.percentile(values, (OUTSIDE, 100 - OUTSIDE)))
    if low == high or high - low >= MIN_USED * full:
        return None
    if preparation.levels:          # back to the values of the file
        start, stop = preparation.levels
        low, high = (start + value / 255 * (stop - start) for value in (low, high))
    elif 0 <= low < MIN_USED * high and not (values % 1).any():
        return 0, 2 ** int(values.max()).bit_length() - 1
    return float(f"{low:.4g}"), float(f"{high:.4g}")


def _some_values(image: Image.Image, preparation: Preparation) -> np.ndarray:
    """Some finite values of the part that is kept, evenly spread: (n,) float64."""
    values = np.asarray(image.crop(preparation.box(image.size)))
    if preparation.levels:
        values = preparation.levelled(values)
    values = values.ravel()[::max(1, values.size // VALUES_PER_IMAGE)].astype(np.float64)
    return values[np.isfinite(values)]
