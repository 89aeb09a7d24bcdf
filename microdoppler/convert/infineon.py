"""Raw data that Infineon's Radar GUI records as text, <name>.raw.txt: of Sense2GoL (Pulse) and its relatives.

The format is that of the file data_S2GLP.raw.txt and of the script f_parse_data_s2glp.m in Infineon's software
package Sense2GoL Pulse (2021). The first line is IFRT. Lines "# Name = value" follow. Each frame begins with the line
"# Frame_Number = n". Its numbers, one a line, are those of a chirp after the other. In a chirp, the block of each
antenna holds all I and then all Q (Data_Format_Enum 1), or I and Q by turns (2).

Modulation_Type_Enum is 0 for a Doppler radar: its "chirp" is a burst of slow-time samples at Sampling_Frequency_kHz.
It is 1 for FMCW. Between two frames, which begin Frame_Period_sec apart, the radar rests.
"""
import re
from pathlib import Path

import numpy as np

from groundwork.errors import InputError
from microdoppler.radar.settings import RadarSettings

SIGNATURE = "IFRT"
COMPLEX, INTERLEAVED = 1, 2     # Data_Format_Enum


def is_infineon(path: Path) -> bool:
    """Whether a text file begins as one of Infineon's."""
    with open(path, "rb") as file:
        return file.read(len(SIGNATURE)) == SIGNATURE.encode()


def read_infineon(path: Path, settings: RadarSettings) -> tuple[np.ndarray, RadarSettings]:
    """The signal, complex64 (chirps, samples, antennas), and what the file tells.

    Raises InputError if frames are missing or incomplete, or if the file is of another kind.
    """
    head, *frames = re.split(r"^# Frame_Number = (\d+)\s*$", path.read_text(encoding="ascii", errors="replace"),
                             flags=re.MULTILINE)
    try:
        header = {name: float(value) for name, value in re.findall(r"^# (\w+) = (\S+)\s*$", head, re.MULTILINE)}
        antennas, samples, chirps = (int(header[name]) for name in (
            "Num_Rx_Antennas", "Samples_per_Chirp", "Chirps_per_Frame"))
        kind = int(header["Data_Format_Enum"])
        if kind not in (COMPLEX, INTERLEAVED) or header["Are_Rx_Antennas_Interleaved"]:
            raise InputError(f"{path} has Data_Format_Enum {kind} and Are_Rx_Antennas_Interleaved "
                             f"{header['Are_Rx_Antennas_Interleaved']:g}; expected 1 or 2, and 0: record I and Q, "
                             "antenna after antenna")
        told = _told(header, samples, chirps)
    except KeyError as error:
        raise InputError(f"the header of {path} lacks {error}; expected a recording of Infineon's Radar GUI") from None
    except (ValueError, ArithmeticError) as error:
        raise InputError(f"the header of {path} has a number that cannot be ({error}); expected a recording of "
                         "Infineon's Radar GUI") from None
    numbers = list(map(int, frames[::2]))
    size = chirps * antennas * samples * 2
    if min(chirps, antennas, samples) < 1:
        raise InputError(f"the header of {path} tells of {chirps} chirps, {antennas} antennas, {samples} samples; "
                         "expected at least one of each")
    try:
        values = [np.array(text.split(), np.float32) for text in frames[1::2]]
    except ValueError as error:
        raise InputError(f"{path}: {error}; expected a number a line in each frame") from None
    while values and len(values[-1]) < size:      # the recording was stopped within a frame
        values.pop()
    if not values or any(len(frame) != size for frame in values):
        raise InputError(f"{path} has {len(values)} frames, not all of {size} numbers, as its header says; repair or "
                         "remove it")
    if numbers[len(values) - 1] - numbers[0] != len(values) - 1:
        raise InputError(f"{path} has {len(values)} frames, but they are numbered {numbers[0]} … "
                         f"{numbers[len(values) - 1]}; frames were lost, and time would be wrong: record it again, or "
                         "cut the file before the gap")
    parts = np.array(values).reshape(-1, antennas, *((2, samples) if kind == COMPLEX else (samples, 2)))
    in_phase, quadrature = np.moveaxis(parts, 2 if kind == COMPLEX else 3, 0)       # (chirps, antennas, samples)
    signal = (in_phase + 1j * quadrature).swapaxes(1, 2)
    return (signal if header["Modulation_Type_Enum"] else signal.reshape(-1, 1, antennas)), told


def _told(header: dict[str, float], samples: int, chirps: int) -> RadarSettings:
    """What the header tells. Raises KeyError if it lacks something."""
    low, high = header["Lower_RF_Frequency_kHz"] * 1e3, header["Upper_RF_Frequency_kHz"] * 1e3
    seconds = header["Frame_Period_sec"]
    if header["Modulation_Type_Enum"]:
        return RadarSettings(carrier_hz=(low + high) / 2, bandwidth_hz=high - low, samples_per_chirp=samples,
                             prf_hz=1 / header["Pulse_Repetition_Time_sec"], chirps_per_frame=chirps,
                             frame_seconds=seconds)
    return RadarSettings(carrier_hz=low, prf_hz=header["Sampling_Frequency_kHz"] * 1e3, samples_per_chirp=1,
                         chirps_per_frame=samples * chirps, frame_seconds=seconds)
