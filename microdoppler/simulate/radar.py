"""A continuous-wave radar: the echo of moving scatterers, and its spectrogram."""
from dataclasses import dataclass

import numpy as np

from microdoppler.figures.axes import PictureAxes
from microdoppler.radar.spectrogram import LIGHT_SPEED, bin_mps, speed_edges_mps, stft_db

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
        return (np.arange(self.window_chirps)[::-1] - self.receding_bins) * self.bin_mps

    @property
    def bin_mps(self) -> float:
        """Radial speed from one spectrogram row to the next."""
        return bin_mps(self.carrier_hz, self.chirp_rate_hz, self.window_chirps)

    @property
    def levels_db(self) -> tuple[float, float]:
        """The levels that are shown dark blue and dark red."""
        return self.floor_db, self.top_db

    def axes(self, window_columns: int) -> PictureAxes:
        """The axes of images that show so many columns."""
        return PictureAxes(window_columns * self.hop_seconds,
                           *speed_edges_mps(-self.receding_bins, self.window_chirps, self.bin_mps))


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
    """The spectrogram of a signal (chirps,): power in dB, float32 (window_chirps, columns). Rows are as in speeds_mps.
    """
    return stft_db(signal[None], radar.window_chirps, radar.hop_chirps, radar.window_chirps, -radar.receding_bins,
                   radar.window_chirps)
