"""Where windows show the same stretch of time: matches over time shifts, the hop between windows, the passes.

Windows are cut from long recordings, each starting one hop after the one before, so that neighbours share columns. A
test image that shares columns with a training image is a near-copy of it, and tests nothing.
"""
import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from groundwork.errors import InputError
from groundwork.files import atomic_path, load_arrays
from groundwork.images import load_images, open_image, time_order
from microdoppler.data.spectrograms import drop_broken, find_users

SIZE = 64               # pixels at which windows are compared: all pairs of 31 x 150 images take seconds
AT_ONCE = 64            # windows compared with all others at once, which bounds memory
LEAST_OVERLAP = 0.25    # share of the columns; below it any two windows of walking match somewhere
NEAR_COPY = 0.8         # measured on real persons: neighbours 0.90 (median), 99.9 % of strangers below 0.75
NEIGHBOUR_SIZE = 128    # pixels at which neighbours are compared, for the hop
SAME_PASS = 0.6         # between neighbours near the hop: measured 0.92 (median) and 0.55 (lowest 1 %)
HOP_VARIES = 0.3        # the real recordings' hop lies between 54 and 76 columns of 256, mostly at 64
METHOD = 1              # raise it when matches are computed differently, so that stored ones are made again
OVERLAPS_FILE = "overlaps.npz"
PARTS = ("names", "correlation", "shift", "neighbours")


def without_profile(images: Tensor) -> Tensor:
    """(n, 3, s, s) uint8, each less its own mean over time, float32.

    All windows of a walker share that Doppler profile; what is left of it tells one stretch of time from another.
    """
    return images.float() - images.float().mean(dim=3, keepdim=True)


@dataclass(frozen=True, eq=False)
class Windows:
    """n windows with all that correlating them takes, float64: spectrum (n, rows, frequencies) of each row over time,
    padded so that nothing wraps round; sums, squares (n, width + 1) of the columns' values, running."""
    spectrum: Tensor
    sums: Tensor
    squares: Tensor

    @staticmethod
    def of(images: Tensor) -> "Windows":
        """(n, c, h, w) → windows of c · h rows."""
        rows = images.double().flatten(1, 2)
        return Windows(torch.fft.rfft(rows, n=2 * rows.shape[2]),
                       *(F.pad(values.sum(dim=1).cumsum(dim=1), (1, 0)) for values in (rows, rows.square())))

    def __getitem__(self, part: slice) -> "Windows":
        return Windows(self.spectrum[part], self.sums[part], self.squares[part])

    @property
    def width(self) -> int:
        return self.sums.shape[1] - 1

    @property
    def largest_shift(self) -> int:
        return int(self.width * (1 - LEAST_OVERLAP))

    def stretches(self, start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
        """Of columns start … stop, each (k,): the mean, and the norm of the values less that mean, each (n, k)."""
        count = (stop - start) * self.spectrum.shape[1]
        total, squares = (sums[:, stop] - sums[:, start] for sums in (self.sums, self.squares))
        return total / count, (squares - total.square() / count).clamp_min(1).sqrt()    # a blank one matches nothing


def correlate(spectrum: Tensor, shifts: Tensor, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor],
              count: Tensor, width: int) -> Tensor:
    """Normalised cross-correlation (…, k) float32 at k shifts; by the correlation theorem all products of two windows
    are the inverse transform of `spectrum` (…, frequencies), which is conj(first) · second summed over rows."""
    products = torch.fft.irfft(spectrum, n=2 * width)[..., shifts]      # a negative shift counts from the end
    return ((products - count * first[0] * second[0]) / (first[1] * second[1])).float()


def best_match(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The highest normalised cross-correlation of each pair over all shifts that leave LEAST_OVERLAP in common.

    first (n, c, h, w), second (m, c, h, w) float32 → correlation (n, m) float32, shift (n, m) int64: by how many
    columns the first begins after the second.
    """
    ours, others = Windows.of(first), Windows.of(second)
    width, most = ours.width, ours.largest_shift
    shifts = torch.arange(-most, most + 1)
    later, earlier = shifts.clamp_min(0), (-shifts).clamp_min(0)
    count = (width - shifts.abs()) * ours.spectrum.shape[1]
    means, norms = others.stretches(later, width - earlier)
    found = []
    theirs = others.spectrum.permute(2, 1, 0)
    real, imaginary = torch.cat([theirs.real, theirs.imag], 1), torch.cat([theirs.imag, -theirs.real], 1)
    for part in (ours[i:i + AT_ONCE] for i in range(0, len(ours.sums), AT_ONCE)):
        own = part.spectrum.permute(2, 0, 1)
        own = torch.cat([own.real, own.imag], 2)        # products of real matrices: several times as fast
        spectrum = torch.complex(own @ real, own @ imaginary).permute(1, 2, 0)
        mean, norm = part.stretches(earlier, width - later)
        all_shifts = correlate(spectrum, shifts, (mean[:, None], norm[:, None]), (means, norms), count, width)
        found.append(all_shifts.max(dim=2))
    return torch.cat([best.values for best in found]), torch.cat([shifts[best.indices] for best in found])


def neighbour_match(images: Tensor) -> Tensor:
    """Of each window (n, c, h, w) and the one before it, the correlation at shift 0, 1, …: (n - 1, shifts) float32."""
    windows = Windows.of(images)
    width, shifts = windows.width, torch.arange(windows.largest_shift + 1)
    later, earlier = windows[1:], windows[:-1]
    spectrum = (later.spectrum.conj() * earlier.spectrum).sum(dim=1)
    return correlate(spectrum, shifts, later.stretches(torch.zeros_like(shifts), width - shifts),
                     earlier.stretches(shifts, torch.full_like(shifts, width)),
                     (width - shifts) * windows.spectrum.shape[1], width)


@dataclass(frozen=True)
class Successor:
    """The window that comes after another in the same pass; shift: after which share of the width it begins."""
    path: str
    shift: float


@dataclass(frozen=True, eq=False)
class Overlaps:
    """How the windows of a data set overlap.

    names: {user: paths in time order}; correlation, shift: {user: (n, n)} as `best_match` finds them among the user's
    own images at SIZE; neighbours: {user: (n - 1, shifts)} as `neighbour_match` finds them at NEIGHBOUR_SIZE; width: of
    the image files, in columns.
    """
    names: dict[int, list[str]]
    correlation: dict[int, np.ndarray]
    shift: dict[int, np.ndarray]
    neighbours: dict[int, np.ndarray]
    width: int

    @property
    def hop_columns(self) -> int | None:
        """The hop in columns of the image files."""
        return round(self.hop * self.width) if self.hop else None

    @cached_property
    def hop(self) -> float | None:
        """The commonest shift from a window to the next, as a share of the width; None if windows do not overlap."""
        votes = Counter(int(row.argmax()) for user in self.names
                        for row, gap in zip(self.neighbours[user], self._gaps(user)) if gap == 1
                        and row.max() >= NEAR_COPY and row.argmax() > 0)
        return votes.most_common(1)[0][0] / NEIGHBOUR_SIZE if votes else None

    @cached_property
    def pass_of(self) -> dict[str, int]:
        """{path: number of its pass, 0, 1, … per user}: a new one begins where two neighbours share no time."""
        return {name: number for user, names in self.names.items()
                for name, number in zip(names, np.cumsum([0, *(self._links(user)[0] < SAME_PASS)]).tolist())}

    @cached_property
    def following(self) -> dict[str, Successor]:
        """{path: the window after it}, where it is the next by number and the two agree closely."""
        following = {}
        for user, names in self.names.items():
            correlations, shifts = self._links(user)
            for i in np.flatnonzero((correlations >= NEAR_COPY) & (self._gaps(user) == 1)):
                following[names[i]] = Successor(names[i + 1], shifts[i] / NEIGHBOUR_SIZE)
        return following

    def _links(self, user: int) -> tuple[np.ndarray, np.ndarray]:
        """(correlation, shift) of each neighbouring pair (n - 1,), near the shift that their numbers lead to expect."""
        rows, gaps = self.neighbours[user], self._gaps(user)
        found = np.full((len(rows), 2), -1.0)
        for i, (row, gap) in enumerate(zip(rows, gaps)):
            expected = (self.hop or 0) * NEIGHBOUR_SIZE * gap
            low, high = round((1 - HOP_VARIES) * expected), round((1 + HOP_VARIES) * expected)
            if 0 < expected <= len(row) - 1:
                at = low + int(row[low:high + 1].argmax())
                found[i] = row[at], at
        return found[:, 0], found[:, 1].astype(int)

    def _gaps(self, user: int) -> np.ndarray:
        """By how many windows each is later than the one before, by the numbers in the names; 1 where they have none.

        Files may be numbered by column or frame, so that the commonest step of the numbers counts as one window.
        """
        steps = np.diff([time_order(name)[0] for name in self.names[user]])
        grown = steps[steps > 0]
        usual = np.bincount(grown).argmax() if len(grown) else 1
        return np.rint(steps / usual).astype(int).clip(min=1)


def find_overlaps(data_path: str | Path, names: dict[int, list[str]]) -> Overlaps:
    """Compare all images of each user with each other; names: {user: paths relative to data_path, in time order}."""
    correlation, shift, neighbours = {}, {}, {}
    with tqdm(total=sum(map(len, names.values())), desc="looking for overlaps", unit="image", disable=None) as bar:
        for user, own in names.items():
            images = without_profile(load_images(data_path, own, NEIGHBOUR_SIZE))
            small = F.avg_pool2d(images, NEIGHBOUR_SIZE // SIZE)
            correlation[user], shift[user] = (found.numpy() for found in best_match(small, small))
            neighbours[user] = neighbour_match(images).numpy()
            bar.update(len(own))
    return Overlaps(names, correlation, shift, neighbours, file_width(data_path, names))


def file_width(data_path: str | Path, names: dict[int, list[str]]) -> int:
    """Columns of the image files that load_image keeps, judged by the first."""
    with open_image(Path(data_path) / next(iter(names.values()))[0]) as image:
        return min(image.size)


def load_or_find_overlaps(data_path: str | Path, num_users: int, folder: str | Path,
                          class_folders: bool = False) -> Overlaps:
    """The overlaps of users 1 … num_users, from folder/overlaps.npz when it was made from the same files, else made."""
    path, found = Path(folder) / OVERLAPS_FILE, find_users(data_path, num_users, class_folders)
    fingerprint = _fingerprint(Path(data_path), found)
    try:
        stored = load_arrays(path)
        if str(stored["fingerprint"]) == fingerprint:
            paths, correlation, shift, neighbours = (
                {user: stored[f"{part}_{user}"] for user in found} for part in PARTS)
            return Overlaps({user: own.tolist() for user, own in paths.items()}, correlation, shift, neighbours,
                            int(stored["width"]))
    except (InputError, ValueError, KeyError, TypeError):
        pass        # absent or damaged: it can be made again
    names, _ = drop_broken(data_path, found)
    overlaps = find_overlaps(data_path, names)
    with atomic_path(path) as temporary:
        np.savez(temporary, fingerprint=fingerprint, width=overlaps.width,
                 **{f"{part}_{user}": value for part in PARTS for user, value in getattr(overlaps, part).items()})
    return overlaps


def _fingerprint(data_path: Path, names: dict[int, list[str]]) -> str:
    """Of names and sizes of the files; reading them all would take as long as comparing them."""
    def size(path: Path) -> int | None:
        try:
            return path.stat().st_size
        except OSError:         # a link to nowhere: drop_broken will name it
            return None
    facts = [(name, size(data_path / name)) for own in names.values() for name in own]
    return hashlib.sha256(repr((METHOD, SIZE, NEIGHBOUR_SIZE, LEAST_OVERLAP, facts)).encode()).hexdigest()[:16]
