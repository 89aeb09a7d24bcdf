"""Does the split leak? For each test image the best match among its user's training images, over time shifts."""
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from groundwork.errors import InputError, shortened
from groundwork.files import write_json
from groundwork.images import load_image
from microdoppler.data.overlap import NEAR_COPY, SIZE, Overlaps
from microdoppler.data.split import Split, split_images
from microdoppler.figures.report import Table, plain_text, save_figure

TOLERATED = 0.01        # share of near-copies among the test images
WORST_PAIRS = 4         # in the picture
SHOWN_SIZE = 256        # pixels


@dataclass(frozen=True)
class Match:
    """An image and the training image that is most like it; shift: by what share of the width it begins later."""
    image: str
    training: str
    correlation: float
    shift: float


@dataclass(frozen=True)
class Audit:
    """matches: {user: the best match of each test image}; guard: see `guard_needed`."""
    split: Split
    overlaps: Overlaps
    matches: dict[int, list[Match]]
    guard: int | None

    def share(self, users: list[int]) -> float:
        """Of the users' test images, those that are near-copies of a training image."""
        copies = [match.correlation >= NEAR_COPY for user in users for match in self.matches[user]]
        return float(np.mean(copies))

    @cached_property
    def worst(self) -> list[Match]:
        """All matches, the closest first."""
        return sorted((match for own in self.matches.values() for match in own), key=lambda match: -match.correlation)

    @property
    def line(self) -> str:
        share, hop = self.share(self.split.users), self.overlaps.hop_columns
        unknown = "not found" if share else "none (windows do not overlap)"
        found = (f"overlap audit: {share:.1%} of the test images are near-copies of training images; hop "
                 + (f"{hop} of {self.overlaps.width} columns" if hop else unknown))
        if share < TOLERATED:
            return found
        advice = "more images per user"
        if self.guard is not None:
            contiguous = "split_strategy contiguous with " if self.split.settings.strategy == "random" else ""
            advice = f"{contiguous}split_guard {self.guard}"
        return f"warning: {found}; accuracies will be too good: use {advice}"

    def table(self) -> Table:
        passes = {user: 1 + max(self.overlaps.pass_of[name] for name in self.overlaps.names[user])
                  for user in self.split.users}
        rows = [[self.split.names[user], str(len(self.matches[user])), f"{self.share([user]):.1%}", str(passes[user])]
                for user in self.split.users]
        return Table(["", "test images", "near-copies", "passes"], rows)

    def to_json(self) -> dict:
        users = {str(user): {"num_test": len(self.matches[user]), "near_copies": self.share([user]),
                             "passes": passes_of(self.overlaps, user)} for user in self.split.users}
        return {"strategy": self.split.settings.strategy, "near_copies": self.share(self.split.users),
                "near_copy_correlation": NEAR_COPY, "hop_columns": self.overlaps.hop_columns,
                "image_columns": self.overlaps.width, "guard": self.guard, "users": users,
                "worst": [vars(match) for match in self.worst[:WORST_PAIRS]]}


def audit_split(split: Split, overlaps: Overlaps) -> Audit:
    matches: dict[int, list[Match]] = {}
    for user in split.users:
        place = {name: i for i, name in enumerate(overlaps.names[user])}
        gone = [name for name in (*split.train_images[user], *split.test_images[user]) if name not in place]
        if gone:
            raise InputError(f"{shortened(gone)} of the split cannot be decoded any more; put them back, or move "
                             "data_split.json away, for a new split")
        train = [place[name] for name in split.train_images[user]]
        matches[user] = []
        for name in split.test_images[user]:
            found = overlaps.correlation[user][place[name], train]
            best = train[int(found.argmax())]
            matches[user].append(Match(name, overlaps.names[user][best], float(found.max()),
                                       float(overlaps.shift[user][place[name], best]) / SIZE))
    return Audit(split, overlaps, matches, guard_needed(split, overlaps))


def guard_needed(split: Split, overlaps: Overlaps) -> int | None:
    """The smallest split_guard that brings the near-copies of a contiguous split of these images below TOLERATED."""
    settings = replace(split.settings, strategy="contiguous", guard=0)
    unguarded = split_images(overlaps.names, settings)
    distances, copies = [], []
    for user, names in overlaps.names.items():
        place = {name: i for i, name in enumerate(names)}
        train = np.array([place[name] for name in unguarded.train_images[user]])
        test = np.array([place[name] for name in unguarded.test_images[user]])
        distances.append(np.abs(test[:, None] - train).min(axis=1))
        copies.append(overlaps.correlation[user][np.ix_(test, train)].max(axis=1) >= NEAR_COPY)
    distance, copy = np.concatenate(distances), np.concatenate(copies)
    for guard in range(min(int(own.max()) for own in distances)):       # which leaves every user a test image
        if copy[distance > guard].mean() < TOLERATED:
            return guard
    return None


def passes_of(overlaps: Overlaps, user: int) -> list[dict]:
    """First and last image of each pass, and how many it has."""
    passes: dict[int, list[str]] = {}
    for name in overlaps.names[user]:
        passes.setdefault(overlaps.pass_of[name], []).append(name)
    return [{"first": names[0], "last": names[-1], "num_images": len(names)} for names in passes.values()]


def pairs_figure(pairs: list[Match], root: Path, training_root: Path, kind: str) -> Figure:
    """Each image, of a kind such as "test", above the training image most like it, on one time axis."""
    figure = Figure(figsize=(3.2 * len(pairs), 5), layout="constrained")
    axes = figure.subplots(2, len(pairs), sharex="col", squeeze=False)
    for match, (above, below) in zip(pairs, axes.T):
        for axis, path, start in ((above, root / match.image, match.shift),
                                  (below, training_root / match.training, 0.0)):
            axis.imshow(load_image(path, SHOWN_SIZE), extent=(start, start + 1, 0, 1), aspect="auto")
            axis.set_title(plain_text(f"{path.parent.name}/{path.name}"), fontsize=6)
            axis.set_yticks([])
        above.set_xlim(min(0.0, match.shift), max(1.0, 1 + match.shift))
        below.set_xlabel(f"time in windows; correlation {match.correlation:.2f}", fontsize=8)
    axes[0, 0].set_ylabel(kind)
    axes[1, 0].set_ylabel("training")
    figure.suptitle(f"The closest matches of {kind} and training images (near-copies: {NEAR_COPY} and more)",
                    fontsize=9)
    return figure


def write_audit(audit: Audit, data_path: Path, folder: Path) -> None:
    """folder/split_audit.json and split_audit.png."""
    write_json(folder / "split_audit.json", audit.to_json())
    save_figure(pairs_figure(audit.worst[:WORST_PAIRS], data_path, data_path, "test"), folder / "split_audit.png")
