"""Which windows show the same stretch of time: their similarity at all time shifts, the hop, and the passes.

A pass is one continuous recording. Windows are cut from it, each one hop after the one before, so neighbours share
columns. A test image that shares most columns with a training image is a near-copy of it. It is no independent test.
"""
import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from groundwork.errors import InputError
from groundwork.files import atomic_path, load_arrays
from groundwork.images import load_images, open_image, size_as_shown
from groundwork.preparation import Preparation
from groundwork.progress import Progress
from microdoppler.data.recordings import RecordingsOfUsers, all_images

COMPARED_SIZE = 64      # pixels at which all pairs are compared: all pairs of 31 x 150 images take seconds
CHUNK = 64              # windows compared with all others at a time; bounds the memory
MIN_OVERLAP = 0.25      # share of columns that two windows must have in common; with less, walks match by chance
# A correlation from this value on is a near-copy. On real persons, neighbours have 0.90 (median), and 99.9 % of pairs
# of unrelated windows have less than 0.75.
NEAR_COPY = 0.8
NEIGHBOUR_SIZE = 128    # pixels at which neighbours are compared, to find the hop
SAME_PASS = 0.6         # neighbours of one pass have a higher correlation: measured 0.92 (median), 0.55 (lowest 1 %)
HOP_TOLERANCE = 0.3     # relative; the real recordings' hop lies between 54 and 76 columns of 256, mostly at 64
METHOD_VERSION = 2      # increase it when the comparison changes, so that stored overlaps are computed again
OVERLAPS_FILE = "overlaps.npz"
STORED_FIELDS = ("correlation", "shift", "neighbours")      # of Overlaps, in overlaps.npz per user


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

    recordings: {user number: recordings}, with all images in time order; correlation, shift: {user number: (n, n)}, the
    results of `best_match` among the user's own images at COMPARED_SIZE pixels; neighbours: {user number: (n - 1,
    shifts)}, the result of `neighbour_match` at NEIGHBOUR_SIZE pixels; width: of the image files, in columns.
    """
    recordings: RecordingsOfUsers
    correlation: dict[int, np.ndarray]
    shift: dict[int, np.ndarray]
    neighbours: dict[int, np.ndarray]
    width: int

    @cached_property
    def names(self) -> dict[int, list[str]]:
        """{user number: paths of all images, in time order}."""
        return {user: all_images(own) for user, own in self.recordings.items()}

    @property
    def hop_columns(self) -> int | None:
        """The hop in columns of the image files; None if no overlap was found."""
        return round(self.hop * self.width) if self.hop else None

    @cached_property
    def hop(self) -> float | None:
        """The most frequent shift from a window to the next, as a share of the width; None if no overlap was found.

        Only pairs of consecutive numbers in one known recording count, and only those whose correlation reaches
        NEAR_COPY at a shift above 0.
        """
        votes = Counter(int(row.argmax()) for user in self.names if self._is_known(user)
                        for row, step in zip(self.neighbours[user], self._window_steps(user)) if step == 1
                        and row.max() >= NEAR_COPY and row.argmax() > 0)
        return votes.most_common(1)[0][0] / NEIGHBOUR_SIZE if votes else None

    @cached_property
    def pass_of(self) -> dict[str, int]:
        """{path: number of its pass, 0, 1, … per user}.

        A new pass begins with each recording; and if windows overlap, where the correlation of two neighbours near the
        expected shift is below SAME_PASS. Where no overlap is found, or the recordings are unknown, it cannot be told
        whether two windows are independent, so all are one pass.
        """
        passes: dict[str, int] = {}
        for user, names in self.names.items():
            begins = self._begins_recording(user)
            if self.hop is not None and self._is_known(user):
                begins = begins | (self._links(user)[0] < SAME_PASS)
            passes.update(zip(names, np.cumsum([0, *begins]).tolist()))
        return passes

    def pass_names(self, paths: Sequence[str]) -> list[str]:
        """The name of each image's pass, unique in the data set."""
        user_of = {name: user for user, names in self.names.items() for name in names}
        return [f"user {user_of[path]} pass {self.pass_of[path]}" for path in paths]

    @cached_property
    def successor_of(self) -> dict[str, Successor]:
        """{path: the next window}.

        Only where the next window is the next by number in the same recording, and their correlation reaches NEAR_COPY
        near the hop.
        """
        successor_of = {}
        for user, names in self.names.items():
            correlations, shifts = self._links(user)
            for i in np.flatnonzero((correlations >= NEAR_COPY) & (self._window_steps(user) == 1)):
                successor_of[names[i]] = Successor(names[i + 1], shifts[i] / NEIGHBOUR_SIZE)
        return successor_of

    def overlaps_previous(self, user: int, index: int) -> bool:
        """Whether a user's image at this place (from 1) begins before the one before it ends, by their correlation."""
        row = self.neighbours[user][index - 1]
        return bool(row.max() >= NEAR_COPY and row.argmax() > 0)

    @cached_property
    def contradiction(self) -> float:
        """The share (0 … 1) of windows that overlap others of the user, but not the one before or after them in their
        recording.

        Windows that follow each other overlap most. A large share means that order or recordings are wrong. 0 if no
        windows overlap.
        """
        is_wrong = []
        for user, correlation in self.correlation.items():
            others = correlation.copy()
            np.fill_diagonal(others, -1)
            to_next = np.where(self._begins_recording(user), -1, np.diagonal(others, 1))
            beside = np.maximum(np.append(to_next, -1), np.insert(to_next, 0, -1))
            is_wrong.append(beside[others.max(axis=1) >= NEAR_COPY] < NEAR_COPY)
        found = np.concatenate(is_wrong)
        return float(found.mean()) if len(found) else 0.0

    def _is_known(self, user: int) -> bool:
        """Whether it is known which of the user's images belong together."""
        return all(recording.is_known for recording in self.recordings[user])

    def _begins_recording(self, user: int) -> np.ndarray:
        """(n - 1,) bool: whether each image but the first is the first of a recording."""
        sizes = [len(recording.images) for recording in self.recordings[user]]
        return np.isin(np.arange(1, sum(sizes)), np.cumsum(sizes))

    def _links(self, user: int) -> tuple[np.ndarray, np.ndarray]:
        """The highest correlation of each pair of neighbours near the shift that their numbers suggest, and its shift.

        Returns correlation (n - 1,) and shift (n - 1,) int64 in columns at NEIGHBOUR_SIZE pixels; both -1 where by
        their numbers the windows share less than MIN_OVERLAP, where a recording begins, or no hop is known.
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
        """(n - 1,) int64: how many windows later each is than the one before, by their numbers; 0 where a recording
        begins.

        Images may be numbered by column or frame, so the most frequent increase counts as one window.
        """
        increases = np.concatenate([np.diff([0, *recording.numbers]) for recording in self.recordings[user]])[1:]
        inside = ~self._begins_recording(user)
        values, counts = np.unique(increases[inside & (increases > 0)], return_counts=True)
        usual = values[counts.argmax()] if len(values) else 1
        return np.where(inside, np.rint(increases / usual).astype(int).clip(min=1), 0)


def find_overlaps(data_path: str | Path, recordings: RecordingsOfUsers,
                  preparation: Preparation = Preparation()) -> Overlaps:
    """Compare all images of each user with each other.

    recordings: {user number: recordings}; preparation: how files become square arrays. Raises InputError when an image
    cannot be read.
    """
    correlation, shift, neighbours = {}, {}, {}
    names = {user: all_images(own) for user, own in recordings.items()}
    with Progress(total=sum(map(len, names.values())), desc="looking for overlaps", unit="image") as bar:
        for user, own_names in names.items():
            images = without_profile(load_images(data_path, own_names, NEIGHBOUR_SIZE, preparation=preparation))
            small = F.avg_pool2d(images, NEIGHBOUR_SIZE // COMPARED_SIZE)
            correlation[user], shift[user] = (found.numpy() for found in best_match(small, small))
            neighbours[user] = neighbour_match(images).numpy()
            bar.update(len(own_names))
    with open_image(Path(data_path) / next(iter(names.values()))[0]) as image:
        size = size_as_shown(image)
    if preparation.region_of_box(size).width > 1:
        raise InputError(f"--fit pad would put borders on the time axis of images of {size[0]} x {size[1]}, which "
                         "breaks the search for overlaps: use --fit stretch, or a wider --crop")
    width = round(size[0] * preparation.region_of_file(size).width)
    return Overlaps(recordings, correlation, shift, neighbours, width)


def load_or_find_overlaps(data_path: str | Path, recordings: RecordingsOfUsers, folder: str | Path,
                          preparation: Preparation = Preparation()) -> Overlaps:
    """The overlaps of these recordings, read from folder/overlaps.npz or computed and written there.

    The file is used when it was made from files of the same names and sizes, in the same order. Raises InputError when
    an image cannot be read.
    """
    path, names = Path(folder) / OVERLAPS_FILE, {user: all_images(own) for user, own in recordings.items()}
    fingerprint = _fingerprint(Path(data_path), names, preparation)
    try:
        stored = load_arrays(path)
        if str(stored["fingerprint"]) == fingerprint:
            correlation, shift, neighbours = ({user: stored[f"{name}_{user}"] for user in names}
                                              for name in STORED_FIELDS)
            return Overlaps(recordings, correlation, shift, neighbours, int(stored["width"]))
    except (InputError, ValueError, KeyError, TypeError):
        pass        # missing or damaged: it can be computed again
    overlaps = find_overlaps(data_path, recordings, preparation)
    with atomic_path(path) as temporary:
        np.savez(temporary, fingerprint=fingerprint, width=overlaps.width,
                 **{f"{name}_{user}": value for name in STORED_FIELDS
                    for user, value in getattr(overlaps, name).items()})
    return overlaps


def _fingerprint(data_path: Path, names: dict[int, list[str]], preparation: Preparation) -> str:
    """A digest of the files' names and sizes, and of what makes arrays of them. Their contents would take as long to
    read as to compare."""
    def size(path: Path) -> int | None:
        try:
            return path.stat().st_size
        except OSError:         # a dangling link, which loading reports
            return None
    files = [(name, size(data_path / name)) for own_names in names.values() for name in own_names]
    made_from = (METHOD_VERSION, COMPARED_SIZE, NEIGHBOUR_SIZE, MIN_OVERLAP, files, preparation)
    return hashlib.sha256(repr(made_from).encode()).hexdigest()[:16]
