"""Recordings of TI's mmWave radars by the capture card DCA1000EVM, as mmWave Studio writes them: adc_data.bin.

TI, 'Mmwave Radar Device ADC Raw Data Capture', application report SWRA581B (2018). The file has no header. It holds
little-endian int16.

Section 6, xWR16xx and IWR6843 (and xWR18xx): the samples of a chirp, receiver after receiver, in the order
I0 I1 Q0 Q1 I2 I3 Q2 Q3 …

Section 5, xWR12xx and xWR14xx: for each sample the I of four lanes, then their Q. A lane is a receiver. There are four
even if fewer are used; the unused ones, the last, hold zeros.
"""
from pathlib import Path

import numpy as np

from groundwork.errors import InputError
from microdoppler.radar.settings import RadarSettings

LANES = 4       # of xWR12xx and xWR14xx


def read_dca1000(path: Path, settings: RadarSettings) -> tuple[np.ndarray, RadarSettings]:
    """The signal, complex64 (chirps, samples, transmitters * receivers), and nothing that the file tells.

    Transmitters take turns, chirp by chirp. Raises InputError if a setting that the file needs is not given, or if the
    file is no whole number of chirps.
    """
    needed = ("samples_per_chirp", "receivers", "device")
    if missing := [f"--{name}" for name in needed if getattr(settings, name) is None]:
        raise InputError(f"{path} has no header; give {', '.join(missing)}, or write them into radar.json beside the "
                         "recordings")
    samples, receivers, transmitters = settings.samples_per_chirp, settings.receivers, settings.transmitters or 1
    assert samples is not None and receivers is not None
    is_interleaved = settings.device in ("xwr12xx", "xwr14xx")
    if receivers > LANES or samples % 2:
        raise InputError(f"receivers is {receivers}, samples_per_chirp {samples} for {path}; expected up to {LANES} "
                         "receivers, and an even number of samples")
    values = np.fromfile(path, "<i2")
    size = 2 * samples * (LANES if is_interleaved else receivers) * transmitters
    if not len(values) or len(values) % size or path.stat().st_size % 2:
        raise InputError(f"{path} has {path.stat().st_size} bytes; expected a multiple of {2 * size}, which a chirp of "
                         f"each transmitter has: check samples_per_chirp ({samples}), receivers ({receivers}), "
                         f"transmitters ({transmitters}) and device ({settings.device}); or the file was cut off")
    if is_interleaved:
        pairs = values.reshape(-1, transmitters, samples, 2, LANES)[..., :receivers]
        in_phase, quadrature = pairs[..., 0, :], pairs[..., 1, :]       # (chirps, transmitters, samples, receivers)
    else:
        pairs = values.reshape(-1, transmitters, receivers, samples // 2, 2, 2)
        in_phase, quadrature = (pairs[..., part, :].reshape(-1, transmitters, receivers, samples).swapaxes(2, 3)
                                for part in (0, 1))
    signal = np.empty(in_phase.shape, np.complex64)
    signal.real, signal.imag = in_phase, quadrature
    return signal.swapaxes(1, 2).reshape(len(signal), samples, -1), RadarSettings()
