"""A training run as a terminal shows it: one screen that stays where it is."""
from dataclasses import dataclass
from typing import Sequence

import numpy as np
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.text import Text

BLOCKS = " ▁▂▃▄▅▆▇█"
LEAST_ROWS, MOST_ROWS = 3, 16       # of the curve, which gets what room the words leave
AXIS = 8                            # columns for its numbers


@dataclass(frozen=True, eq=False)
class TrainingScreen:
    """For rich. progress: lines; verdict: the diagnosis as text; loss: (lines,) float64, of which the curve is."""
    title: str
    share: float
    progress: Sequence[str]
    verdict: str
    is_well: bool
    loss: np.ndarray

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        bar = Padding(ProgressBar(total=1.0, completed=self.share), 0)      # padded, it has a line to itself
        words: list[RenderableType] = [
            Rule(Text(self.title)), bar,
            Text("\n".join(self.progress)), Text(""),
            Text(self.verdict, style="green" if self.is_well else "bold red")]
        yield from words
        used = sum(len(console.render_lines(part, options.update(height=None), pad=False)) for part in words)
        rows = min(MOST_ROWS, (options.height or console.height) - used - 2)
        if rows >= LEAST_ROWS and np.isfinite(self.loss).any():
            yield Text("\nloss, logarithmic, from the first line to the last")
            yield Text("\n".join(curve(self.loss, options.max_width - AXIS, rows)), style="cyan", no_wrap=True)


def curve(values: np.ndarray, width: int, rows: int) -> list[str]:
    """Positive values (n,) as columns of blocks on a logarithmic axis, highest row first, with numbers beside the first
    and the last row. A column is the mean of its values; where none is finite and positive it is empty."""
    columns = np.full(width, np.nan)
    for column, part in enumerate(_parts(values, width)):
        usable = part[np.isfinite(part) & (part > 0)]
        if len(usable):
            columns[column] = np.log(usable.mean())
    low, high = np.nanmin(columns), np.nanmax(columns)
    share = (columns - low) / (high - low) if high > low else np.full(width, 0.5)
    eighths = np.where(np.isnan(columns), 0, 1 + np.nan_to_num(share) * (8 * rows - 1)).round().astype(int)
    lines = ["".join(BLOCKS[min(8, max(0, count - 8 * row))] for count in eighths) for row in reversed(range(rows))]
    numbers = {0: f"{np.exp(high):.3g}", rows - 1: f"{np.exp(low):.3g}"}
    return [f"{numbers.get(row, ''):>{AXIS - 1}} {line}" for row, line in enumerate(lines)]


def _parts(values: np.ndarray, width: int) -> list[np.ndarray]:
    """As many parts as columns; with fewer values than those, each stands in several."""
    if len(values) >= width:
        return np.array_split(values, width)
    return [values[[column * len(values) // width]] for column in range(width)]
