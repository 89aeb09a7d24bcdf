"""Figures of spectrograms."""
from matplotlib.figure import Figure
from torch import Tensor

from microdoppler.report import FIGURE_DPI

CELL_INCHES = 1.4


def sample_grid(real: dict[int, Tensor], samples: dict[int, Tensor], caption: str) -> Figure:
    """A row per user: one real image (3, s, s) uint8, then the samples (columns, 3, s, s) uint8 of that user."""
    rows = [(f"user {user}", [real[user], *samples[user]]) for user in samples]
    return image_grid(rows, ["real", "synthetic"], caption)


def image_grid(rows: list[tuple[str, list[Tensor]]], column_titles: list[str], caption: str = "") -> Figure:
    """Rows of (label, images (3 or 1, s, s) uint8); titles stand above the first columns."""
    columns = max(len(images) for _, images in rows)
    image_size = rows[0][1][0].shape[-1]
    figure = Figure(figsize=(CELL_INCHES * columns + 0.4, CELL_INCHES * len(rows) + 0.5), layout="constrained",
                    dpi=max(FIGURE_DPI, 1.2 * image_size / CELL_INCHES))       # no pixel is lost; cells lose to margins
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for (label, images), row in zip(rows, axes):
        for axis in row:
            axis.set_axis_off()
        for axis, image in zip(row, images):
            axis.imshow(image.expand(3, -1, -1).permute(1, 2, 0).numpy(), interpolation="nearest")
        row[0].set_axis_on()
        row[0].set(xticks=[], yticks=[])
        row[0].set_ylabel(label, fontsize=8)
    for axis, title in zip(axes[0], column_titles):
        axis.set_title(title, fontsize=8)
    figure.suptitle(caption, fontsize=8)
    return figure
