"""Slow-time signals in two columns or channels: .csv and .txt tables, and .wav files."""
import csv
import re
import warnings
from pathlib import Path

import numpy as np
import scipy

from groundwork.errors import InputError, shortened
from microdoppler.convert.recording import as_signal
from microdoppler.radar.settings import RadarSettings

PAIRS = (("i", "q"), ("real", "imag"), ("re", "im"))        # usual names of the two columns
NUMBER = re.compile(r"[-+0-9.,eEij()]+|nan|inf", re.IGNORECASE)


def read_wav(path: Path, settings: RadarSettings) -> tuple[np.ndarray, RadarSettings]:
    """The signal (chirps, samples, 1) of a stereo file, left I and right Q. The file's rate is that of its
    samples.

    Raises InputError if it is no complete .wav file, or has not two channels.
    """
    try:
        with warnings.catch_warnings():     # of chunks that SciPy does not know
            warnings.simplefilter("ignore", scipy.io.wavfile.WavFileWarning)
            rate, values = scipy.io.wavfile.read(path)
    except Exception as error:      # SciPy raises many kinds of errors on damaged files
        raise InputError(f"{path} is no complete .wav file ({type(error).__name__}: {error})") from None
    if values.ndim != 2 or values.shape[1] != 2:
        raise InputError(f"{path} has {1 if values.ndim == 1 else values.shape[1]} channels; expected two, I and Q")
    return as_signal(path, values, settings), RadarSettings(prf_hz=rate / (settings.samples_per_chirp or 1))


def read_table(path: Path, settings: RadarSettings) -> tuple[np.ndarray, RadarSettings]:
    """The signal (chirps, samples, 1) of a table: two columns I and Q, or one or more of complex numbers.

    Values are separated by commas, semicolons or white space, and may be in double quotes. After semicolons, a comma is
    a decimal mark. The first line may name the columns: of more than two, those called I and Q (real and imag, re and
    im) are read, or those that settings.variable names. Complex numbers look like 1.2+3.4i or 1.2+3.4j. Raises
    InputError for other files.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip(" \t,;")]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text ({error}); expected a table of numbers") from None
    if not lines:
        raise InputError(f"{path} is empty; expected a table of numbers")
    mark = next((mark for mark in ";," if mark in lines[0]), None)
    if mark == ";":
        lines = [line.replace(",", ".") for line in lines]
    head = lines[0].removeprefix("#")       # np.savetxt writes "# I Q"
    first = _fields(path, head, mark)
    has_names = head != lines[0] or not all(NUMBER.fullmatch(field) for field in first if field)
    names = [name.lower() for name in first] if has_names else []
    chosen = _columns(path, names, [name.lower() for name in settings.variable], len(first))
    body = lines[has_names:]
    if not body:
        raise InputError(f"{path} has a line of names only; expected a table of numbers")
    is_complex = re.search(r"\d[ij]", body[0]) is not None
    try:
        values = np.loadtxt([line.replace("i", "j") for line in body] if is_complex else body,
                            complex if is_complex else float, delimiter=mark, quotechar='"', usecols=chosen, ndmin=2)
    except ValueError as error:
        raise InputError(f"{path}: {error}; expected a table of numbers, with at most one line of names; move "
                         "a file that is no recording out of --input") from None
    if not is_complex and values.shape[1] != 2:
        raise InputError(f"{path} has {values.shape[1]} columns of real numbers{': ' if names else ''}"
                         f"{shortened(names)}; expected I and Q. Name the columns in the first line, and give "
                         "--variable I Q if they are called otherwise; move a table that is no recording out of "
                         "--input")
    return as_signal(path, values, settings), RadarSettings()


def _fields(path: Path, line: str, mark: str | None) -> list[str]:
    """The fields of a line, without quotes. mark: what separates them; None: white space."""
    try:
        found = next(csv.reader([line if mark else " ".join(line.split())], delimiter=mark or " "))
    except csv.Error as error:      # a field is too long
        raise InputError(f"{path}: {error}; expected a table of numbers") from None
    return [field.strip() for field in found]


def _columns(path: Path, names: list[str], wanted: list[str], count: int) -> list[int] | None:
    """The numbers of the columns to read; None: all. Raises InputError if a wanted one does not exist."""
    if missing := [name for name in wanted if name not in names]:
        raise InputError(f"{path} has no column {shortened(missing)}; its first line names "
                         f"{shortened(names) or 'none'}")
    if wanted:
        return [names.index(name) for name in wanted]
    pair = next((pair for pair in PAIRS if set(pair) <= set(names)), None)
    return [names.index(name) for name in pair] if pair and count > 1 else None
