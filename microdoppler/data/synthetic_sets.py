"""Sets of synthetic images, folders that generate.py wrote: check them, name them, match them to folds of the study."""
from pathlib import Path
from typing import Any, Sequence

from groundwork.errors import InputError, differences, printable, shortened
from groundwork.files import check_inside, read_json
from groundwork.images import open_image
from microdoppler.data.control_sets import is_control
from microdoppler.data.spectrograms import class_of, find_images, folders_by_class
from microdoppler.data.split import Split

# Keys of manifest.json that runs.csv repeats: which model generated the images, and with which constants
MODEL_FACTS = ("checkpoint", "step", "weights", "vae")
SAMPLING_FACTS = ("noise_level", "cond_scale", "guidance_interval", "rescaled_phi", "remove_parallel_component",
                  "use_cfg_plus_plus", "sampler", "sampling_timesteps", "ddim_sampling_eta", "seed")


def find_synthetic(folder: Path, classes: dict[int, str]) -> dict[int, list[str]]:
    """The images of a synthetic set: {user number: paths relative to folder}. classes: {user number: folder}.

    Raises InputError when the folder does not have images of exactly these classes.
    """
    expected = shortened(list(classes.values()))
    if not folder.is_dir():
        raise InputError(f"--synthetic {folder} is no folder; expected one made by generate.py, with {expected}")
    found = set(folders_by_class(folder))
    known = set(map(class_of, classes.values()))
    missing = [name for name in classes.values() if class_of(name) not in found]
    strange = sorted(found - known)
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
    """The shorter side of the images, in pixels. images: {user number: paths relative to folder}.

    Raises InputError when an image cannot be decoded, or they differ in size.
    """
    sizes: dict[tuple[int, int], str] = {}
    for name in (name for names in images.values() for name in names):
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
    """The number of channels with which real and synthetic images are compared: 1 if any of these sets is grey, else 3.

    A VAE with one channel generates grey images. Real images are then converted to grey too, so that a classifier
    cannot tell them from synthetic ones by their colour. Only the first image of each set is opened.
    """
    for folder in folders:
        images = find_images(folder, classes)
        with open_image(folder / min(name for names in images.values() for name in names)) as image:
            if image.mode == "L":
                return 1
    return 3


def check_sizes(folder: Path, images: dict[int, list[str]], size: int, option: str) -> None:
    """Check that the images of a set all have one size, and at least the `size` in pixels at which they are used.

    Enlarged images would be blurred, and so be told apart from real ones. option: the name of the option that sets
    `size`, for the error message. Raises InputError when the check fails.
    """
    smallest = smallest_side(folder, images)
    if smallest < size:
        raise InputError(f"--synthetic {folder} holds images of {smallest} px, but they are looked at with {size} px; "
                         f"set {option} to {smallest} or less")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of the set's manifest.json; empty when there is none. Prints a warning when images are missing.

    Raises InputError when the file is no manifest of generate.py.
    """
    if not (folder / "manifest.json").exists():
        return {}
    manifest = read_json(folder / "manifest.json")
    if not (isinstance(manifest, dict) and isinstance(manifest.get("vae", ""), str)
            and all(isinstance(manifest.get(key, {}), dict) for key in ("split", "images"))):
        raise InputError(f"{folder / 'manifest.json'} is no manifest of generate.py; generate the set again")
    if is_control(manifest):
        raise InputError(f"--synthetic {folder} is the control of a synthetic set, which is found by itself; give only "
                         "the sets")
    check_inside(manifest.get("images", {}), folder / "manifest.json")
    absent = sum(not (folder / name).exists() for name in manifest.get("images", {}))
    if absent:
        print(f"warning: {folder} lacks {absent} of the {len(manifest['images'])} images of its manifest; "
              "run generate.py again to finish it")
    return manifest


def match_to_folds(folders: tuple[Path, ...], splits: dict[int, Split],
                   force: bool = False) -> dict[int, dict[str, Path]]:
    """Find the fold that each synthetic set belongs to: {fold: {name of a set: its folder}}, the same names per fold.

    A set belongs to the fold whose training images its manifest records. In any other fold, its model may have seen
    test images. splits: {fold: its split}; force: with a single fold, accept a set of another split with a warning.

    Prints a warning when a set's VAE may have seen test images. Raises InputError when a folder is given twice, a set
    fits no fold, or a fold lacks a set that another one has.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError("--synthetic names a folder more than once; give each folder once")
    folders_of_fold: dict[int, list[Path]] = {fold: [] for fold in splits}
    doubtful: dict[str, list[str]] = {}         # {what is wrong with the VAE: folders}
    for folder in folders:
        manifest = read_manifest(folder)
        fold = _fold_of(folder, manifest.get("split"), splits, force)
        folders_of_fold[fold].append(folder)
        trained_on = manifest.get("vae_trained_on")
        if trained_on != splits[fold].identity()["train_images"]:
            doubtful.setdefault("other images than this split's" if trained_on else "unknown images", []).append(
                str(folder))
    for images, own in doubtful.items():
        print(f"warning: the VAE of {shortened(own)} was trained on {images}; if some that are tested on were among "
              "them, the result is too good: train one on each fold's training images (python -m vae.train)")
    named = {fold: name_folders(own_folders) for fold, own_folders in folders_of_fold.items()}
    names = list(dict.fromkeys(name for sets in named.values() for name in sets))
    for fold, sets in named.items():
        if missing := [name for name in names if name not in sets]:
            raise InputError(f"fold {fold} lacks the synthetic set {shortened(missing)}; every fold needs a folder of "
                             "that name, generated by a model of that fold")
    return named


def _fold_of(folder: Path, trained_on: dict | None, splits: dict[int, Split], force: bool) -> int:
    """The fold that a set belongs to; see `match_to_folds`.

    trained_on: the identity of the split that its model was trained on, from the manifest; None or empty if unknown.
    Prints a warning when the set is accepted without a fold that fits it. Raises InputError when it is not accepted.
    """
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


def name_folders(folders: list[Path]) -> dict[str, Path]:
    """{name: folder}: the folders' own names, preceded by as many parent folders as are needed to tell them apart."""
    paths, depth = [folder.resolve() for folder in folders], 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return {str(Path(*path.parts[-depth:])): folder for path, folder in zip(paths, folders)}


def facts_of(folder: Path, split: Split) -> dict[str, Any]:
    """Where a set comes from, for runs.csv: its folder, model and sampling constants, and what was forced.

    "forced" names checks that the user overrode: another VAE than the model's, a model of another split.
    """
    manifest = read_json(folder / "manifest.json") if (folder / "manifest.json").exists() else {}
    is_other_split = manifest.get("split") not in (None, {}, split.identity())
    forced = [manifest.get("forced", ""), "another split" if is_other_split else ""]
    return {"synthetic_folder": str(folder), "forced": ", ".join(filter(None, forced)),
            **{f"model_{name}": manifest.get(name, "") for name in MODEL_FACTS},
            **{f"sampling_{name}": manifest.get(name, "") for name in SAMPLING_FACTS}}


def started_from(folder: Path) -> dict[str, str]:
    """{path of a synthetic image: path of the training window that it is a variation of}, from manifest.json.

    Empty for a set from noise alone. Prints a warning when it is unknown, as in sets of older versions.
    """
    manifest = read_manifest(folder)
    images = manifest.get("images", {})
    known = {name: str(entry["start"]) for name, entry in images.items() if entry.get("start")}
    if manifest.get("noise_level", 1) < 1 and len(known) < len(images):
        print(f"warning: the manifest.json of {folder} does not say which training image each image is a variation of; "
              "their variety is overrated: run generate.py again, which completes it and keeps the images")
    return known
