"""Folders that generate.py wrote, as classify.py needs them: checked, named, and matched to the folds of the study."""
from pathlib import Path
from typing import Any, Sequence

from groundwork.errors import InputError, differences, printable, shortened
from groundwork.files import check_inside, read_json
from groundwork.images import open_image
from microdoppler.data.spectrograms import find_images, folders_by_class
from microdoppler.data.split import Split

MODEL_FACTS = ("checkpoint", "step", "weights", "vae")      # of a manifest: what drew the images, and how
SAMPLING_FACTS = ("noise_level", "cond_scale", "guidance_interval", "rescaled_phi", "remove_parallel_component",
                  "use_cfg_plus_plus", "sampler", "sampling_timesteps", "ddim_sampling_eta", "seed")


def find_synthetic(folder: Path, classes: dict[int, str]) -> dict[int, list[str]]:
    """The images of a folder that generate.py made: {user: relative paths}, for exactly these classes {user: name}."""
    expected = shortened(list(classes.values()))
    if not folder.is_dir():
        raise InputError(f"--synthetic {folder} is no folder; expected one made by generate.py, with {expected}")
    found = set(folders_by_class(folder))
    missing = [name for name in classes.values() if name not in found]
    strange = [name for name in found if name not in classes.values()]
    if len(missing) == len(classes):
        raise InputError(f"--synthetic {folder} holds none of {expected}; expected all of them, as "
                         "generate.py --all_users writes them")
    if missing:
        raise InputError(f"--synthetic {folder} lacks {shortened(missing)}; every arm needs all {len(classes)} users: "
                         "generate them with --all_users")
    if strange:
        raise InputError(f"--synthetic {folder} holds {shortened(sorted(strange))}, but the users are {expected}; "
                         "remove them, or give the folder that was made for these users")
    return find_images(folder, classes)


def smallest_side(folder: Path, images: dict[int, list[str]]) -> int:
    """Of all images, in pixels. Raises InputError when they differ in size."""
    sizes: dict[tuple[int, int], str] = {}
    for name in (name for own in images.values() for name in own):
        try:
            with open_image(folder / name) as image:
                sizes.setdefault(image.size, name)
        except Exception as error:      # a broken file makes PIL raise nearly anything
            raise InputError(f"{folder / name} cannot be decoded: {type(error).__name__}: {error}") from None
    if len(sizes) > 1:
        described = ", ".join(f"{name} {width} x {height}" for (width, height), name in sizes.items())
        raise InputError(f"--synthetic {folder} holds images of different sizes ({described}); generate the set again")
    return min(min(size) for size in sizes)


def channels_of(folders: Sequence[Path], classes: dict[int, str]) -> int:
    """1 when any of these sets is grey, as a VAE of one channel draws: real images are then looked at in grey too, lest
    colour tell them apart; else 3. Each set by its first image."""
    for folder in folders:
        images = find_images(folder, classes)
        with open_image(folder / min(name for own in images.values() for name in own)) as image:
            if image.mode == "L":
                return 1
    return 3


def check_sizes(folder: Path, images: dict[int, list[str]], least: int, option: str) -> None:
    """Raises InputError when the images differ in size, or are smaller than the `least` pixels they are looked at with,
    which `option` sets: enlarged, they would be told apart from real ones by their blur."""
    smallest = smallest_side(folder, images)
    if smallest < least:
        raise InputError(f"--synthetic {folder} holds images of {smallest} px, but they are looked at with {least} px; "
                         f"set {option} to {smallest} or less")


def read_manifest(folder: Path) -> dict[str, Any]:
    """generate.py's manifest; empty where there is none. Warns of images that are missing."""
    if not (folder / "manifest.json").exists():
        return {}
    manifest = read_json(folder / "manifest.json")
    if not (isinstance(manifest, dict) and isinstance(manifest.get("vae", ""), str)
            and all(isinstance(manifest.get(key, {}), dict) for key in ("split", "images"))):
        raise InputError(f"{folder / 'manifest.json'} is no manifest of generate.py; generate the set again")
    check_inside(manifest.get("images", {}), folder / "manifest.json")
    absent = sum(not (folder / name).exists() for name in manifest.get("images", {}))
    if absent:
        print(f"warning: {folder} lacks {absent} of the {len(manifest['images'])} images of its manifest; "
              "run generate.py again to finish it")
    return manifest


def match_to_folds(folders: tuple[Path, ...], splits: dict[int, Split],
                   force: bool = False) -> dict[int, dict[str, Path]]:
    """{fold: {name of a set: its folder}}, every fold with the same names.

    A set belongs to the fold whose training images its manifest names: with any other, its model may have seen test
    images. Raises InputError when a set fits no fold, unless there is one fold and `force`, or a fold lacks a set.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError("--synthetic names a folder more than once; give each folder once")
    of_fold: dict[int, list[Path]] = {fold: [] for fold in splits}
    folds_of_vae: dict[str, set[int]] = {}
    for folder in folders:
        manifest = read_manifest(folder)
        fold = _fold_of(folder, manifest.get("split"), splits, force)
        of_fold[fold].append(folder)
        folds_of_vae.setdefault(manifest.get("vae", f"unknown, of fold {fold}"), set()).add(fold)
    for shared in folds_of_vae.values():
        if len(shared) > 1:
            print(f"warning: folds {' and '.join(map(str, sorted(shared)))} were drawn through one VAE; if it was "
                  "trained on images of this data set, it has seen some that are tested on: train one per fold")
    named = {fold: _name(own) for fold, own in of_fold.items()}
    names = list(dict.fromkeys(name for own in named.values() for name in own))
    for fold, own in named.items():
        if missing := [name for name in names if name not in own]:
            raise InputError(f"fold {fold} lacks the synthetic set {shortened(missing)}; every fold needs a folder of "
                             "that name, drawn by a model of that fold")
    return named


def _fold_of(folder: Path, trained_on: dict | None, splits: dict[int, Split], force: bool) -> int:
    if not trained_on:
        if len(splits) > 1:
            raise InputError(f"which images {folder}'s model was trained on is unknown, so that it fits none of the "
                             f"{len(splits)} folds; give a folder with generate.py's manifest.json, or one fold")
        print(f"warning: on which images {folder}'s model was trained is unknown; if test images were among them, its "
              "result is too good")
        return next(iter(splits))
    for fold, split in splits.items():
        if trained_on == split.identity():
            return fold
    now = next(iter(splits.values())).identity()
    unknown = shortened(sorted(trained_on.keys() - now.keys()))
    other = differences(trained_on, now) or f"it names {unknown}, unknown here"
    if force and len(splits) == 1:
        print(printable(f"warning: {folder} comes from a model trained on another split: {other}; if it saw images "
                        "that are tested on now, its result is too good. runs.csv says so"))
        return next(iter(splits))
    raise InputError(f"{folder} comes from a model trained on another split: {other}; it may have seen images "
                     "that are tested on now: go back to those constants, train on this split, or --force it with one "
                     "fold")


def _name(folders: list[Path]) -> dict[str, Path]:
    """The folders' own names, with as many parent folders as tell them apart."""
    paths, depth = [folder.resolve() for folder in folders], 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return {str(Path(*path.parts[-depth:])): folder for path, folder in zip(paths, folders)}


def facts_of(folder: Path, split: Split) -> dict[str, Any]:
    """What made a set, for runs.csv, and what was forced: another VAE than its model's, another split."""
    manifest = read_json(folder / "manifest.json") if (folder / "manifest.json").exists() else {}
    is_other_split = manifest.get("split") not in (None, {}, split.identity())
    forced = [manifest.get("forced", ""), "another split" if is_other_split else ""]
    return {"synthetic_folder": str(folder), "forced": ", ".join(filter(None, forced)),
            **{f"model_{name}": manifest.get(name, "") for name in MODEL_FACTS},
            **{f"sampling_{name}": manifest.get(name, "") for name in SAMPLING_FACTS}}
