"""Figures of spectrograms."""
import math
from typing import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from microdoppler.figures.axes import PictureAxes
from microdoppler.figures.legend import Legend
from microdoppler.figures.report import FIGURE_DPI, plain_text

CELL_INCHES = 1.4
LABEL_INCHES = 0.5      # left of a block of columns
ROWS_PER_COLUMN = 2     # with more rows, a grid goes on in a block beside the first: 31 users fit a page

Row = tuple[str, Sequence[Tensor]]


def sample_grid(real: Mapping[int, Tensor], samples: Mapping[int, Tensor], legend: Legend, caption: str) -> Figure:
    """A row per user: one real image (3, s, s) uint8, then the samples (columns, 3, s, s) uint8 of that user."""
    rows = [(legend.names[user], [real[user], *samples[user]]) for user in samples]
    return image_grid(rows, ["real", "synthetic"], caption, legend.axes)


def image_grid(rows: Sequence[Row], column_titles: Sequence[str], caption: str = "",
               axes: PictureAxes | None = None) -> Figure:
    """Rows of (label, images (3 or 1, s, s) uint8); titles stand above the first columns; axes: of every image.

    All are drawn as they are, so that a colour means the same in each. Many rows are laid out as blocks side by side.
    """
    columns, image_size = max(len(images) for _, images in rows), rows[0][1][0].shape[-1]
    blocks = max(1, round(math.sqrt(len(rows) / (ROWS_PER_COLUMN * columns))))
    height = math.ceil(len(rows) / blocks)
    figure = Figure(figsize=(blocks * (CELL_INCHES * columns + LABEL_INCHES), CELL_INCHES * height + 0.5),
                    layout="constrained",
                    dpi=max(FIGURE_DPI, 1.3 * image_size / CELL_INCHES))       # no pixel is lost; cells lose to margins
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
    cell.set_xticks([0, axes.window_seconds], ["0", f"{axes.window_seconds:.3g} s"], fontsize=6)
    first, last = cell.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")


def label_speeds(cell: Axes, axes: PictureAxes) -> None:
    speeds = [axes.lowest_mps, 0.0, axes.highest_mps] if axes.lowest_mps < 0 < axes.highest_mps else [
        axes.lowest_mps, axes.highest_mps]
    cell.set_yticks(speeds, [f"{speed:.3g}" + (" m/s" if speed == speeds[-1] else "") for speed in speeds], fontsize=6)
