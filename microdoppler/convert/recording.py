"""What a radar received, whatever file it came from; and how an array becomes that."""
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from groundwork.errors import InputError
from microdoppler.radar.settings import RadarSettings
from microdoppler.radar.spectrogram import LIGHT_SPEED

SHORTEST = 16       # chirps; less is no recording


@dataclass(frozen=True)
class Recording:
    """One recording.

    signal: (chirps, samples, channels), complex64, or float32 if the radar has no Q. With one sample per chirp it is a
    slow-time signal, where an echo at range R has the phase -4πR/λ, so that approaching has a positive Doppler
    frequency. With more, it is the beat signal of rising chirps, with positive frequencies.
    prf_hz: chirps per second. bandwidth_hz: swept while the samples are taken; 0: unknown.
    frame_chirps, frame_seconds: chirps of a frame, and the time to the next frame, if the radar rests in between; else
    both are 0.
    """
    signal: np.ndarray
    carrier_hz: float
    prf_hz: float
    bandwidth_hz: float = 0.0
    frame_chirps: int = 0
    frame_seconds: float = 0.0

    @property
    def wavelength_m(self) -> float:
        return LIGHT_SPEED / self.carrier_hz

    @property
    def gate_m(self) -> float:
        """Range from one gate of the range FFT to the next, c / (2 B); 0: unknown."""
        return LIGHT_SPEED / (2 * self.bandwidth_hz) if self.bandwidth_hz and self.signal.shape[1] > 1 else 0.0


def make_recording(path: Path, signal: np.ndarray, settings: RadarSettings) -> Recording:
    """The recording of a signal (chirps, samples, channels) with these settings. path: its file, for messages.

    Raises InputError if carrier or PRF are unknown, the frames cannot be, or samples are not finite.
    """
    for name in ("carrier_hz", "prf_hz"):
        if getattr(settings, name) is None:
            raise InputError(f"{path} does not tell its {name}; give --{name}, or write it into radar.json beside the "
                             "recordings")
    assert settings.carrier_hz is not None and settings.prf_hz is not None
    if len(signal) < SHORTEST:
        raise InputError(f"{path} holds {len(signal)} chirps; expected {SHORTEST} or more. Is it "
                         "chirps × samples × receivers? --samples_per_chirp says which axis holds the samples")
    with np.errstate(over="ignore"):        # it becomes infinite
        signal = signal.astype(np.complex64 if np.iscomplexobj(signal) else np.float32, copy=False)
    if not np.isfinite(signal).all():
        raise InputError(f"{path} holds samples that are not finite; expected numbers only: repair or remove it")
    if settings.swap_iq:
        if not np.iscomplexobj(signal):
            raise InputError(f"{path} holds real samples, which have no Q; leave --swap_iq out")
        signal = signal.conj()
    chirps, seconds = _frames(path, settings)
    if chirps > len(signal):
        raise InputError(f"{path} holds {len(signal)} chirps, less than a frame (chirps_per_frame is {chirps})")
    if chirps:
        signal = signal[:len(signal) // chirps * chirps]
    return Recording(signal, settings.carrier_hz, settings.prf_hz, settings.bandwidth_hz or 0.0, chirps, seconds)


def _frames(path: Path, settings: RadarSettings) -> tuple[int, float]:
    """Chirps of a frame and the time to the next frame; zeros if the radar does not rest between frames."""
    chirps, seconds = settings.chirps_per_frame, settings.frame_seconds
    if chirps is None and seconds is None:
        return 0, 0.0
    if chirps is None or seconds is None:
        raise InputError(f"chirps_per_frame is {chirps}, and frame_seconds {seconds} for {path}; give both, or neither "
                         "if the radar does not rest between frames")
    assert settings.prf_hz is not None
    lasts = chirps / settings.prf_hz
    if seconds < lasts * 0.999:
        raise InputError(f"{chirps} chirps_per_frame last {lasts:g} s at prf_hz {settings.prf_hz:g}, but frame_seconds "
                         f"is {seconds:g} for {path}; with several transmitters, count the chirps of one")
    return (0, 0.0) if seconds <= lasts * 1.001 else (chirps, seconds)


def as_signal(path: Path, array: np.ndarray, settings: RadarSettings) -> np.ndarray:
    """An array as (chirps, samples, channels), complex or real.

    Complex (n,): slow time, or chirp after chirp if samples_per_chirp is given. Real (n, 2) or (2, n): I and Q of such
    a signal. (chirps, samples) and (chirps, samples, receivers), complex or real. If samples_per_chirp is the length
    of the first axis and not of the second, these two are exchanged. With 1 sample per chirp, a matrix is
    (chirps, receivers). Raises InputError for others, and if an axis is longer than the one before and
    samples_per_chirp is not given: the axes may lie in another order.
    """
    samples = settings.samples_per_chirp
    if array.dtype.kind not in "iufc":
        raise InputError(f"{path} holds {array.dtype}; expected numbers")
    array = array.squeeze()
    if array.ndim == 2 and 2 in array.shape and not np.iscomplexobj(array):
        columns = array if array.shape[1] == 2 else array.T
        array = columns[:, 0] + 1j * columns[:, 1].astype(np.float32)
    if array.ndim == 1 and (np.iscomplexobj(array) or (samples or 1) > 1):
        samples = samples or 1
        return array[:len(array) // samples * samples].reshape(-1, samples, 1)
    if array.ndim in (2, 3):
        if samples == 1 and array.ndim == 2:
            return array[:, None]
        shape = " x ".join(map(str, array.shape))
        if not samples and list(array.shape) != sorted(array.shape, reverse=True):
            raise InputError(f"{path} is {shape}; expected chirps × samples (× receivers), and usually there are more "
                             "chirps than samples, and more samples than receivers. Give --samples_per_chirp "
                             f"{array.shape[1]} to read it in this order, or {array.shape[0]} to exchange the first "
                             "two axes")
        if samples and array.shape[1] != samples:
            if array.shape[0] != samples:
                raise InputError(f"{path} is {shape}, and samples_per_chirp {samples}; expected chirps × samples, or "
                                 "chirps × samples × receivers")
            array = array.swapaxes(0, 1)
        return array if array.ndim == 3 else array[..., None]
    raise InputError(f"{path} holds {array.dtype} of shape {array.shape}; expected a complex signal, I and Q in two "
                     "columns, or chirps × samples (× receivers); real samples need --samples_per_chirp")
