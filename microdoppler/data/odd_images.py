"""Single images that are unlike the rest: with a part of a window in them, blank, turned, or half missing."""
from typing import Sequence

import numpy as np

THUMBNAIL = 64          # pixels per side at which images are compared
CELLS = 16              # per side, whose mean colours are compared
ALIKE_SHARE = 0.01      # of the images, and at least MIN_ALIKE: so many odd images may have the same fault
MIN_ALIKE = 3
MIN_IMAGES = 50         # with fewer, it is not known what the rest looks like
# Measured on six real persons (939 images) and on simulated persons, drones and gestures in colour and in grey (4 000):
# the one image with a toolbar has 12, the median of all images is below 0.1. MIN_EXCESS and TIMES_NEIGHBOURS together
# find it, one more (with the strongest interference of all), and none of the simulated ones. Of two persons alone, at
# most 2 of 300 are found without need. Toolbars put into any image have 6 or more.
MIN_EXCESS = 5.0        # grey levels, of 255
TIMES_NEIGHBOURS = 3    # how much more than the neighbours in time: interference lasts, and is then in them as well


def cell_means(image: np.ndarray) -> np.ndarray:
    """(THUMBNAIL, THUMBNAIL, 3) uint8 → the mean colours of its cells, (CELLS, CELLS, 3) float32."""
    side = THUMBNAIL // CELLS
    return image.reshape(CELLS, side, CELLS, side, 3).mean(axis=(1, 3), dtype=np.float32)


def find_odd(cells: np.ndarray, classes: Sequence[str]) -> list[int]:
    """The positions of the images that are unlike the rest.

    cells: (n, CELLS, CELLS, 3) float32, `cell_means` of n images, those of a class one after another in time order;
    classes: of each of them. Empty with fewer than MIN_IMAGES.

    The excess of an image is how far its cells lie outside the values that the same cells have in the other images, in
    the mean over its cells. The few most extreme of those are left out, in case they are odd too.
    """
    if len(cells) < MIN_IMAGES:
        return []
    alike = max(MIN_ALIKE, int(ALIKE_SHARE * len(cells)))
    ordered = np.sort(cells, axis=0)
    outside = np.maximum(ordered[alike] - cells, cells - ordered[-1 - alike]).clip(min=0)
    excess = outside.max(axis=3).mean(axis=(1, 2))
    same_class = np.array([one == other for one, other in zip(classes, classes[1:])])
    of_neighbours = np.zeros_like(excess)
    of_neighbours[1:] = excess[:-1] * same_class
    of_neighbours[:-1] = np.maximum(of_neighbours[:-1], excess[1:] * same_class)
    return np.flatnonzero((excess >= MIN_EXCESS) & (excess > TIMES_NEIGHBOURS * of_neighbours)).tolist()
