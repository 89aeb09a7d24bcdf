"""Several trainings of a generator: the synthetic sets x_training1, x_training2, … of a fold are one set x.

The classifiers of the study learn from the images of one training or another, so its interval is about a generator that
is trained in this way, not about one that is trained already.
"""
import re
from pathlib import Path
from typing import Any, Mapping

from groundwork.errors import InputError, differences, shortened
from microdoppler.data.synthetic_sets import SAMPLING_FACTS, read_manifest

NAME = re.compile(r"(.+)_training([1-9]\d*)")
SAME = ("step", *(name for name in SAMPLING_FACTS if name != "seed"))      # in the manifests of all trainings of a set


def set_and_training(name: str) -> tuple[str, int]:
    """The set that a folder belongs to, and the number of its training: ("x", 2) for x_training2, ("x", 0) for x."""
    match = NAME.fullmatch(name)
    return (match[1], int(match[2])) if match else (name, 0)


def check_trainings(sets: Mapping[int, Mapping[str, Path]], seeds: int) -> None:
    """Check that trainings are comparable, and that all are used equally often. Nothing where sets have one training.

    sets: {fold: {name of a folder: its path}}, the same names in every fold. seeds: number of repetitions.

    Raises InputError when sets have unequal numbers of trainings; when `seeds` is no multiple of that number; or when
    two trainings in a fold have the same weights, unknown weights, or other constants.
    """
    trainings: dict[str, list[str]] = {}
    for name in next(iter(sets.values())):
        trainings.setdefault(set_and_training(name)[0], []).append(name)
    most = max(trainings, key=lambda own: len(trainings[own]), default="")
    if not most or (number := len(trainings[most])) == 1:
        return
    if fewer := next((own for own, names in trainings.items() if len(names) < number), ""):
        raise InputError(f"--synthetic has {number} trainings of {most} and {len(trainings[fewer])} of {fewer}; "
                         "expected as many of every set: give the others too, or make a study of each")
    if most in trainings[most]:
        raise InputError(f"--synthetic has {shortened(trainings[most])}; expected a number for every training of "
                         f"{most}: name the first folder {most}_training<number>")
    if seeds % number:
        raise InputError(f"classifier_seeds (--seeds) is {seeds}, and {most} has {number} trainings; expected a "
                         f"multiple of {number}, so that all are used equally often: "
                         f"--seeds {-(-seeds // number) * number}")
    for folders in sets.values():
        for names in trainings.values():
            _check_weights([folders[name] for name in names])


def _check_weights(folders: list[Path]) -> None:
    """Raises InputError unless these are sets of different weights, made with the same constants."""
    folder_of: dict[Any, Path] = {}
    first = read_manifest(folders[0])
    for folder in folders:
        manifest = read_manifest(folder)
        weights = manifest.get("weights")
        if not weights:
            raise InputError(f"which weights made {folder} is unknown, so that it may be no training of its own; "
                             "expected a manifest.json with them: generate the set again")
        if weights in folder_of:
            raise InputError(f"{folder} and {folder_of[weights]} were made by the same weights, so that they are no "
                             "two trainings; expected a generator trained with another seed in another results_folder")
        if other := differences(first, {name: manifest.get(name) for name in SAME}):
            raise InputError(f"{folder} was made with other constants than {folders[0]}: {other}; expected the same in "
                             "all trainings of a set: generate it again, or give it another name")
        folder_of[weights] = folder
