"""Figures that were saved with margins, axes or a title: where the plot lies, and what of the rest tells the class."""
from dataclasses import dataclass
from typing import Sequence

import numpy as np

# Measured on figures of simulated walks that matplotlib saved as PNG and as JPEG (quality 75 and 95), in four colour
# maps, with and without axes, colour bar and title: the plot is found to 1 pixel, except without axes on white. No plot
# and no text is found in the real and the simulated images, which have none.
NOISE = 32              # of 255: JPEG changes constant pixels beside a plot by less
FRINGE = 3              # pixels around the plot, which its frame and JPEG's blur reach
MIN_SIDE_SHARE = 0.3    # of the image's side that a plot takes
LONG_RUN = 0.9          # of the longest row of pixels that are no margin: most of such rows belong to the plot
MAX_OFF = 0.03          # of the plot's width, by which such a row may begin or end elsewhere, as with a tick
FRAMED = 0.97           # share of the plot's four sides along which the line of a frame is seen
MAX_MARGIN_INSIDE = 0.02    # share of the plot in the margin's colour; with more, only a frame around it proves a plot
MIN_TEXT = 30           # pixels; fewer that differ are no text in a picture without margins
MIN_TEXT_IN_MARGIN = 5  # pixels; margins are constant, and two digits of a small title differ in no more
CONTRAST = 3 * NOISE    # of 255: between text and what is behind it
MAX_FRAME = 4           # pixels, the width of a frame's line


@dataclass(frozen=True, eq=False)
class Extremes:
    """The lowest and highest values of a set of images of one size.

    low, high: (h, w, 3) uint8; spread: (h, w) uint8, the largest difference between two images of one class.
    """
    low: np.ndarray
    high: np.ndarray
    spread: np.ndarray

    @staticmethod
    def of(classes: Sequence[Sequence[np.ndarray]]) -> "Extremes":
        """Of the images of each class, (h, w, 3) uint8, all of one size."""
        low, high = (np.array([bound(images, axis=0) for images in classes]) for bound in (np.min, np.max))
        return Extremes(low.min(axis=0), high.max(axis=0), (high - low).max(axis=(0, 3)))

    @property
    def difference(self) -> np.ndarray:
        """(h, w) uint8: the largest difference between two images."""
        return (self.high - self.low).max(axis=2)

    @property
    def middle(self) -> np.ndarray:
        """(h, w, 3) uint8: halfway between the darkest and the brightest."""
        return self.low + (self.high - self.low) // 2


def find_plot(found: Extremes, images: Sequence[np.ndarray]) -> tuple[int, int, int, int] | None:
    """The box (left, top, right, bottom) of the plot in figures with margins; None if no margins are seen.

    The margin has one colour, in the same place in all images, that is found at the image's edge. images: some of them,
    (h, w, 3) uint8.
    """
    colour = _margin_colour(found)
    if colour is None:
        return None
    ink = (found.difference > NOISE) | _differs(found.middle, colour)
    for box in _blocks(ink):
        left, top, right, bottom = box
        is_filled = np.mean([~_differs(image[top:bottom, left:right], colour) for image in images]) <= MAX_MARGIN_INSIDE
        if is_filled or _is_framed(found, ink, box):
            return _without_frame(found, box)
    return None


def tells_class(found: Extremes, box: tuple[int, int, int, int] | None) -> bool:
    """Whether something is the same in all images of a class and differs between classes, as a title with its name.

    It is looked for outside the box of the plot, or in the whole image where there is none.
    """
    differs = (found.difference > CONTRAST) & (found.spread <= NOISE) & _outside(found, box)
    return int(differs.sum()) >= (MIN_TEXT if box is None else MIN_TEXT_IN_MARGIN)


def text_differs(found: Extremes, box: tuple[int, int, int, int]) -> bool:
    """Whether something outside the box of the plot differs between images of one class, as a title with a number."""
    return int(((found.spread > CONTRAST) & _outside(found, box)).sum()) >= MIN_TEXT


def _outside(found: Extremes, box: tuple[int, int, int, int] | None) -> np.ndarray:
    outside = np.ones(found.spread.shape, bool)
    if box is not None:
        left, top, right, bottom = box
        outside[max(0, top - FRINGE):bottom + FRINGE, max(0, left - FRINGE):right + FRINGE] = False
    return outside


def _differs(image: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Which pixels of (h, w, 3) uint8 differ from a colour (3,): (h, w) bool."""
    return (np.abs(image.astype(np.int16) - colour) > NOISE).any(axis=2)


def _margin_colour(found: Extremes) -> np.ndarray | None:
    """The colour (3,) int16 of a whole edge of the image that is the same in all images; None if there is none."""
    difference, middle = found.difference, found.middle
    edges = [(difference[part], middle[part]) for part in (0, -1, (slice(None), 0), (slice(None), -1))]
    plain = []
    for changes, values in edges:
        colour = np.median(values, axis=0).astype(np.int16)
        if (changes <= NOISE).all() and not _differs(values[None], colour).any():
            plain.append(colour)
    return plain[0] if plain else None


def _blocks(ink: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Boxes that may be the plot, from rows whose longest runs of ink begin and end in the same columns.

    ink: (h, w) bool. The first box reaches from the first to the last of these rows, since rows between them may have
    the margin's colour inside a frame. The second one is their largest block without a gap. Boxes that are small, or
    all of the image, are left out.
    """
    height, width = ink.shape
    starts, stops = np.array([_longest_run(row) for row in ink]).T
    lengths = stops - starts
    long = lengths >= LONG_RUN * lengths.max()
    left, right = (int(np.median(ends[long])) for ends in (starts, stops))      # few rows are longer, by a tick
    near = np.maximum(np.abs(starts - left), np.abs(stops - right)) <= max(2, MAX_OFF * (right - left))
    spans = [(int(near.argmax()), height - int(near[::-1].argmax())), _longest_run(near)]
    return [(left, top, right, bottom) for top, bottom in spans
            if bottom - top >= MIN_SIDE_SHARE * height and right - left >= MIN_SIDE_SHARE * width
            and (right - left, bottom - top) != (width, height)]


def _longest_run(row: np.ndarray) -> tuple[int, int]:
    """Where the longest run of True in (n,) bool begins, and where it has ended; 0, 0 if there is none."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]]))).reshape(-1, 2)
    return tuple(edges[np.diff(edges).argmax()].tolist()) if len(edges) else (0, 0)


def _is_framed(found: Extremes, ink: np.ndarray, box: tuple[int, int, int, int]) -> bool:
    """Whether the outermost lines of the box are ink that is the same in all images."""
    left, top, right, bottom = box
    line = ink & (found.difference <= NOISE)
    sides = (line[top:top + MAX_FRAME, left:right].any(axis=0), line[bottom - MAX_FRAME:bottom, left:right].any(axis=0),
             line[top:bottom, left:left + MAX_FRAME].any(axis=1), line[top:bottom, right - MAX_FRAME:right].any(axis=1))
    return all(side.mean() >= FRAMED for side in sides)


def _without_frame(found: Extremes, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """The box without the lines of its frame: those that never change and differ from the lines further inside."""
    left, top, right, bottom = box
    middle, still = found.middle.astype(np.int16), found.difference <= NOISE

    def width_of_frame(lines: np.ndarray, is_still: np.ndarray) -> int:
        differs = np.abs(lines[:MAX_FRAME] - lines[MAX_FRAME]).max(axis=2) > NOISE
        frame = (is_still[:MAX_FRAME].mean(axis=1) > 0.9) & (differs.mean(axis=1) > 0.5)
        return int(frame.nonzero()[0].max(initial=-1)) + 1

    lines, is_still = middle[top:bottom, left:right], still[top:bottom, left:right]
    columns, still_columns = lines.swapaxes(0, 1), is_still.T
    return (left + width_of_frame(columns, still_columns), top + width_of_frame(lines, is_still),
            right - width_of_frame(columns[::-1], still_columns[::-1]),
            bottom - width_of_frame(lines[::-1], is_still[::-1]))
