"""The control of a synthetic set: what its generator was trained on, encoded and decoded by the generator's VAE.

generate.py writes it beside the set, to <set>_control. It answers two questions that the synthetic images alone leave
open. Do they help a classifier more than the generator's own training windows do? That needs cuts: windows that the
generator was trained on, as many as there are synthetic images. Are they copies? That needs the recorded training
windows as the VAE gives them back, because a copy comes out of the same VAE and is blurred by it; and validation
windows, which are no copies.
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
CUT, TRAINING, VALIDATION = KINDS = "cut", "training window", "validation window"       # images in a control


@dataclass(frozen=True, eq=False)
class ControlSet:
    """A control in `folder`. Its image files are what the VAE makes of these windows.

    cuts: {user number: {path relative to folder: the cut}}, as many of each user as the synthetic set has images;
    training_windows: {user number: {path relative to folder: path of the window, relative to the data folder}}, all
    recorded windows that the generator was trained on, in the order of the split; validation_windows: those of the
    split's validation part, which it was not trained on, in the same form.
    """
    folder: Path
    cuts: dict[int, dict[str, Cut]]
    training_windows: dict[int, dict[str, str]]
    validation_windows: dict[int, dict[str, str]]

    def raw_cuts(self, data_path: str | Path, image_size: int, channels: int = 3,
                 preparation: Preparation = Preparation()) -> tuple[Tensor, Tensor]:
        """The cuts without the VAE, from the data folder: images (n, channels, image_size, image_size) uint8, and
        labels (n,) int64, a user's place among the users. channels: 3 or 1; preparation: of the image files.

        Raises InputError when an image cannot be read.
        """
        cuts = [cut for own in self.cuts.values() for cut in own.values()]
        return load_cuts(data_path, cuts, image_size, channels, preparation), self._labels(self.cuts)

    def decoded_cuts(self, image_size: int, channels: int = 3) -> tuple[Tensor, Tensor]:
        """The cuts as the VAE gives them back, in the same order; images and labels as of `raw_cuts`."""
        return self._load(self.cuts, image_size, channels)

    def decoded_windows(self, image_size: int, channels: int = 3) -> tuple[Tensor, Tensor]:
        """The recorded training windows as the VAE gives them back; images and labels as of `raw_cuts`."""
        return self._load(self.training_windows, image_size, channels)

    def raw_validation(self, data_path: str | Path, image_size: int, channels: int = 3,
                       preparation: Preparation = Preparation()) -> tuple[Tensor, Tensor]:
        """The validation windows without the VAE; parameters and results as of `raw_cuts`."""
        paths = [path for own in self.validation_windows.values() for path in own.values()]
        return (load_images(data_path, paths, image_size, channels=channels, preparation=preparation),
                self._labels(self.validation_windows))

    def decoded_validation(self, image_size: int, channels: int = 3) -> tuple[Tensor, Tensor]:
        """The validation windows as the VAE gives them back; images and labels as of `raw_cuts`."""
        return self._load(self.validation_windows, image_size, channels)

    def _load(self, images: dict[int, dict[str, Any]], image_size: int, channels: int) -> tuple[Tensor, Tensor]:
        paths = [path for own in images.values() for path in own]
        return load_images(self.folder, paths, image_size, channels=channels), self._labels(images)

    @staticmethod
    def _labels(images: dict[int, dict[str, Any]]) -> Tensor:
        return paths_and_labels({user: list(own) for user, own in images.items()})[1]


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
    own, control = (_read(path / "manifest.json") for path in (synthetic_folder, folder))
    if not is_control(control) or any(own.get(name) != control.get(name) for name in ("split", "vae")):
        return None
    images = control.get("images", {})
    try:
        users = dict.fromkeys(int(entry["user"]) for entry in images.values())
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
    training, validation = ({user: {name: window.path for name, window in own.items()}
                             for user, own in found[kind].items()} for kind in (TRAINING, VALIDATION))
    return ControlSet(folder, found[CUT], training, validation)


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
