"""A training run as one terminal screen that is updated in place."""
from dataclasses import dataclass
from typing import Sequence

import numpy as np
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.text import Text

BLOCKS = " ▁▂▃▄▅▆▇█"
MIN_ROWS, MAX_ROWS = 3, 16          # of the curve, which gets the rows that the text leaves free
AXIS_COLUMNS = 8                    # columns for the numbers at the left of the curve


@dataclass(frozen=True, eq=False)
class TrainingScreen:
    """What rich shows: progress bar, progress, diagnosis, and a curve of the loss if there is room for it."""
    title: str
    share: float                # of the training that is done, 0 … 1
    progress: Sequence[str]     # lines of text
    verdict: str                # the diagnosis as text
    is_healthy: bool            # whether the diagnosis has no findings
    loss: np.ndarray            # (lines,) float64, may contain NaN

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        bar = Padding(ProgressBar(total=1.0, completed=self.share), 0)      # padding puts it on a line of its own
        text: list[RenderableType] = [
            Rule(Text(self.title)), bar,
            Text("\n".join(self.progress)), Text(""),
            Text(self.verdict, style="green" if self.is_healthy else "bold red")]
        yield from text
        used = sum(len(console.render_lines(part, options.update(height=None), pad=False)) for part in text)
        rows = min(MAX_ROWS, (options.height or console.height) - used - 2)
        lines = curve(self.loss, options.max_width - AXIS_COLUMNS, rows) if rows >= MIN_ROWS else []
        if lines:
            yield Text("\nloss, logarithmic, from the first line to the last")
            yield Text("\n".join(lines), style="cyan", no_wrap=True)


def curve(values: np.ndarray, width: int, rows: int) -> list[str]:
    """Values (n,) as a bar chart of block characters with a logarithmic axis: `rows` lines of text, the highest first.

    The first and the last line begin with the value that they stand for. A column shows the mean of its values that are
    finite and positive, and is empty where there are none. Returns [] if no value is, or if there is no column.
    """
    if width < 1 or not (np.isfinite(values) & (values > 0)).any():
        return []
    columns = np.full(width, np.nan)        # log of each column's mean
    for column, part in enumerate(_split_into_columns(values, width)):
        usable = part[np.isfinite(part) & (part > 0)]
        if len(usable):
            columns[column] = np.log(usable.mean())
    low, high = np.nanmin(columns), np.nanmax(columns)
    share = (columns - low) / (high - low) if high > low else np.full(width, 0.5)
    # Heights in eighths of a row, at least 1 where there is a value; BLOCKS[k] fills k eighths.
    eighths = np.where(np.isnan(columns), 0, 1 + np.nan_to_num(share) * (8 * rows - 1)).round().astype(int)
    lines = ["".join(BLOCKS[min(8, max(0, count - 8 * row))] for count in eighths) for row in reversed(range(rows))]
    numbers = {0: f"{np.exp(high):.3g}", rows - 1: f"{np.exp(low):.3g}"}
    return [f"{numbers.get(row, ''):>{AXIS_COLUMNS - 1}} {line}" for row, line in enumerate(lines)]


def _split_into_columns(values: np.ndarray, width: int) -> list[np.ndarray]:
    """The values (n,) of each column, in order. With fewer values than columns, several columns repeat a value."""
    if len(values) >= width:
        return np.array_split(values, width)
    return [values[[column * len(values) // width]] for column in range(width)]
