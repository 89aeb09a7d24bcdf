"""Which reader reads which file."""
from pathlib import Path
from typing import Callable

import numpy as np

from groundwork.errors import InputError
from groundwork.limits import check_limits
from microdoppler.convert.arrays import read_mat, read_npy, read_npz
from microdoppler.convert.columns import read_table, read_wav
from microdoppler.convert.dca1000 import read_dca1000
from microdoppler.convert.glasgow import read_glasgow
from microdoppler.convert.infineon import is_infineon, read_infineon
from microdoppler.convert.recording import Recording, make_recording
from microdoppler.radar.settings import RadarSettings


def _read_text(path: Path, settings: RadarSettings) -> tuple[np.ndarray, RadarSettings]:
    return (read_infineon if is_infineon(path) else read_table)(path, settings)


# Each returns a signal (chirps, samples, channels), and the settings that the file tells
READERS: dict[str, Callable[[Path, RadarSettings], tuple[np.ndarray, RadarSettings]]] = {
    ".dat": read_glasgow, ".bin": read_dca1000, ".mat": read_mat, ".npy": read_npy, ".npz": read_npz,
    ".csv": read_table, ".txt": _read_text, ".wav": read_wav}


def read_recording(path: Path, settings: RadarSettings) -> Recording:
    """Read a recording, by its suffix. What the settings give takes the place of what the file tells.

    Raises InputError if the file is not what its suffix says, or does not tell enough.
    """
    reader = READERS[path.suffix.lower()]
    try:
        signal, told = reader(path, settings)
    except MemoryError:
        raise InputError(f"{path} does not fit into memory; cut it into parts") from None
    settings = settings.over(told)
    try:
        check_limits(settings)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return make_recording(path, signal, settings)
