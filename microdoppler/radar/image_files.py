"""The files of a data set: the windows of its spectrograms, and the table of their recordings."""
import csv
from pathlib import Path
from typing import Iterable, Sequence

import numpy as np
from PIL import Image

from groundwork.files import atomic_path
from microdoppler.radar.spectrogram import render_image

RECORDINGS_FILE = "recordings.csv"
SUFFIXES = {3: ".jpg", 1: ".png"}       # by number of channels: colour and grey images


def write_windows(paths: Sequence[Path], spectrogram: np.ndarray, window_columns: int, hop_columns: int,
                  levels_db: tuple[float, float], image_size: int, channels: int) -> None:
    """Write the first len(paths) windows of a spectrogram as JPG or PNG files.

    spectrogram: float32 dB, (bins, columns). A window has window_columns columns, and the next one begins hop_columns
    later. levels_db, image_size, channels: as for render_image.
    """
    for i, path in enumerate(paths):
        window = spectrogram[:, i * hop_columns:i * hop_columns + window_columns]
        with atomic_path(path) as temporary:
            image = Image.fromarray(render_image(window, levels_db, image_size, channels))
            image.save(temporary, quality=95, subsampling=0)


def write_recordings(path: Path, rows: Iterable[tuple[str, str, int]]) -> None:
    """Write recordings.csv. rows: of each image its path below the data set's folder, its recording, and its number
    there.
    """
    with atomic_path(path) as temporary:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "recording", "number"])
            writer.writerows(rows)
