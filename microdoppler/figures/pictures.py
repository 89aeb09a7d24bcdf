"""Figures with many spectrograms."""
import math
from typing import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from microdoppler.figures.axes import PictureAxes
from microdoppler.figures.fonts import plain_text
from microdoppler.figures.legend import Legend
from microdoppler.figures.report import FIGURE_DPI

CELL_INCHES = 1.4
LABEL_INCHES = 0.5      # space for labels at the left of a block
ROWS_PER_COLUMN = 2     # with more rows per column of images, a grid is split into blocks: 31 users fit on a page

Row = tuple[str, Sequence[Tensor]]


def sample_grid(real: Mapping[int, Tensor], samples: Mapping[int, Tensor], legend: Legend, caption: str) -> Figure:
    """One row per user: a real image (channels, s, s) and the user's samples (columns, channels, s, s), uint8.

    The first sample comes from the same noise in every picture.
    """
    rows = [(legend.figure_names[user], [real[user], *samples[user]]) for user in samples]
    return image_grid(rows, ["real", "same noise", "new noise"], caption, legend.axes)


def image_grid(rows: Sequence[Row], column_titles: Sequence[str], caption: str = "",
               axes: PictureAxes | None = None) -> Figure:
    """A figure with rows of (label, images), each image (3 or 1, s, s) uint8.

    column_titles: titles above the first columns.
    caption: text above the figure.
    axes: of every image.

    Colours are not rescaled, so a colour means the same in all images. Many rows are split into blocks side by side.
    """
    columns, image_size = max(len(images) for _, images in rows), rows[0][1][0].shape[-1]
    blocks = max(1, round(math.sqrt(len(rows) / (ROWS_PER_COLUMN * columns))))
    height = math.ceil(len(rows) / blocks)
    figure = Figure(figsize=(blocks * (CELL_INCHES * columns + LABEL_INCHES), CELL_INCHES * height + 0.5),
                    layout="constrained",
                    dpi=max(FIGURE_DPI, 1.3 * image_size / CELL_INCHES))       # no pixel is lost, in spite of margins
    for block, part in enumerate(figure.subfigures(1, blocks, squeeze=False)[0]):
        own = rows[block * height:(block + 1) * height]
        cells = part.subplots(height, columns, squeeze=False)
        for unused in cells[len(own):].flat:
            unused.set_axis_off()
        for (label, images), row in zip(own, cells):
            _draw_row(row, label, images, axes)
        for cell, title in zip(cells[0], column_titles):
            cell.set_title(plain_text(title), fontsize=8)
        if axes is not None:
            for cell in cells[len(own) - 1][:len(own[-1][1])]:
                label_time(cell, axes)
    figure.suptitle(plain_text(caption), fontsize=8)
    return figure


def _draw_row(row: Sequence[Axes], label: str, images: Sequence[Tensor], axes: PictureAxes | None) -> None:
    """Show images and their label in one row of cells. Cells beyond the last image stay empty."""
    for cell in row:
        cell.set(xticks=[], yticks=[], frame_on=False)
    for cell, image in zip(row, images):
        cell.imshow(image.expand(3, -1, -1).permute(1, 2, 0).numpy(), interpolation="nearest",
                    extent=axes.extent if axes else None, aspect="auto" if axes else "equal")
        if axes is not None:
            cell.set_box_aspect(1)
    row[0].set_ylabel(plain_text(label), fontsize=8)
    if axes is not None:
        label_speeds(row[0], axes)


def label_time(cell: Axes, axes: PictureAxes) -> None:
    """Label the time axis of a cell at both ends."""
    cell.set_xticks([0, axes.window_seconds], ["0", f"{axes.window_seconds:.3g} s"], fontsize=6)
    first, last = cell.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")


def label_speeds(cell: Axes, axes: PictureAxes) -> None:
    """Label the speed axis of a cell at both ends, and at 0 m/s if that is between them."""
    speeds = [axes.lowest_mps, 0.0, axes.highest_mps] if axes.lowest_mps < 0 < axes.highest_mps else [
        axes.lowest_mps, axes.highest_mps]
    cell.set_yticks(speeds, [f"{speed:.3g}" + (" m/s" if speed == speeds[-1] else "") for speed in speeds], fontsize=6)
