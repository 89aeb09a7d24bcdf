"""A picture of recordings as they would be converted, before anything is written."""
from pathlib import Path
from typing import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from microdoppler.convert.conversion import open_spectrogram
from microdoppler.convert.processing import Plan, Processing, Spectrogram
from microdoppler.convert.sources import Source
from microdoppler.figures.fonts import plain_text
from microdoppler.figures.report import FIGURE_DPI
from microdoppler.radar.settings import RadarSettings, settings_of

MAX_ROWS = 4                    # recordings that are shown, each of another class
RANGE_COLUMNS = 400             # of the range map
RANGE_DB = 50.0                 # from its brightest to its darkest colour


def preview(root: Path, sources: Sequence[Source], radar: RadarSettings, options: Processing) -> tuple[Figure, Plan]:
    """The first recordings of several classes, whole, with their axes, the first image framed, and their range gates.

    Returns also the plan of the first one. Raises InputError when one of them cannot be converted.
    """
    first_of = {source.label: source for source in reversed(sources)}
    shown = [source for source in sources if first_of[source.label] is source][:MAX_ROWS]
    read = []
    for source in shown:
        settings = settings_of(root / source.path, root, radar)
        recording, plan, spectrogram = open_spectrogram(root, source, settings, options)
        read.append((plan, spectrogram, recording.gate_m, recording.signal.shape))      # the signal itself may be large
    has_ranges = any(spectrogram.power.shape[1] > 1 for _, spectrogram, *_ in read)
    figure = Figure(figsize=(11, 2.8 * len(shown)), layout="constrained", dpi=FIGURE_DPI)
    cells = figure.subplots(len(shown), 1 + has_ranges, squeeze=False, width_ratios=[2, 1][:1 + has_ranges])
    for source, row, (plan, spectrogram, gate_m, shape) in zip(shown, cells, read):
        count = plan.num_windows(spectrogram.levels.shape[1])
        row[0].set_title(plain_text(f"{source.label}: {source.path}, {' × '.join(map(str, shape))} (chirps × samples × "
                                    f"receivers), {count} images"), fontsize=8)
        draw_spectrogram(row[0], spectrogram, plan, options)
        if has_ranges:
            draw_ranges(row[1], spectrogram, plan, gate_m)
    return figure, read[0][0]


def draw_spectrogram(cell: Axes, spectrogram: Spectrogram, plan: Plan, options: Processing) -> None:
    """A whole recording, with a frame around the first image."""
    axes, columns = plan.axes, spectrogram.levels.shape[1]
    if columns:
        cell.imshow(spectrogram.levels, cmap="jet" if options.channels == 3 else "gray", aspect="auto",
                    interpolation="nearest", vmin=options.floor_db, vmax=options.top_db,
                    extent=(0, columns * plan.column_seconds, axes.lowest_mps, axes.highest_mps))
    cell.add_patch(Rectangle((0, axes.lowest_mps), axes.window_seconds, axes.highest_mps - axes.lowest_mps, fill=False,
                             edgecolor="white", linewidth=1.5))
    cell.set_xlabel("time in s; the frame is the first image", fontsize=7)
    cell.set_ylabel("m/s, approaching above 0", fontsize=7)
    cell.tick_params(labelsize=7)


def draw_ranges(cell: Axes, spectrogram: Spectrogram, plan: Plan, gate_m: float) -> None:
    """What moves in each range gate over time, with each run of chosen gates between two lines. gate_m: 0 if not
    known."""
    parts = np.array_split(spectrogram.power, min(RANGE_COLUMNS, len(spectrogram.power)))
    levels = 10 * np.log10(np.array([part.mean(axis=0) for part in parts]).T + 1e-20)
    step, unit = (gate_m, "m") if gate_m else (1.0, "gates")
    seconds = len(spectrogram.power) / plan.hop_chirps * plan.column_seconds
    cell.imshow(levels, cmap="viridis", aspect="auto", origin="lower", interpolation="nearest",
                vmin=levels.max() - RANGE_DB, vmax=levels.max(),
                extent=(0, seconds, -step / 2, (len(levels) - 0.5) * step))
    gates = spectrogram.gates
    for run in np.split(gates, np.flatnonzero(np.diff(gates) > 1) + 1):
        for edge in (run[0] - 0.5, run[-1] + 0.5):
            cell.axhline(edge * step, color="red", linewidth=1)
    cell.set_title(f"{len(gates)} gates, between the lines", fontsize=8)
    cell.set_xlabel("time in s", fontsize=7)
    cell.set_ylabel(f"range in {unit}", fontsize=7)
    cell.tick_params(labelsize=7)
