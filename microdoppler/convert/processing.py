"""From a recording to its spectrogram in dB: range FFT, clutter removal, choice of range gates, short-time Fourier
transform, gain.
"""
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy

from groundwork.errors import InputError
from groundwork.limits import BelowOne, Count, Decibels, ImageSize, Positive, RangeM, SpeedRange
from microdoppler.convert.recording import Recording
from microdoppler.figures.axes import PictureAxes
from microdoppler.radar.spectrogram import automatic_gain, bin_mps, speed_edges_mps, stft_db

PROCESSING_VERSION = 1  # increase it when a recording's images change by more than rounding: old sets are not completed
# The filter of the Glasgow data set's own script is a Butterworth high-pass of order 4. Its cut-off is 0.0075 of half
# the PRF of 1 kHz. At its carrier of 5.8 GHz this is the Doppler frequency of this speed, which other radars get, too.
MTI_MPS, MTI_ORDER = 0.097, 4
# A spectrum is sharpest if the speed changes by one bin, λ / (2 T), while it lasts: T = sqrt(λ / (2 a)). The torso and
# thighs of a walking person speed up by about this much.
WALKING_MPS2 = 3.0
WALKING_MPS = 6.0       # the feet of a walking person are hardly faster
PADDING = 4             # times the window; as in the Glasgow data set's own script
MOVING_DB = 10.0        # a gate is chosen where it is at most so far below the strongest one, and that one so far above
MOVING_SHARE = 0.01     # the usual level; for at least this share of the time that something moves
ROUNDING = 1e-12        # share of the power that may be left of what stands still, in float32
LOUD = 90               # per cent of the columns have a lower peak than the one that gain "recording" calls 0 dB


@dataclass(frozen=True)
class Processing:
    """How recordings become images. None: what suits a walking person before this radar."""
    range_m: RangeM | None = None  # nearest and farthest range that is shown; None: the gates where something moves
    clutter: Literal["mti", "mean", "none"] | None = None  # mti: high-pass along time; mean: subtract the mean
    stft_seconds: Positive | None = None  # length of the window of a spectrum
    stft_overlap: BelowOne | None = None  # share of the window that neighbouring spectra have in common; None: 0.9
    nfft: Count | None = None  # length of the transform; None: four windows
    velocity_range_mps: SpeedRange | None = None  # lowest and highest speed that is shown; None: up to 6 m/s
    window_seconds: Positive = 2.3  # of an image; about four steps
    hop_seconds: Positive | None = None  # from image to image; None: a quarter of the image
    gain: Literal["window", "recording"] = "window"  # 0 dB: usual peak of the columns of an image, or loud ones of all
    floor_db: Decibels = -34.0  # shown dark blue (or black), as is all below
    top_db: Decibels = 6.0  # shown dark red (or white), as is all above
    image_size: ImageSize = 256  # height and width in pixels
    channels: Literal[3, 1] = 3  # 3: jet colours, JPG; 1: grey, PNG


@dataclass(frozen=True)
class Plan:
    """The sizes that follow from the radar and the options. They are the same for all recordings of a data set."""
    carrier_hz: float
    prf_hz: float
    clutter: str
    window_chirps: int
    hop_chirps: int
    nfft: int
    column_seconds: float       # from spectrum to spectrum
    lowest_bin: int
    num_bins: int
    window_columns: int         # of an image
    hop_columns: int            # from image to image

    @property
    def bin_mps(self) -> float:
        """Speed from one row of the spectrogram to the next."""
        return bin_mps(self.carrier_hz, self.prf_hz, self.nfft)

    @property
    def fastest_mps(self) -> float:
        """Speeds between minus and plus this one are told apart."""
        return self.bin_mps * self.nfft / 2

    @property
    def axes(self) -> PictureAxes:
        """The axes of an image."""
        return PictureAxes(self.window_columns * self.column_seconds,
                           *speed_edges_mps(self.lowest_bin, self.num_bins, self.bin_mps))

    @property
    def hop_seconds(self) -> float:
        """From image to image."""
        return self.hop_columns * self.column_seconds

    def num_windows(self, columns: int) -> int:
        """How many images so many columns give."""
        return max(0, (columns - self.window_columns) // self.hop_columns + 1)


def make_plan(recording: Recording, options: Processing) -> Plan:
    """The sizes for recordings like this one. Raises InputError when an option does not fit the radar."""
    if options.floor_db >= options.top_db:
        raise InputError(f"floor_db is {options.floor_db:g}, top_db {options.top_db:g}; expected the floor below the "
                         "top")
    window, hop, column_seconds = _stft_sizes(recording, options)
    nfft = options.nfft or PADDING * window
    if nfft < window:
        raise InputError(f"nfft is {nfft}; expected at least the {window} chirps of a window (stft_seconds)")
    width = bin_mps(recording.carrier_hz, recording.prf_hz, nfft)
    lowest, count = _rows(options.velocity_range_mps, width, nfft)
    clutter = options.clutter or ("mean" if recording.frame_chirps else "mti")
    if clutter == "mti" and recording.frame_chirps:
        raise InputError("clutter is mti, but the radar rests between frames, and the filter needs a steady signal; "
                         "give --clutter mean")
    if clutter == "mti" and _mti_hz(recording) >= recording.prf_hz / 2:
        raise InputError(f"prf_hz is {recording.prf_hz:g}, too low for --clutter mti at this carrier; give --clutter "
                         "mean")
    hop_seconds = options.hop_seconds or options.window_seconds / 4
    columns, hop_columns = (round(seconds / column_seconds) for seconds in (options.window_seconds, hop_seconds))
    if columns < 2 or hop_columns < 1:
        raise InputError(f"window_seconds is {options.window_seconds:g}, hop_seconds {hop_seconds:g}; expected at "
                         f"least two spectra and one, which are {column_seconds:.3g} s apart")
    return Plan(recording.carrier_hz, recording.prf_hz, clutter, window, hop, nfft, column_seconds, lowest, count,
                columns, hop_columns)


def _stft_sizes(recording: Recording, options: Processing) -> tuple[int, int, float]:
    """Chirps of a window and from window to window, and the seconds from window to window."""
    if recording.frame_chirps:      # a window must not reach across the rest
        if options.stft_seconds or options.stft_overlap is not None:
            raise InputError("stft_seconds and stft_overlap are given, but the radar rests between its frames, and a "
                             "spectrum is that of a frame; leave both out")
        return recording.frame_chirps, recording.frame_chirps, recording.frame_seconds
    seconds = options.stft_seconds or math.sqrt(recording.wavelength_m / (2 * WALKING_MPS2))
    window = round(seconds * recording.prf_hz)
    if window < 4:
        raise InputError(f"stft_seconds is {seconds:.3g}, which is {window} chirps at prf_hz {recording.prf_hz:g}; "
                         "expected at least 4 chirps")
    hop = max(1, round(window * (1 - (0.9 if options.stft_overlap is None else options.stft_overlap))))
    return window, hop, hop / recording.prf_hz


def _rows(wanted: tuple[float, float] | None, width_mps: float, nfft: int) -> tuple[int, int]:
    """The lowest Doppler bin and the number of bins that show these speeds; the edges of images lie between bins."""
    if wanted is None:
        half = round(WALKING_MPS / width_mps)
        if not half:
            raise InputError(f"a Doppler bin is {width_mps:.3g} m/s wide, too wide for ±{WALKING_MPS:g} m/s; check "
                             "carrier_hz and prf_hz, or give --velocity_range_mps")
        return (-(nfft // 2), nfft) if 2 * half + 1 > nfft else (-half, 2 * half + 1)
    lowest, highest = round(wanted[0] / width_mps + 0.5), round(wanted[1] / width_mps - 0.5)
    count = highest - lowest + 1
    if not 2 <= count <= nfft:
        raise InputError(f"velocity_range_mps is {wanted[0]:g} {wanted[1]:g}; expected a range of at least "
                         f"{2 * width_mps:.3g} m/s, at most the {nfft * width_mps:.3g} m/s that this PRF tells apart")
    return lowest, count


@dataclass(frozen=True)
class Spectrogram:
    """levels: in dB after the gain, float32 (num_bins, columns). gates: the range gates in it, (n,). power: after the
    removal of clutter, of every gate, in the unit of without_unit, float32 (chirps, gates).
    """
    levels: np.ndarray
    gates: np.ndarray
    power: np.ndarray


def make_spectrogram(recording: Recording, plan: Plan, options: Processing) -> Spectrogram:
    """The spectrogram of a recording. The magnitudes of all chosen gates and of all receivers are added, as in the
    Glasgow data set's own script, but without the mean of their noise. Raises InputError when range_m holds no gate, or
    if nothing moves.
    """
    profiles = without_unit(range_profiles(recording))
    whole_power = np.vdot(profiles, profiles).real / profiles.size
    profiles = remove_clutter(profiles, plan.clutter, recording)
    power = np.mean(np.square(np.abs(profiles)), axis=2)
    gates = (gates_between(recording, *options.range_m) if options.range_m else
             moving_gates(power, plan.window_chirps))
    if not power[:, gates].mean() > ROUNDING * whole_power:
        raise InputError("nothing moves before the radar, or the file is no recording: what is left after the removal "
                         "of clutter is rounding")
    if len(profiles) < plan.window_chirps:
        return Spectrogram(np.empty((plan.num_bins, 0), np.float32), gates, power)
    signals = np.moveaxis(profiles[:, gates], 0, -1).reshape(-1, len(profiles))
    levels = stft_db(signals, plan.window_chirps, plan.hop_chirps, plan.nfft, plan.lowest_bin, plan.num_bins)
    if options.gain == "window":
        return Spectrogram(automatic_gain(levels, plan.window_columns), gates, power)
    return Spectrogram(levels - np.percentile(levels.max(axis=0), LOUD).astype(np.float32), gates, power)


def range_profiles(recording: Recording) -> np.ndarray:
    """The slow-time signals of all range gates: complex64 (chirps, gates, channels), with the phase -4πR/λ.

    Gate k is at range k c / (2 B), from the beat frequency k / (duration of the samples). The samples are weighted by a
    Hann window of mean 1, so that a gate has the amplitude of its echo times the number of samples. The beat of a
    rising chirp has the phase +4πR/λ, hence the conjugate. Of real samples, only positive beat frequencies are kept.
    """
    chirps, samples, _ = recording.signal.shape
    if samples == 1:
        return recording.signal.astype(np.complex64, copy=False)
    window = scipy.signal.windows.hann(samples, sym=False).astype(np.float32)
    weighted = recording.signal * (window / window.mean())[:, None]
    if np.iscomplexobj(weighted):
        profiles = scipy.fft.fft(weighted, axis=1, overwrite_x=True)
    else:
        profiles = scipy.fft.rfft(weighted, axis=1)[:, :samples // 2]
    return np.conjugate(profiles, out=profiles)


def without_unit(profiles: np.ndarray) -> np.ndarray:
    """Profiles whose largest magnitude is in 0.5 … 1, since files hold counts, volts at an antenna, or anything else.

    The factor is a power of two, so it changes no mantissa. Without it, powers of very small samples would be below
    the floor of stft_db, or below what float32 holds.
    """
    exponent = math.frexp(np.abs(profiles).max(initial=0))[1]
    return profiles * 2.0 ** -max(exponent, -126)     # a larger factor would be beyond float32


def remove_clutter(profiles: np.ndarray, method: str, recording: Recording) -> np.ndarray:
    """Profiles without what stands still. mti: a Butterworth high-pass along time, see MTI_MPS, that begins in the
    steady state of the first chirp. mean: without the mean over time, or over each frame if the radar rests in between.
    """
    if method == "mean":
        frames = profiles.reshape(-1, recording.frame_chirps or len(profiles), *profiles.shape[1:])
        return (frames - frames.mean(axis=1, keepdims=True)).reshape(profiles.shape)
    if method == "mti":
        sections = scipy.signal.butter(MTI_ORDER, _mti_hz(recording), "high", fs=recording.prf_hz, output="sos")
        steady, filtered = scipy.signal.sosfilt_zi(sections)[..., None], np.empty_like(profiles)
        for gate in range(profiles.shape[1]):       # SciPy computes in complex128; all at once might not fit
            own = profiles[:, gate]
            filtered[:, gate] = scipy.signal.sosfilt(sections, own, axis=0, zi=steady * own[0])[0]
        return filtered
    return profiles


def _mti_hz(recording: Recording) -> float:
    return 2 * MTI_MPS / recording.wavelength_m


def gates_between(recording: Recording, near_m: float, far_m: float) -> np.ndarray:
    """The gates in a range in metres. Raises InputError if there are none, or if the recording has no range."""
    if not recording.gate_m:
        raise InputError(f"range_m is {near_m:g} {far_m:g}, but this recording has no range: it is a slow-time signal, "
                         "or its bandwidth is unknown (--bandwidth_hz)")
    ranges = np.arange(recording.signal.shape[1]) * recording.gate_m
    gates = np.flatnonzero((ranges >= near_m) & (ranges <= far_m))
    if not np.iscomplexobj(recording.signal):
        gates = gates[gates < recording.signal.shape[1] // 2]
    if not len(gates):
        raise InputError(f"range_m is {near_m:g} {far_m:g}; expected a range with gates in it, which are "
                         f"{recording.gate_m:.3g} m apart")
    return gates


def moving_gates(power: np.ndarray, block_chirps: int) -> np.ndarray:
    """The gates where something moves, (n,), in rising order.

    power: (chirps, gates), after the removal of clutter; it is averaged over blocks of block_chirps. A gate counts in a
    block where it is within MOVING_DB of the block's strongest gate, and that one MOVING_DB above the median of all. So
    a person is followed through the gates, however much weaker the far ones are. If this never happens, the strongest
    gate is taken. The first gate, which holds what leaks from transmitter to receiver, is not.
    """
    if power.shape[1] == 1:
        return np.array([0])
    blocks = max(1, len(power) // block_chirps)
    mean = np.array([part.mean(axis=0) for part in np.array_split(power[:, 1:], blocks)])
    ratio = 10 ** (MOVING_DB / 10)
    peak = mean.max(axis=1, keepdims=True)
    moves = peak[:, 0] > ratio * np.median(mean)
    shares = (mean[moves] * ratio >= peak[moves]).mean(axis=0) if moves.any() else np.zeros(mean.shape[1])
    gates = 1 + np.flatnonzero(shares >= MOVING_SHARE)
    return gates if len(gates) else np.array([1 + mean.mean(axis=0).argmax()])
