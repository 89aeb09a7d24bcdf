"""What a picture says about the walk, in units: torso speed, Doppler spread, cadence, all from the pixels alone."""
from dataclasses import dataclass
from functools import lru_cache

import matplotlib
import numpy as np
from torch import Tensor
from tqdm import tqdm

from microdoppler.figures.axes import PictureAxes

BITS = 6                    # per colour channel, of the table that inverts the colour map: finer than JPEG keeps it
GREY = 32                   # mean difference of the channels, of 255: jet colours have 127 or more, by its formula
FLOOR = 0.1                 # of the colour scale: weaker is noise
ENVELOPE = (0.03, 0.97)     # the shares of a column's intensity below its lower and its upper envelope
MOST_SCATTER = 0.15         # of the speed range, about the torso's median: walks reach 0.09, noise begins at 0.20
CHUNK = 64                  # pictures at a time: about 0.1 GB at 256 pixels
RIDGE_POWER = 8             # weighs the torso, the strongest line, above the limbs in a column's mean
CADENCE_HZ = (1.2, 2.6)     # steps per second of walking: 1.4 … 2.3 (Boulic et al. 1990), and a margin
CADENCE_STEP_HZ = 0.01
LEAST_EXPLAINED = 0.1       # share of the tracks' variance: noise alone comes to about 0.05


@lru_cache(maxsize=1)
def _scale_of_colours() -> np.ndarray:
    """Position of the nearest jet colour on the colour scale, float32 (levels³,), by the channels' first BITS bits."""
    levels = 2 ** BITS
    centres = (np.arange(levels) + 0.5) * 256 / levels
    grid = np.stack(np.meshgrid(centres, centres, centres, indexing="ij"), axis=-1).reshape(levels, -1, 3)
    jet = matplotlib.colormaps["jet"](np.arange(256), bytes=True)[:, :3].astype(float)
    length = np.square(jet).sum(axis=1)
    nearest = np.concatenate([(length - 2 * slab @ jet.T).argmin(axis=1) for slab in grid])      # at once: 1 GB
    return (nearest / 255).astype(np.float32)


def intensity(images: np.ndarray | Tensor) -> np.ndarray:
    """(n, 3 or 1, h, w) uint8 → position on the colour scale (n, h, w) float32 in [0, 1]: of jet colours by the nearest
    one, of grey pictures, also as three channels, by brightness."""
    images, scale = np.asarray(images), _scale_of_colours()
    out = np.empty((len(images), *images.shape[2:]), np.float32)
    for picture, place in zip(images, out):
        if np.ptp(picture.astype(np.int16), axis=0).mean() < GREY:
            place[:] = picture.mean(axis=0) / 255
            continue
        red, green, blue = (picture >> (8 - BITS)).astype(np.int32)
        place[:] = scale[(((red << BITS) + green) << BITS) + blue]
    return out


@dataclass(frozen=True, eq=False)
class Tracks:
    """Speeds in m/s over the columns of n pictures, (n, w) each; NaN in columns without an echo or without a torso."""
    torso: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def tracks_of(images: np.ndarray | Tensor, axes: PictureAxes) -> Tracks:
    """(n, 3, h, w) uint8 → the torso's speed (the mean, weighted by a high power of the intensity) and the envelope's
    two edges (the speeds below which ENVELOPE of a column's intensity lies: single noisy pixels do not move them)."""
    echo = np.clip(intensity(images)[:, ::-1] - FLOOR, 0, None)         # lowest row first
    rows = echo.shape[1]
    speeds = axes.lowest_mps + (np.arange(rows) + 0.5) / rows * (axes.highest_mps - axes.lowest_mps)
    ridge = echo ** RIDGE_POWER
    weight = ridge.sum(axis=1, dtype=float)
    cumulative = echo.cumsum(axis=1)
    total = cumulative[:, -1]
    empty = weight <= 0
    torso, square = (np.einsum("nhw,h->nw", ridge, moment) / np.where(empty, 1, weight)
                     for moment in (speeds, speeds ** 2))
    edges = [speeds[(cumulative < share * total[:, None]).sum(axis=1).clip(max=rows - 1)] for share in ENVELOPE]
    unclear = empty | _scattered(np.where(empty, np.nan, torso), square, axes)
    return Tracks(*(np.where(unclear, np.nan, track) for track in (torso, *edges)))


def _scattered(torso: np.ndarray, square: np.ndarray, axes: PictureAxes) -> np.ndarray:
    """(n, w) whether a column's brightest pixels lie far from the picture's torso: noise, and stripes of interference.

    torso, square: (n, w) weighted means of speed, NaN where unknown, and of speed².
    """
    middle = np.array([np.median(track[known]) if (known := np.isfinite(track)).any() else 0.0 for track in torso])
    deviation = square - 2 * middle[:, None] * torso + middle[:, None] ** 2
    return deviation > (MOST_SCATTER * (axes.highest_mps - axes.lowest_mps)) ** 2


def describe_gait(images: np.ndarray | Tensor, axes: PictureAxes) -> dict[str, np.ndarray]:
    """(n, 3, h, w) uint8 → {figure: (n,) float64}, NaN where a picture does not show it.

    torso_mps: mean speed; torso_variation_mps: standard deviation of the torso's speed about its trend;
    doppler_spread_mps: mean width of the envelope; cadence_hz: steps per second. A picture must show a torso in more
    than half of its columns; a blank one, a plain one and noise show none.
    """
    starts = tqdm(range(0, max(len(images), 1), CHUNK), desc="estimating the walk", unit="chunk", delay=1, leave=False,
                  disable=None)
    parts = [_describe(tracks_of(images[i:i + CHUNK], axes), axes) for i in starts]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _describe(tracks: Tracks, axes: PictureAxes) -> dict[str, np.ndarray]:
    seen = np.isfinite(tracks.torso).mean(axis=1) > 0.5
    filled = {name: _without_gaps(track) for name, track in vars(tracks).items()}
    swing = {name: _detrended(track) for name, track in filled.items()}
    figures = {"torso_mps": filled["torso"].mean(axis=1), "torso_variation_mps": swing["torso"].std(axis=1),
               "doppler_spread_mps": (filled["upper"] - filled["lower"]).mean(axis=1),
               "cadence_hz": _cadence(np.stack(list(swing.values()), axis=1), axes)}
    return {name: np.where(seen, values, np.nan) for name, values in figures.items()}


def _without_gaps(tracks: np.ndarray) -> np.ndarray:
    """Unclear columns get the value of their nearest neighbours in between; 0 where there is none at all."""
    filled, column = np.zeros(tracks.shape), np.arange(tracks.shape[1])
    for track, out in zip(tracks, filled):
        known = np.isfinite(track)
        if known.any():
            out[:] = np.interp(column, column[known], track[known])
    return filled


def _detrended(tracks: np.ndarray) -> np.ndarray:
    """(n, w) less the parabola of each: walkers speed up and brake."""
    basis = np.linalg.qr(np.vander(np.linspace(-1, 1, tracks.shape[1]), 3))[0]
    return tracks - tracks @ basis @ basis.T


def _cadence(tracks: np.ndarray, axes: PictureAxes) -> np.ndarray:
    """(n,) the frequency whose sine explains most of the variance of (n, tracks, w), the mean over the tracks.

    Lomb's least-squares periodogram (Lomb 1976). Torso and limbs all swing once per step.
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
    return np.where((explained.max(axis=1) < LEAST_EXPLAINED) | at_the_edge, np.nan, found)
