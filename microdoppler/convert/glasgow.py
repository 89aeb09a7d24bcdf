"""Recordings of the data set "Radar signatures of human activities" of the University of Glasgow.

Fioranelli, Shah, Li, Shrestha, Yang & Le Kernec, 'Radar sensing for healthcare', Electronics Letters 55 (2019), data
https://doi.org/10.5525/gla.researchdata.848. The format is that of the data set's own script,
DataProcessingExample.m by the UoG Radar Group: text with a number a line. The first four are the centre frequency in
Hz, the sweep time in ms, the samples per sweep, and the bandwidth in Hz (0: continuous wave). The samples I + jQ
follow, sweep after sweep, as MATLAB writes complex numbers: 1.2+3.4i.
"""
import re
from pathlib import Path

import numpy as np

from groundwork.errors import InputError
from microdoppler.radar.settings import RadarSettings

NAME = re.compile(r"\dP(?P<person>\d+)A(?P<activity>\d+)R(?P<repetition>\d+)", re.IGNORECASE)


def read_glasgow(path: Path, settings: RadarSettings) -> tuple[np.ndarray, RadarSettings]:
    """The signal, complex64 (sweeps, samples, 1), and what the file tells. Of a continuous wave, it is (samples, 1, 1).

    Raises InputError if it is no such file.
    """
    try:
        text = path.read_text(encoding="ascii")
        lines = text.replace(" ", "").replace("i", "j").split()
        carrier_hz, sweep_ms, samples, bandwidth_hz = (float(line) for line in lines[:4])
        values = np.array([complex(line) for line in lines[4:]], np.complex64)
    except (UnicodeDecodeError, ValueError, TypeError) as error:
        raise InputError(f"{path} is no recording of the Glasgow data set ({error}); expected text with a number a "
                         "line: carrier in Hz, sweep time in ms, samples per sweep, bandwidth in Hz, then samples such "
                         "as 1.2+3.4i") from None
    if not (carrier_hz > 0 and sweep_ms > 0 and bandwidth_hz >= 0 and 1 <= samples <= len(values)):
        raise InputError(f"{path} begins with {lines[:4]}, and has {len(values)} samples; expected carrier in Hz, "
                         "sweep time in ms, samples per sweep, bandwidth in Hz, and at least one sweep")
    count = int(samples)
    if not bandwidth_hz:        # slow time
        return values[:, None, None], RadarSettings(carrier_hz=carrier_hz, prf_hz=count * 1000 / sweep_ms,
                                                    samples_per_chirp=1)
    told = RadarSettings(carrier_hz=carrier_hz, prf_hz=1000 / sweep_ms, bandwidth_hz=bandwidth_hz,
                         samples_per_chirp=count)
    return values[:len(values) // count * count].reshape(-1, count, 1), told
