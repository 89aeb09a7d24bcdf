"""Which windows show the same stretch of time: their similarity at all time shifts, the hop, and the passes.

A pass is one continuous recording. Windows are cut from it, each one hop after the one before, so neighbours share
columns. A test image that shares most columns with a training image is a near-copy of it. It is no independent test.
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

from groundwork.errors import InputError
from groundwork.files import atomic_path, load_arrays
from groundwork.images import load_images, open_image, time_order
from groundwork.progress import Progress
from microdoppler.data.spectrograms import drop_broken, find_users

COMPARED_SIZE = 64      # pixels at which all pairs are compared: all pairs of 31 x 150 images take seconds
CHUNK = 64              # windows compared with all others at a time; bounds the memory
MIN_OVERLAP = 0.25      # share of columns that two windows must have in common; with less, walks match by chance
# A correlation from this value on is a near-copy. On real persons, neighbours have 0.90 (median), and 99.9 % of pairs
# of unrelated windows have less than 0.75.
NEAR_COPY = 0.8
NEIGHBOUR_SIZE = 128    # pixels at which neighbours are compared, to find the hop
SAME_PASS = 0.6         # neighbours of one pass have a higher correlation: measured 0.92 (median), 0.55 (lowest 1 %)
HOP_TOLERANCE = 0.3     # relative; the real recordings' hop lies between 54 and 76 columns of 256, mostly at 64
METHOD_VERSION = 1      # increase it when the comparison changes, so that stored overlaps are computed again
OVERLAPS_FILE = "overlaps.npz"
STORED_FIELDS = ("names", "correlation", "shift", "neighbours")     # of Overlaps, in overlaps.npz per user


def without_profile(images: Tensor) -> Tensor:
    """Subtract from each image its mean over time: (n, 3, s, s) uint8 → (n, 3, s, s) float32.

    All windows of a walker share this mean, the Doppler profile. The rest differs between stretches of time.
    """
    return images.float() - images.float().mean(dim=3, keepdim=True)


@dataclass(frozen=True, eq=False)
class PreparedWindows:
    """n windows, prepared for normalised cross-correlation over time.

    spectrum: (n, rows, frequencies) complex128, the Fourier transform of each row over time, zero-padded to twice the
    width so that shifts do not wrap round; sums, squares: (n, width + 1) float64, cumulative sums over columns of the
    values and of the squared values.
    """
    spectrum: Tensor
    sums: Tensor
    squares: Tensor

    @staticmethod
    def of(images: Tensor) -> "PreparedWindows":
        """(n, c, h, w) → n windows of c · h rows."""
        rows = images.double().flatten(1, 2)
        return PreparedWindows(torch.fft.rfft(rows, n=2 * rows.shape[2]),
                               *(F.pad(values.sum(dim=1).cumsum(dim=1), (1, 0)) for values in (rows, rows.square())))

    def __getitem__(self, part: slice) -> "PreparedWindows":
        return PreparedWindows(self.spectrum[part], self.sums[part], self.squares[part])

    @property
    def width(self) -> int:
        """In columns."""
        return self.sums.shape[1] - 1

    @property
    def max_shift(self) -> int:
        """The largest shift, in columns, that leaves two windows MIN_OVERLAP of their width in common."""
        return int(self.width * (1 - MIN_OVERLAP))

    def means_and_norms(self, start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of the values in columns start … stop - 1 of each window, and the norm of their deviations from it.

        start, stop: (k,) int64, k ranges of columns → two (n, k) float64.
        """
        count = (stop - start) * self.spectrum.shape[1]
        total, squares = (sums[:, stop] - sums[:, start] for sums in (self.sums, self.squares))
        # At least 1, so that a blank window matches nothing
        return total / count, (squares - total.square() / count).clamp_min(1).sqrt()


def correlate(spectrum: Tensor, shifts: Tensor, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor],
              count: Tensor, width: int) -> Tensor:
    """Normalised cross-correlation of pairs of windows at k shifts: (…, k) float32.

    spectrum: (…, frequencies), conj(spectrum of the first) · spectrum of the second, summed over rows. Its inverse
    transform is the sum of products at each shift (correlation theorem). shifts: (k,) int64, in columns; first, second:
    means and norms of the columns in common, broadcast to (…, k); count: (k,) the number of values in common.
    """
    products = torch.fft.irfft(spectrum, n=2 * width)[..., shifts]      # a negative shift counts from the end
    return ((products - count * first[0] * second[0]) / (first[1] * second[1])).float()


def best_match(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The highest normalised cross-correlation of each pair over all shifts that leave MIN_OVERLAP in common.

    first: (n, c, h, w), second: (m, c, h, w), float32 → correlation (n, m) float32, shift (n, m) int64: how many
    columns later the first begins than the second.
    """
    firsts, seconds = PreparedWindows.of(first), PreparedWindows.of(second)
    width, max_shift = firsts.width, firsts.max_shift
    shifts = torch.arange(-max_shift, max_shift + 1)
    later, earlier = shifts.clamp_min(0), (-shifts).clamp_min(0)
    count = (width - shifts.abs()) * firsts.spectrum.shape[1]
    second_means, second_norms = seconds.means_and_norms(later, width - earlier)
    found = []
    # The complex product conj(first) · second, as products of real matrices: several times as fast.
    factor = seconds.spectrum.permute(2, 1, 0)
    for_real, for_imaginary = torch.cat([factor.real, factor.imag], 1), torch.cat([factor.imag, -factor.real], 1)
    for part in (firsts[i:i + CHUNK] for i in range(0, len(firsts.sums), CHUNK)):
        own = part.spectrum.permute(2, 0, 1)
        own = torch.cat([own.real, own.imag], 2)
        spectrum = torch.complex(own @ for_real, own @ for_imaginary).permute(1, 2, 0)
        means, norms = part.means_and_norms(earlier, width - later)
        correlations = correlate(spectrum, shifts, (means[:, None], norms[:, None]), (second_means, second_norms),
                                 count, width)
        found.append(correlations.max(dim=2))
    return torch.cat([best.values for best in found]), torch.cat([shifts[best.indices] for best in found])


def neighbour_match(images: Tensor) -> Tensor:
    """The normalised cross-correlation of each window with the one before it, at shifts of 0, 1, … columns.

    images: (n, c, h, w) in time order → (n - 1, shifts) float32. At shift s, a window begins s columns after the one
    before it.
    """
    windows = PreparedWindows.of(images)
    width, shifts = windows.width, torch.arange(windows.max_shift + 1)
    later, earlier = windows[1:], windows[:-1]
    spectrum = (later.spectrum.conj() * earlier.spectrum).sum(dim=1)
    return correlate(spectrum, shifts, later.means_and_norms(torch.zeros_like(shifts), width - shifts),
                     earlier.means_and_norms(shifts, torch.full_like(shifts, width)),
                     (width - shifts) * windows.spectrum.shape[1], width)


@dataclass(frozen=True)
class Successor:
    """The next window after another in the same pass. shift: how much later it begins, as a share of the width."""
    path: str
    shift: float


@dataclass(frozen=True, eq=False)
class Overlaps:
    """How the windows of a data set overlap.

    names: {user number: paths relative to data_path, in time order}; correlation, shift: {user number: (n, n)}, the
    results of `best_match` among the user's own images at COMPARED_SIZE pixels; neighbours: {user number: (n - 1,
    shifts)}, the result of `neighbour_match` at NEIGHBOUR_SIZE pixels; width: of the image files, in columns.
    """
    names: dict[int, list[str]]
    correlation: dict[int, np.ndarray]
    shift: dict[int, np.ndarray]
    neighbours: dict[int, np.ndarray]
    width: int

    @property
    def hop_columns(self) -> int | None:
        """The hop in columns of the image files; None if windows do not overlap."""
        return round(self.hop * self.width) if self.hop else None

    @cached_property
    def hop(self) -> float | None:
        """The most frequent shift from a window to the next, as a share of the width; None if windows do not overlap.

        Only pairs of consecutive numbers count, and only those whose correlation reaches NEAR_COPY at a shift above 0.
        """
        votes = Counter(int(row.argmax()) for user in self.names
                        for row, step in zip(self.neighbours[user], self._window_steps(user)) if step == 1
                        and row.max() >= NEAR_COPY and row.argmax() > 0)
        return votes.most_common(1)[0][0] / NEIGHBOUR_SIZE if votes else None

    @cached_property
    def pass_of(self) -> dict[str, int]:
        """{path: number of its pass, 0, 1, … per user}.

        A new pass begins where the correlation of two neighbours near the expected shift is below SAME_PASS.
        """
        return {name: number for user, names in self.names.items()
                for name, number in zip(names, np.cumsum([0, *(self._links(user)[0] < SAME_PASS)]).tolist())}

    @cached_property
    def successor_of(self) -> dict[str, Successor]:
        """{path: the next window}.

        Only where the next window is the next by number, and their correlation reaches NEAR_COPY near the hop.
        """
        successor_of = {}
        for user, names in self.names.items():
            correlations, shifts = self._links(user)
            for i in np.flatnonzero((correlations >= NEAR_COPY) & (self._window_steps(user) == 1)):
                successor_of[names[i]] = Successor(names[i + 1], shifts[i] / NEIGHBOUR_SIZE)
        return successor_of

    def _links(self, user: int) -> tuple[np.ndarray, np.ndarray]:
        """The highest correlation of each pair of neighbours near the shift that their numbers suggest, and its shift.

        Returns correlation (n - 1,) and shift (n - 1,) int64 in columns at NEIGHBOUR_SIZE pixels; both -1 where by
        their numbers the windows share less than MIN_OVERLAP, or no hop is known.
        """
        rows, steps = self.neighbours[user], self._window_steps(user)
        found = np.full((len(rows), 2), -1.0)
        for i, (row, step) in enumerate(zip(rows, steps)):
            expected = (self.hop or 0) * NEIGHBOUR_SIZE * step
            low, high = round((1 - HOP_TOLERANCE) * expected), round((1 + HOP_TOLERANCE) * expected)
            if 0 < expected <= len(row) - 1:
                at = low + int(row[low:high + 1].argmax())
                found[i] = row[at], at
        return found[:, 0], found[:, 1].astype(int)

    def _window_steps(self, user: int) -> np.ndarray:
        """(n - 1,) int64: how many windows later each is than the one before, by the numbers in the file names.

        Files may be numbered by column or frame, so the most frequent increase counts as one window. 1 for names
        without numbers.
        """
        increases = np.diff([time_order(name)[0] for name in self.names[user]])
        positive = increases[increases > 0]
        usual = np.bincount(positive).argmax() if len(positive) else 1
        return np.rint(increases / usual).astype(int).clip(min=1)


def find_overlaps(data_path: str | Path, names: dict[int, list[str]]) -> Overlaps:
    """Compare all images of each user with each other.

    names: {user number: paths relative to data_path, in time order}. Raises InputError when an image cannot be read.
    """
    correlation, shift, neighbours = {}, {}, {}
    with Progress(total=sum(map(len, names.values())), desc="looking for overlaps", unit="image") as bar:
        for user, own_names in names.items():
            images = without_profile(load_images(data_path, own_names, NEIGHBOUR_SIZE))
            small = F.avg_pool2d(images, NEIGHBOUR_SIZE // COMPARED_SIZE)
            correlation[user], shift[user] = (found.numpy() for found in best_match(small, small))
            neighbours[user] = neighbour_match(images).numpy()
            bar.update(len(own_names))
    return Overlaps(names, correlation, shift, neighbours, file_width(data_path, names))


def file_width(data_path: str | Path, names: dict[int, list[str]]) -> int:
    """How many columns of the image files load_image keeps when it crops them to a square; looks at the first file."""
    with open_image(Path(data_path) / next(iter(names.values()))[0]) as image:
        return min(image.size)


def load_or_find_overlaps(data_path: str | Path, num_users: int, folder: str | Path,
                          class_folders: bool = False) -> Overlaps:
    """The overlaps of users 1 … num_users, read from folder/overlaps.npz or computed and written there.

    The file is used when it was made from files of the same names and sizes. Raises InputError when folders or images
    are missing, or too many images cannot be decoded.
    """
    path, images = Path(folder) / OVERLAPS_FILE, find_users(data_path, num_users, class_folders)
    fingerprint = _fingerprint(Path(data_path), images)
    try:
        stored = load_arrays(path)
        if str(stored["fingerprint"]) == fingerprint:
            paths, correlation, shift, neighbours = (
                {user: stored[f"{field}_{user}"] for user in images} for field in STORED_FIELDS)
            return Overlaps({user: own_paths.tolist() for user, own_paths in paths.items()}, correlation, shift,
                            neighbours, int(stored["width"]))
    except (InputError, ValueError, KeyError, TypeError):
        pass        # missing or damaged: it can be computed again
    names, _ = drop_broken(data_path, images)
    overlaps = find_overlaps(data_path, names)
    with atomic_path(path) as temporary:
        np.savez(temporary, fingerprint=fingerprint, width=overlaps.width,
                 **{f"{field}_{user}": value for field in STORED_FIELDS
                    for user, value in getattr(overlaps, field).items()})
    return overlaps


def _fingerprint(data_path: Path, names: dict[int, list[str]]) -> str:
    """A digest of the files' names and sizes. Their contents would take as long to read as to compare."""
    def size(path: Path) -> int | None:
        try:
            return path.stat().st_size
        except OSError:         # a dangling link, which drop_broken reports
            return None
    files = [(name, size(data_path / name)) for own_names in names.values() for name in own_names]
    made_from = (METHOD_VERSION, COMPARED_SIZE, NEIGHBOUR_SIZE, MIN_OVERLAP, files)
    return hashlib.sha256(repr(made_from).encode()).hexdigest()[:16]
