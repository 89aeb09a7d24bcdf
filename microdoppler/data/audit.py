"""Overlap audit of a split: the most similar training image of every test image, and whether the split leaks.

Each test image is compared with the training images of the same user at all time shifts (`overlap.best_match`). With a
correlation of NEAR_COPY or more it is a near-copy: it shows nearly the same stretch of a recording. The images of the
validation part are compared likewise.
"""
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from groundwork.errors import InputError, shortened
from groundwork.files import write_json
from groundwork.images import load_image
from groundwork.preparation import Preparation
from microdoppler.data.overlap import COMPARED_SIZE, NEAR_COPY, Overlaps
from microdoppler.data.recordings import TABLE, Recording
from microdoppler.data.split import Split, cut_at_recordings, split_images
from microdoppler.data.split_settings import SplitSettings
from microdoppler.figures.axes import PictureAxes, axes_of_data
from microdoppler.figures.fonts import plain_text
from microdoppler.figures.report import Table, save_figure

MAX_NEAR_COPIES = 0.01      # share of the test or validation images; from this share on, the audit warns
# See Overlaps.contradiction. Six real persons have 0.06 in the order of their numbers, and 0.92 … 1 in a random order
# or with two to five recordings interleaved.
MAX_CONTRADICTION = 0.3
NAME_RECORDINGS = f"say which images belong together with --recording_pattern or a table {TABLE}, see docs/data.md"
WORST_PAIRS = 4             # number of pairs in split_audit.png and split_audit.json
TITLE_LETTERS = 36          # of a file's name above its image: the end, which tells files apart
SHOWN_SIZE = 256            # pixels per side of an image in the picture


@dataclass(frozen=True)
class Match:
    """An image and the training image that is most similar to it.

    image, training: paths relative to their data folders; correlation: normalised, at most 1; shift: how much later
    `image` begins than `training`, as a share of the window's width (negative: earlier). The names of the fields are
    keys in split_audit.json and fidelity.json.
    """
    image: str
    training: str
    correlation: float
    shift: float


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    matches, validation_matches: {user number: one match per test image, per validation image}; guard: see
    `guard_needed`.
    """
    split: Split
    overlaps: Overlaps
    matches: dict[int, list[Match]]
    validation_matches: dict[int, list[Match]]
    guard: int | None

    def near_copy_share(self, users: list[int]) -> float:
        """The share (0 … 1) of these users' test images that are near-copies of a training image."""
        return _near_copy_share([match for user in users for match in self.matches[user]])

    @cached_property
    def validation_near_copies(self) -> float | None:
        """The share (0 … 1) of the validation images that are near-copies of a training image; None without any."""
        matches = [match for own in self.validation_matches.values() for match in own]
        return _near_copy_share(matches) if matches else None

    @cached_property
    def worst(self) -> list[Match]:
        """The matches of all users' test and validation images, the most similar first."""
        all_matches = (match for matches in (self.matches, self.validation_matches) for own in matches.values()
                       for match in own)
        return sorted(all_matches, key=lambda match: -match.correlation)

    @property
    def line(self) -> str:
        """Lines to print: the share of near-copies and the hop; warnings with advice if the share is too large, or if
        order or recordings contradict the overlaps."""
        share, hop = self.near_copy_share(self.split.users), self.overlaps.hop_columns
        validated = self.validation_near_copies
        found = f"{hop} of {self.overlaps.width} columns" if hop else "unknown: cannot tell whether windows overlap"
        result = (f"overlap audit: {share:.1%} of the test images"
                  + ("" if validated is None else f" and {validated:.1%} of the validation images")
                  + f" are near-copies of training images; hop {found}")
        contradicts = self.overlaps.contradiction > MAX_CONTRADICTION
        if max(share, validated or 0) < MAX_NEAR_COPIES:
            lines = [result]
        elif cut_at_recordings(self.split) and self.split.settings.test_data is None and not contradicts:
            lines = [f"note: {result}. They are of different recordings: either the motion repeats itself, or images "
                     "were copied"]
        else:
            lines = [f"warning: {result}; accuracies will be too good: use {self.advice}"]
        if contradicts:
            lines.append(f"warning: {self.overlaps.contradiction:.0%} of the overlapping windows do not overlap those "
                         "before and after them in their recording. So the order or the recordings are wrong. Test "
                         f"images leak then, and intervals are too narrow: {NAME_RECORDINGS}")
        return "\n".join(lines)

    @property
    def advice(self) -> str:
        """What keeps test images from being near-copies."""
        settings = self.split.settings
        if settings.test_data is not None:
            return "another --test_data, or remove the copies from it"
        if settings.strategy == "random":
            return "split_strategy contiguous"
        if self.guard is not None and self.guard > settings.guard and not cut_at_recordings(self.split):
            return f"split_guard {self.guard}"
        return f"recordings that do not overlap ({NAME_RECORDINGS})"

    def table(self) -> Table:
        """A row per user: number of test images, share of near-copies, number of passes."""
        num_passes = {user: 1 + max(self.overlaps.pass_of[name] for name in self.overlaps.names[user])
                      for user in self.split.users}
        rows = [[self.split.names[user], str(len(self.matches[user])), f"{self.near_copy_share([user]):.1%}",
                 str(num_passes[user])] for user in self.split.users]
        return Table(["", "test images", "near-copies", "passes"], rows)

    def to_json(self) -> dict:
        """The content of split_audit.json; shares are 0 … 1."""
        users = {str(user): {"num_test": len(self.matches[user]), "near_copies": self.near_copy_share([user]),
                             "passes": passes_of(self.overlaps, user)} for user in self.split.users}
        return {"strategy": self.split.settings.strategy, "near_copies": self.near_copy_share(self.split.users),
                "validation_near_copies": self.validation_near_copies, "near_copy_correlation": NEAR_COPY,
                "hop_columns": self.overlaps.hop_columns,
                "image_columns": self.overlaps.width, "guard": self.guard, "users": users,
                "worst": [vars(match) for match in self.worst[:WORST_PAIRS]]}


def audit_split(split: Split, overlaps: Overlaps) -> Audit:
    """Find the most similar training image of every test and validation image, and the guard that the split needs.

    Raises InputError when images of the split are missing in `overlaps`, since they cannot be decoded any more.
    """
    is_given = split.settings.test_data is not None
    return Audit(split, overlaps, {user: _matches(split, overlaps, user, split.test_images[user])
                                   for user in split.users},
                 {user: _matches(split, overlaps, user, split.validation_images[user]) for user in split.users},
                 None if is_given else guard_needed(overlaps, split.settings, split.folders))


def _matches(split: Split, overlaps: Overlaps, user: int, images: list[str]) -> list[Match]:
    """The most similar training image of each of a user's images."""
    index_of = {name: i for i, name in enumerate(overlaps.names[user])}
    if missing := [name for name in (*split.train_images[user], *images) if name not in index_of]:
        raise InputError(f"{shortened(missing)} of the split cannot be decoded any more; put them back, or move "
                         "data_split.json away, for a new split")
    train = [index_of[name] for name in split.train_images[user]]
    matches = []
    for name in images:
        correlations = overlaps.correlation[user][index_of[name], train]
        best = train[int(correlations.argmax())]
        matches.append(Match(name, overlaps.names[user][best], float(correlations.max()),
                             float(overlaps.shift[user][index_of[name], best]) / COMPARED_SIZE))
    return matches


def _near_copy_share(matches: list[Match]) -> float:
    """The share (0 … 1) of these matches, at least one, that are near-copies."""
    return float(np.mean([match.correlation >= NEAR_COPY for match in matches]))


def guard_needed(overlaps: Overlaps, settings: SplitSettings, folders: dict[int, str]) -> int | None:
    """The smallest split_guard, in windows, for runs of training windows inside recordings.

    With it, the share of near-copies among the test images is below MAX_NEAR_COPIES. None when no guard does that and
    leaves every user a test image. settings: of the split; folders: {user number: name of the class folder}. The
    validation part counts as trained on: it is of the same run, and its own guard is no wider.
    """
    runs = {user: [Recording("all", names, list(range(len(names))))] for user, names in overlaps.names.items()}
    unguarded = split_images(runs, replace(settings, strategy="contiguous", guard=0, validation=0.0), folders)
    distances, copies = [], []      # per user, for each test image
    for user, names in overlaps.names.items():
        index_of = {name: i for i, name in enumerate(names)}
        train = np.array([index_of[name] for name in unguarded.train_images[user]])
        test = np.array([index_of[name] for name in unguarded.test_images[user]])
        distances.append(np.abs(test[:, None] - train).min(axis=1))         # in windows, to the nearest training image
        copies.append(overlaps.correlation[user][np.ix_(test, train)].max(axis=1) >= NEAR_COPY)
    distance, is_near_copy = np.concatenate(distances), np.concatenate(copies)
    for guard in range(min(int(own.max()) for own in distances)):       # a larger one leaves a user no test image
        if is_near_copy[distance > guard].mean() < MAX_NEAR_COPIES:
            return guard
    return None


def passes_of(overlaps: Overlaps, user: int) -> list[dict]:
    """The passes of a user in time order: path of the first and the last image, and the number of images."""
    passes: dict[int, list[str]] = {}
    for name in overlaps.names[user]:
        passes.setdefault(overlaps.pass_of[name], []).append(name)
    return [{"first": names[0], "last": names[-1], "num_images": len(names)} for names in passes.values()]


def pairs_figure(pairs: list[Match], root: Path, training_root: Path, kind: str, axes: PictureAxes | None,
                 preparation: Preparation, training_preparation: Preparation, near_copies: str) -> Figure:
    """Each image above its most similar training image, both on one time axis.

    root, training_root: the folders that the paths of the images and of the training images are relative to; kind: the
    word for the images in titles, such as "test"; axes: of the images, None if unknown; preparation,
    training_preparation: how their files become square; near_copies: the correlations from which on an image is one, in
    words.
    """
    window, unit = (axes.window_seconds, "s") if axes else (1.0, "windows")
    figure = Figure(figsize=(2.4 * len(pairs), 5), layout="constrained")
    cells = figure.subplots(2, len(pairs), sharex="col", squeeze=False)
    for match, (above, below) in zip(pairs, cells.T):
        for cell, path, start, prepared in ((above, root / match.image, match.shift, preparation),
                                            (below, training_root / match.training, 0.0, training_preparation)):
            cell.imshow(load_image(path, SHOWN_SIZE, preparation=prepared),
                        extent=(start * window, (start + 1) * window, 0, 1), aspect="auto")
            cell.set_title(plain_text(f"{path.parent.name}/{path.name}"[-TITLE_LETTERS:]), fontsize=8)
            cell.set_yticks([])
        above.set_xlim(min(0.0, match.shift) * window, max(1.0, 1 + match.shift) * window)
        below.set_xlabel(f"time in {unit}; correlation {match.correlation:.2f}", fontsize=8)
    cells[0, 0].set_ylabel(kind)
    cells[1, 0].set_ylabel("training")
    figure.suptitle(f"The closest matches of {kind} and training images (near-copies: {near_copies} and more)",
                    fontsize=9)
    return figure


def write_audit(audit: Audit, data_path: Path, folder: Path) -> None:
    """Write split_audit.json and split_audit.png, the most similar pairs, to `folder`."""
    write_json(folder / "split_audit.json", audit.to_json())
    preparation = audit.split.preparation
    save_figure(pairs_figure(audit.worst[:WORST_PAIRS], data_path, data_path, "held-out", axes_of_data(data_path),
                             preparation, preparation, str(NEAR_COPY)),
                folder / "split_audit.png")
