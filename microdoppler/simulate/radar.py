"""A continuous-wave radar that looks at moving ellipsoids: echo, short-time Fourier transform, picture."""
from dataclasses import dataclass

import matplotlib
import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter1d
from scipy.signal import ShortTimeFFT

LIGHT_SPEED = 299_792_458.0
BLOCK = 16          # chirps between two computed body poses; 4 ms, between which positions are interpolated cubically


@dataclass(frozen=True)
class Radar:
    """FMCW radar, reduced to the slow-time signal of the walker's range gate: one complex sample per chirp."""
    carrier_hz: float = 77e9
    chirp_rate_hz: float = 3750.0       # spans 7.3 m/s of radial speed without ambiguity
    height_m: float = 1.0               # of the antenna above ground
    window_chirps: int = 96             # one spectrum, 26 ms, and so the number of its frequency bins
    hop_chirps: int = 152               # from column to column, 41 ms: the radar rests between two bursts of chirps
    receding_bins: int = 18             # bins below zero Doppler; all others see approaching speeds
    noise_db: float = -82.0             # receiver noise per chirp; 0 dB is the echo of 1 m² at 1 m
    floor_db: float = -34.0             # drawn dark blue, as is all below; 0 dB is the usual peak of a column
    top_db: float = 6.0                 # drawn dark red, as is all above

    @property
    def wavelength_m(self) -> float:
        return LIGHT_SPEED / self.carrier_hz

    @property
    def hop_seconds(self) -> float:
        return self.hop_chirps / self.chirp_rate_hz

    def speeds_mps(self) -> np.ndarray:
        """Radial speed of each spectrogram row (positive: approaching), falling from the top: v = f λ / 2."""
        bins = np.arange(self.window_chirps)[::-1] - self.receding_bins
        return bins * self.chirp_rate_hz / self.window_chirps * self.wavelength_m / 2


def ellipsoid_rcs(semi_axes: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Radar cross-section in m² of ellipsoids with semi-axes a, b, c (…, 3), seen along unit vectors (…, 3).

    Both in the ellipsoid's own axes: π a²b²c² / (a²u² + b²v² + c²w²)² (Ruck et al. 1970; Chen 2011).
    """
    squares = np.square(semi_axes)
    return np.pi * np.prod(squares, axis=-1) / np.square(np.sum(squares * np.square(direction), axis=-1))


def receive(radar: Radar, ranges_m: np.ndarray, amplitudes: np.ndarray) -> np.ndarray:
    """Sum of the echoes exp(-4πi R / λ) of point scatterers, complex64 (chirps,).

    ranges_m, amplitudes: float (points, blocks + 3), one value every BLOCK chirps, beginning one before the first
    chirp; chirps = blocks · BLOCK. Between them ranges follow cubics (Catmull-Rom), since Doppler is their derivative.
    """
    t = np.arange(BLOCK)[:, None] / BLOCK
    cubic = np.hstack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]).T / 2
    linear = np.hstack([1 - t, t]).T.astype(np.float32)
    signal = np.zeros(((ranges_m.shape[1] - 3) * BLOCK, 2), np.float32)
    for turns, amplitude in zip(ranges_m * (2 / radar.wavelength_m), amplitudes.astype(np.float32)):
        fine = (np.lib.stride_tricks.sliding_window_view(turns, 4) @ cubic).ravel()
        angle = ((fine - np.floor(fine)) * (-2 * np.pi)).astype(np.float32)     # whole turns away before float32
        gain = (np.lib.stride_tricks.sliding_window_view(amplitude[1:-1], 2) @ linear).ravel()
        signal[:, 0] += gain * np.cos(angle)
        signal[:, 1] += gain * np.sin(angle)
    return signal.view(np.complex64)[:, 0]


def receiver_noise(radar: Radar, chirps: int, change_db: float, rng: np.random.Generator) -> np.ndarray:
    """Complex white noise, complex64 (chirps,), of change_db against radar.noise_db."""
    noise = rng.standard_normal((chirps, 2), np.float32).view(np.complex64)[:, 0] / np.sqrt(np.float32(2))
    return noise * np.float32(10 ** ((radar.noise_db + change_db) / 20))


def fading(poses: int, rng: np.random.Generator) -> np.ndarray:
    """Rayleigh-like (poses,), new every 14 poses (60 ms): the cloth and muscles of a limb change its echo."""
    knots = rng.standard_normal((2, poses // 14 + 2))
    return np.hypot(*(np.interp(np.arange(poses) / 14, np.arange(knots.shape[1]), knot) for knot in knots))


def spectrogram_db(radar: Radar, signal: np.ndarray) -> np.ndarray:
    """Short-time Fourier transform, Hann window: power in dB, float32 (window_chirps, columns); rows: speeds_mps."""
    window = np.hanning(radar.window_chirps + 2)[1:-1]
    transform = ShortTimeFFT(window / np.linalg.norm(window), radar.hop_chirps, radar.chirp_rate_hz,
                             fft_mode="twosided", phase_shift=None)
    columns = (len(signal) - radar.window_chirps) // radar.hop_chirps + 1
    # SciPy's windows are centred on multiples of the hop; with this offset they begin there.
    spectrum = transform.stft(signal, 0, columns, k_offset=radar.window_chirps // 2)
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    order = (np.arange(radar.window_chirps)[::-1] - radar.receding_bins) % radar.window_chirps
    return (10 * np.log10(power[order] + 1e-20)).astype(np.float32)


def level(spectrogram: np.ndarray, columns: int) -> np.ndarray:
    """Slow automatic gain: from each column, the mean peak of the `columns` around it is subtracted."""
    return spectrogram - uniform_filter1d(spectrogram.max(axis=0), 2 * (columns // 2) + 1, mode="nearest")


def draw(radar: Radar, spectrogram: np.ndarray, image_size: int, channels: int = 3) -> np.ndarray:
    """Levelled dB (bins, columns) → uint8: clipped, cells with sharp edges; of 3 channels in jet colours (image_size,
    image_size, 3), of 1 in grey (image_size, image_size)."""
    shade = np.clip((spectrogram - radar.floor_db) / (radar.top_db - radar.floor_db), 0, 1)
    colours = matplotlib.colormaps["jet" if channels == 3 else "gray"](shade, bytes=True)
    image = Image.fromarray(colours[..., :3] if channels == 3 else colours[..., 0].copy())
    whole = max(image_size, *image.size)
    image = image.resize((whole, whole), Image.Resampling.NEAREST)
    return np.asarray(image.resize((image_size, image_size), Image.Resampling.BOX))
