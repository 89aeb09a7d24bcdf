"""Physical quantities of a walk, estimated from the pixels of a spectrogram: torso speed, Doppler spread, cadence."""
from dataclasses import dataclass
from functools import lru_cache

import matplotlib
import numpy as np
from torch import Tensor

from groundwork.progress import Progress
from microdoppler.figures.axes import PictureAxes

BITS = 6                    # per channel in the table that inverts the colour map; finer than JPEG preserves colours
MAX_GREY_RANGE = 32         # of 255: mean difference of the channels of a grey image; in jet colours it is 127 or more
NOISE_FLOOR = 0.1           # on the colour scale: weaker pixels count as noise
ENVELOPE = (0.03, 0.97)     # the shares of a column's intensity below the lower and the upper edge of the envelope
MAX_SCATTER = 0.15          # around the torso's median, share of the speed range; walks: up to 0.09, noise: from 0.20
CHUNK = 64                  # images at a time: about 0.1 GB at 256 pixels
RIDGE_POWER = 8             # of the intensity, as weight: the torso, the strongest line, outweighs the limbs
CADENCE_HZ = (1.2, 2.6)     # steps per second in walking: 1.4 … 2.3 (Boulic et al. 1990), with a margin
CADENCE_STEP_HZ = 0.01      # of the frequencies that are tried
MIN_WALKING = 0.8           # share of images with a cadence; walks: from 0.98, gestures and drones: up to 0.55
MIN_EXPLAINED = 0.1         # share of the variance that a sine must explain to be a cadence; noise alone: about 0.05


@lru_cache(maxsize=1)
def _inverse_colour_map() -> np.ndarray:
    """Table from RGB colours to the position (0 … 1) of the nearest jet colour on the colour scale.

    (levels³,) float32 with levels = 2^BITS; the index is made of the highest BITS bits of red, green and blue.
    """
    levels = 2 ** BITS
    centres = (np.arange(levels) + 0.5) * 256 / levels
    grid = np.stack(np.meshgrid(centres, centres, centres, indexing="ij"), axis=-1).reshape(levels, -1, 3)
    jet = matplotlib.colormaps["jet"](np.arange(256), bytes=True)[:, :3].astype(float)
    length = np.square(jet).sum(axis=1)
    # Slab by slab: all at once would take 1 GB.
    nearest = np.concatenate([(length - 2 * slab @ jet.T).argmin(axis=1) for slab in grid])
    return (nearest / 255).astype(np.float32)


def intensity(images: np.ndarray | Tensor) -> np.ndarray:
    """Position of each pixel on the colour scale: (n, 3 or 1, h, w) uint8 → (n, h, w) float32 in [0, 1].

    Colours are taken for jet colours: the position is that of the nearest one. In grey images, of one channel or three,
    it is the brightness.
    """
    images, scale_position = np.asarray(images), _inverse_colour_map()
    result = np.empty((len(images), *images.shape[2:]), np.float32)
    for image, out in zip(images, result):
        if np.ptp(image.astype(np.int16), axis=0).mean() < MAX_GREY_RANGE:
            out[:] = image.mean(axis=0) / 255
            continue
        red, green, blue = (image >> (8 - BITS)).astype(np.int32)
        out[:] = scale_position[(((red << BITS) + green) << BITS) + blue]
    return result


@dataclass(frozen=True, eq=False)
class Tracks:
    """Radial speeds in m/s in the columns of n images: of the torso, and of the envelope's lower and upper edge.

    (n, w) float64 each; NaN in columns without an echo or without a clear torso.
    """
    torso: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def tracks_of(images: np.ndarray | Tensor, axes: PictureAxes) -> Tracks:
    """Estimate the tracks of images (n, 3 or 1, h, w) uint8.

    The torso's speed is the mean speed in a column, weighted by the intensity to the power RIDGE_POWER. The edges of
    the envelope are the speeds below which the shares ENVELOPE of a column's intensity lie, so single noisy pixels do
    not move them.
    """
    echo = np.clip(intensity(images)[:, ::-1] - NOISE_FLOOR, 0, None)       # lowest speed first
    rows = echo.shape[1]
    speeds = axes.lowest_mps + (np.arange(rows) + 0.5) / rows * (axes.highest_mps - axes.lowest_mps)
    ridge = echo ** RIDGE_POWER
    weight = ridge.sum(axis=1, dtype=float)
    cumulative = echo.cumsum(axis=1)
    total = cumulative[:, -1]
    empty = weight <= 0
    torso, mean_square = (np.einsum("nhw,h->nw", ridge, values) / np.where(empty, 1, weight)
                          for values in (speeds, speeds ** 2))
    edges = [speeds[(cumulative < share * total[:, None]).sum(axis=1).clip(max=rows - 1)] for share in ENVELOPE]
    unclear = empty | _is_scattered(np.where(empty, np.nan, torso), mean_square, axes)
    return Tracks(*(np.where(unclear, np.nan, track) for track in (torso, *edges)))


def _is_scattered(torso: np.ndarray, mean_square: np.ndarray, axes: PictureAxes) -> np.ndarray:
    """(n, w) bool: whether a column's brightest pixels lie far from the image's median torso speed.

    That is the case in noise, and in stripes of interference. torso: (n, w) weighted mean of speed, NaN where unknown;
    mean_square: (n, w) weighted mean of speed².
    """
    median = np.array([np.median(track[known]) if (known := np.isfinite(track)).any() else 0.0 for track in torso])
    deviation = mean_square - 2 * median[:, None] * torso + median[:, None] ** 2      # mean square, about the median
    return deviation > (MAX_SCATTER * (axes.highest_mps - axes.lowest_mps)) ** 2


def describe_gait(images: np.ndarray | Tensor, axes: PictureAxes) -> dict[str, np.ndarray]:
    """Estimate quantities of the walk in images (n, 3 or 1, h, w) uint8: {name: (n,) float64}.

    torso_mps: mean speed of the torso in m/s; torso_variation_mps: standard deviation of its speed around the trend, in
    m/s; doppler_spread_mps: mean width of the envelope in m/s; cadence_hz: steps per second. All are NaN unless a torso
    is visible in more than half of the columns (it is not in blank or plain images and in noise). cadence_hz is also
    NaN where no frequency explains enough of the variance.
    """
    starts = Progress(range(0, max(len(images), 1), CHUNK), desc="estimating the walk", unit="chunk", delay=1,
                      leave=False)
    parts = [_describe(tracks_of(images[i:i + CHUNK], axes), axes) for i in starts]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def cadence_share(gait: dict[str, np.ndarray]) -> float:
    """The share (0 … 1) of images in which `describe_gait` found a cadence. Below MIN_WALKING, nobody walks in them, or
    the axes are wrong."""
    return float(np.isfinite(gait["cadence_hz"]).mean())


def _describe(tracks: Tracks, axes: PictureAxes) -> dict[str, np.ndarray]:
    """The result of `describe_gait` from the tracks of n images."""
    is_visible = np.isfinite(tracks.torso).mean(axis=1) > 0.5
    filled = {name: _interpolated(track) for name, track in vars(tracks).items()}
    swing = {name: _detrended(track) for name, track in filled.items()}
    quantities = {"torso_mps": filled["torso"].mean(axis=1), "torso_variation_mps": swing["torso"].std(axis=1),
                  "doppler_spread_mps": (filled["upper"] - filled["lower"]).mean(axis=1),
                  "cadence_hz": _cadence(np.stack(list(swing.values()), axis=1), axes)}
    return {name: np.where(is_visible, values, np.nan) for name, values in quantities.items()}


def _interpolated(tracks: np.ndarray) -> np.ndarray:
    """(n, w) tracks with NaN interpolated linearly between the nearest known columns; all 0 where none is known."""
    filled, column = np.zeros(tracks.shape), np.arange(tracks.shape[1])
    for track, out in zip(tracks, filled):
        known = np.isfinite(track)
        if known.any():
            out[:] = np.interp(column, column[known], track[known])
    return filled


def _detrended(tracks: np.ndarray) -> np.ndarray:
    """(n, w) tracks, each less the parabola fitted to it: walkers accelerate and brake."""
    basis = np.linalg.qr(np.vander(np.linspace(-1, 1, tracks.shape[1]), 3))[0]
    return tracks - tracks @ basis @ basis.T


def _cadence(tracks: np.ndarray, axes: PictureAxes) -> np.ndarray:
    """The frequency in Hz whose sine explains the largest share of the variance of detrended tracks (n, tracks, w).

    Lomb's least-squares periodogram (Lomb 1976), averaged over the tracks: torso and limbs all swing once per step.
    Returns (n,) float64. NaN where the share is below MIN_EXPLAINED, or the best frequency is the lowest or highest one
    tried.
    """
    width = tracks.shape[2]
    seconds = (np.arange(width) + 0.5) / width * axes.window_seconds
    trend = np.vander(np.linspace(-1, 1, width), 3)
    power = np.square(tracks).sum(axis=2)
    frequencies = np.arange(CADENCE_HZ[0], CADENCE_HZ[1] + CADENCE_STEP_HZ / 2, CADENCE_STEP_HZ)
    shares = []
    for frequency in frequencies:
        angle = 2 * np.pi * frequency * seconds
        basis = np.linalg.qr(np.column_stack([trend, np.cos(angle), np.sin(angle)]))[0][:, 3:]
        shares.append((np.square(tracks @ basis).sum(axis=2) / np.maximum(power, 1e-9)).mean(axis=1))
    explained = np.stack(shares, axis=1)
    at_the_edge = np.isin(explained.argmax(axis=1), (0, len(frequencies) - 1))
    found = frequencies[explained.argmax(axis=1)]
    return np.where((explained.max(axis=1) < MIN_EXPLAINED) | at_the_edge, np.nan, found)
