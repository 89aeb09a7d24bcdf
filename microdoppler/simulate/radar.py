"""A continuous-wave radar: the echo of moving scatterers, its short-time Fourier transform, and the image of that."""
from dataclasses import dataclass

import matplotlib
import numpy as np
import scipy       # loads its parts when they are used: all scripts import Radar, and only the simulator needs them
from PIL import Image

LIGHT_SPEED = 299_792_458.0
BLOCK = 16          # chirps between two computed poses of a body (4 ms at 3750 Hz); the rest is interpolated


@dataclass(frozen=True)
class Radar:
    """An FMCW radar, reduced to the slow-time signal of one range gate: one complex sample per chirp."""
    carrier_hz: float = 77e9
    chirp_rate_hz: float = 3750.0       # unambiguous radial speeds span 7.3 m/s
    height_m: float = 1.0               # antenna above ground
    window_chirps: int = 96             # chirps per spectrum (26 ms), and so its number of frequency bins
    hop_chirps: int = 152               # chirps from column to column (41 ms); the radar rests between bursts of chirps
    receding_bins: int = 18             # bins below zero Doppler; the others are for approaching speeds
    noise_db: float = -82.0             # receiver noise per chirp; 0 dB is the echo of 1 m² at 1 m
    floor_db: float = -34.0             # shown dark blue, as is all below; 0 dB is the usual peak of a column
    top_db: float = 6.0                 # shown dark red, as is all above

    @property
    def wavelength_m(self) -> float:
        return LIGHT_SPEED / self.carrier_hz

    @property
    def hop_seconds(self) -> float:
        """Time from one spectrogram column to the next."""
        return self.hop_chirps / self.chirp_rate_hz

    def speeds_mps(self) -> np.ndarray:
        """Radial speed of each spectrogram row, (window_chirps,), in descending order from the top; positive:
        approaching. v = f λ / 2.
        """
        bins = np.arange(self.window_chirps)[::-1] - self.receding_bins
        return bins * self.chirp_rate_hz / self.window_chirps * self.wavelength_m / 2


def ellipsoid_rcs(semi_axes: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Radar cross-section of ellipsoids in m², (…): π a²b²c² / (a²u² + b²v² + c²w²)² (Ruck et al. 1970; Chen 2011).

    semi_axes: a, b, c in metres, (…, 3).
    direction: unit vectors (u, v, w) of the line of sight in the ellipsoid's own axes, (…, 3).
    """
    squares = np.square(semi_axes)
    return np.pi * np.prod(squares, axis=-1) / np.square(np.sum(squares * np.square(direction), axis=-1))


def receive(radar: Radar, ranges_m: np.ndarray, amplitudes: np.ndarray) -> np.ndarray:
    """The sum of the echoes, amplitude * exp(-4πi R / λ), of point scatterers at ranges R: complex64 (chirps,).

    ranges_m, amplitudes: float (points, blocks + 3), one value every BLOCK chirps, and chirps = blocks * BLOCK. The
    first value is BLOCK chirps before the first chirp. In between, ranges are interpolated by cubics (Catmull-Rom),
    because the Doppler frequency is their derivative. Amplitudes are interpolated linearly.
    """
    t = np.arange(BLOCK)[:, None] / BLOCK
    cubic = np.hstack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]).T / 2
    linear = np.hstack([1 - t, t]).T.astype(np.float32)
    signal = np.zeros(((ranges_m.shape[1] - 3) * BLOCK, 2), np.float32)
    for turns, amplitude in zip(ranges_m * (2 / radar.wavelength_m), amplitudes.astype(np.float32)):
        fine = (np.lib.stride_tricks.sliding_window_view(turns, 4) @ cubic).ravel()
        angle = ((fine - np.floor(fine)) * (-2 * np.pi)).astype(np.float32)     # whole turns removed before float32
        gain = (np.lib.stride_tricks.sliding_window_view(amplitude[1:-1], 2) @ linear).ravel()
        signal[:, 0] += gain * np.cos(angle)
        signal[:, 1] += gain * np.sin(angle)
    return signal.view(np.complex64)[:, 0]


def receiver_noise(radar: Radar, chirps: int, change_db: float, rng: np.random.Generator) -> np.ndarray:
    """Complex white noise with radar.noise_db + change_db per chirp: complex64 (chirps,)."""
    noise = rng.standard_normal((chirps, 2), np.float32).view(np.complex64)[:, 0] / np.sqrt(np.float32(2))
    return noise * np.float32(10 ** ((radar.noise_db + change_db) / 20))


def fading(poses: int, rng: np.random.Generator) -> np.ndarray:
    """Random factors of a limb's echo amplitude, (poses,), about Rayleigh-distributed. They stand for cloth and
    muscles, which change the echo. There is a new value every 14 poses (60 ms at 3750 chirps per second), and linear
    interpolation in between.
    """
    knots = rng.standard_normal((2, poses // 14 + 2))
    return np.hypot(*(np.interp(np.arange(poses) / 14, np.arange(knots.shape[1]), knot) for knot in knots))


def spectrogram_db(radar: Radar, signal: np.ndarray) -> np.ndarray:
    """Short-time Fourier transform with a Hann window: power in dB, float32 (window_chirps, columns). Rows are as in
    speeds_mps.
    """
    window = np.hanning(radar.window_chirps + 2)[1:-1]
    transform = scipy.signal.ShortTimeFFT(window / np.linalg.norm(window), radar.hop_chirps, radar.chirp_rate_hz,
                                          fft_mode="twosided", phase_shift=None)
    columns = (len(signal) - radar.window_chirps) // radar.hop_chirps + 1
    # SciPy centres its windows on multiples of the hop. With this offset, they begin there.
    spectrum = transform.stft(signal, 0, columns, k_offset=radar.window_chirps // 2)
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    order = (np.arange(radar.window_chirps)[::-1] - radar.receding_bins) % radar.window_chirps
    return (10 * np.log10(power[order] + 1e-20)).astype(np.float32)


def automatic_gain(spectrogram: np.ndarray, columns: int) -> np.ndarray:
    """A spectrogram in dB after slow automatic gain control. The peaks of the columns are averaged over `columns`
    columns around each column, and the average is subtracted.
    """
    peaks = spectrogram.max(axis=0)
    return spectrogram - scipy.ndimage.uniform_filter1d(peaks, 2 * (columns // 2) + 1, mode="nearest")


def render_image(radar: Radar, spectrogram: np.ndarray, image_size: int, channels: int = 3) -> np.ndarray:
    """A spectrogram in dB after automatic_gain, (bins, columns), as an image, uint8.

    Values are clipped to radar.floor_db … radar.top_db. With 3 channels they become jet colours,
    (image_size, image_size, 3). With 1 channel they become grey values, (image_size, image_size). Cells of the
    spectrogram keep sharp edges.
    """
    fraction = np.clip((spectrogram - radar.floor_db) / (radar.top_db - radar.floor_db), 0, 1)
    colours = matplotlib.colormaps["jet" if channels == 3 else "gray"](fraction, bytes=True)
    image = Image.fromarray(colours[..., :3] if channels == 3 else colours[..., 0].copy())
    enlarged = max(image_size, *image.size)
    image = image.resize((enlarged, enlarged), Image.Resampling.NEAREST)
    return np.asarray(image.resize((image_size, image_size), Image.Resampling.BOX))
