"""The control of a synthetic set: what its generator was trained on, encoded and decoded by the generator's VAE.

generate.py writes it beside the set, to <set>_control. It answers two questions that the synthetic images alone leave
open. Do they help a classifier more than the generator's own training windows do? That needs cuts: windows that the
generator was trained on, as many as there are synthetic images. Are they copies? That needs the recorded training
windows as the VAE gives them back, because a copy comes out of the same VAE and is blurred by it; and validation
and test windows, which are no copies.
"""
from collections import Counter
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Sequence

import numpy as np
from torch import Tensor

from groundwork.errors import InputError
from groundwork.files import check_inside, read_json
from groundwork.images import load_images
from groundwork.preparation import Preparation
from groundwork.seeding import derive_seed
from microdoppler.data.overlap import Successor
from microdoppler.data.spectrograms import paths_and_labels
from microdoppler.data.stitching import Cut, add_doppler_shifts, load_cuts

SUFFIX = "_control"
CUT, TRAINING, VALIDATION, TEST = KINDS = "cut", "training window", "validation window", "test window"


@dataclass(frozen=True, eq=False)
class ControlSet:
    """A control in `folder`.

    images: {kind: {user number: {path relative to folder: what the VAE was given}}}. Of the kind CUT there are as many
    of each user as the synthetic set has images; of TRAINING, VALIDATION and TEST all recorded windows of that part of
    the split, in its order. Paths of TEST are relative to a given test set, if there is one.
    """
    folder: Path
    images: dict[str, dict[int, dict[str, Cut]]]

    @property
    def cuts(self) -> dict[int, dict[str, Cut]]:
        """{user number: {path relative to folder: the cut}}."""
        return self.images[CUT]

    def raw_cuts(self, data_path: str | Path, image_size: int, channels: int = 3,
                 preparation: Preparation = Preparation()) -> tuple[Tensor, Tensor]:
        """The cuts without the VAE, from the data folder: images (n, channels, image_size, image_size) uint8, and
        labels (n,) int64, a user's place among the users. channels: 3 or 1; preparation: of the image files.

        Raises InputError when an image cannot be read.
        """
        cuts = [cut for own in self.cuts.values() for cut in own.values()]
        return load_cuts(data_path, cuts, image_size, channels, preparation), self._paths_and_labels(CUT)[1]

    def decoded(self, kind: str, image_size: int, channels: int = 3) -> tuple[Tensor, Tensor]:
        """The images of a kind as the VAE gives them back, in their order; images and labels as of `raw_cuts`."""
        paths, labels = self._paths_and_labels(kind)
        return load_images(self.folder, paths, image_size, channels=channels), labels

    def _paths_and_labels(self, kind: str) -> tuple[list[str], Tensor]:
        return paths_and_labels({user: list(own) for user, own in self.images[kind].items()})


def control_folder(synthetic_folder: Path) -> Path:
    """Where the control of a synthetic set is: beside it, because all folders in the set are classes."""
    folder = synthetic_folder.resolve()
    return folder.with_name(folder.name + SUFFIX)


def is_control(manifest: dict[str, Any]) -> bool:
    """Whether a manifest.json is that of a control, and not of a synthetic set."""
    return "cuts_per_hop" in manifest


def find_control(synthetic_folder: Path) -> ControlSet | None:
    """The control of a synthetic set.

    None if it has none, as a set that was made elsewhere, by an older version, or where the data set was not; if the
    folder beside it belongs to another model; or, with a warning, if images of it are missing.

    Raises InputError when a manifest is damaged.
    """
    folder = control_folder(synthetic_folder)
    own, control = _read(synthetic_folder / "manifest.json"), read_control(folder)
    if not control or any(own.get(name) != control.get(name) for name in ("split", "vae")):
        return None
    images = control.get("images", {})
    try:
        users = sorted({int(entry["user"]) for entry in images.values()})       # in the order of their labels
        found: dict[str, dict[int, dict[str, Cut]]] = {kind: {user: {} for user in users} for kind in KINDS}
        for name, entry in images.items():
            check_inside([name, entry["path"], entry["next_path"] or entry["path"]], folder / "manifest.json")
            found[entry["kind"]][int(entry["user"])][name] = cut_from(entry)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{folder / 'manifest.json'} is damaged ({type(error).__name__}: {error}); delete "
                         f"{folder}, and run generate.py again, which makes it") from None
    if absent := sum(not (folder / name).is_file() for name in images):
        print(f"warning: {folder} lacks {absent} of its {len(images)} images and is not used; run generate.py again to "
              "finish it")
        return None
    return ControlSet(folder, found)


def read_control(folder: Path) -> dict[str, Any]:
    """The manifest of a control in `folder`; empty when there is none."""
    manifest = _read(folder / "manifest.json")
    return manifest if is_control(manifest) and isinstance(manifest.get("images"), dict) else {}


def _read(path: Path) -> dict[str, Any]:
    """The content of a manifest.json; empty when there is none, or it is another program's."""
    manifest = read_json(path) if path.is_file() else {}
    return manifest if isinstance(manifest, dict) else {}


def cut_entry(cut: Cut) -> dict[str, Any]:
    """A cut as values of manifest.json."""
    successor = cut.successor
    return {"path": cut.path, "next_path": successor and successor.path, "shift": successor and successor.shift,
            "fraction": cut.fraction, "doppler_shift": cut.doppler_shift}


def cut_from(entry: dict[str, Any]) -> Cut:
    """The inverse of `cut_entry`. Raises KeyError, TypeError or ValueError when a value is missing or no number."""
    successor = None if entry["next_path"] is None else Successor(str(entry["next_path"]), float(entry["shift"]))
    return Cut(str(entry["path"]), successor, float(entry["fraction"]), float(entry["doppler_shift"]))


def draw_cuts(cuts: Sequence[Cut], count: int, max_shift: float, seed: int) -> list[Cut]:
    """`count` of a user's training cuts. The first n of them do not depend on `count`, so that a set can grow.

    One cut from each recorded window comes before a second one from any, so the cuts cover all of the recordings. When
    all are used, they come again with new Doppler shifts, uniform in ±max_shift (a share of the height).
    """
    chosen: list[Cut] = []
    while len(chosen) < count:
        turn = derive_seed(seed, len(chosen))
        shuffled = [cuts[i] for i in np.random.default_rng(turn).permutation(len(cuts))]
        drawn: Counter[str] = Counter()
        rounds = []
        for cut in shuffled:
            rounds.append(drawn[cut.path])
            drawn[cut.path] += 1
        in_order = [cut for _, cut in sorted(zip(rounds, shuffled), key=itemgetter(0))]
        chosen += add_doppler_shifts(in_order, max_shift, turn) if chosen else in_order
    return chosen[:count]
