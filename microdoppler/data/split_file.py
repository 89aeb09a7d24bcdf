"""data_split.json: made once from the data and from what the user wants, then read by all programs.

What the user leaves open (None) is as the file says. When the file is made, it follows from the data.
"""
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from groundwork.errors import InputError, shortened
from groundwork.files import read_json, write_json
from groundwork.preparation import Preparation, as_option
from microdoppler.data.class_names import default_names, read_names
from microdoppler.data.duplicates import describe_duplicates, find_duplicates
from microdoppler.data.folders import describe_ignored, ignored_files, is_own_output, user_number
from microdoppler.data.inspection import inspect
from microdoppler.data.overlap import Overlaps, load_or_find_overlaps
from microdoppler.data.recordings import (FROM_NAMES, RecordingsOfUsers, all_images, describe_recordings,
                                          find_recordings, join_continued, one_run)
from microdoppler.data.spectrograms import check_same_users, drop_broken, find_classes, find_images, folders_by_class
from microdoppler.data.split import Split, in_test_data, split_images, users_too_short_to_validate, with_test
from microdoppler.data.split_settings import ALL_BUT_TEST, FOLDS, SplitSettings
from microdoppler.data.validation_part import USUAL_SHARE
from microdoppler.figures.report import save_figure

SPLIT_FILE = "data_split.json"
INSPECTION_PICTURE = "proposed_preparation.png"
HELD_OUT = ("test", "val", "validation")        # folders beside train: the first of them is the test set
USUAL_SEED = 42
NEW_SPLIT = "choose another folder for a new split (--output of microdoppler.split, else latents_cache_folder)"
USUAL_GUARD = 4         # windows; enough for windows that overlap by 75 %


@dataclass(frozen=True)
class SplitOptions:
    """What the user wants of a split. The names of the fields are those of Config's constants, which describes them.

    None: as data_split.json says, or what the data suggest if there is none yet.
    """
    num_users: int | None = None
    images_per_user_train: int | float | str | None = None
    split_strategy: str | None = None
    split_fold: int | None = None
    split_guard: int | None = None
    split_validation: float | None = None
    seed: int | None = None
    class_folders: bool | None = None
    recording_pattern: str | None = None
    test_data: Path | None = None
    fit: str | None = None
    crop: tuple[float, float, float, float] | None = None
    levels: tuple[float, float] | None = None
    leave_out_users: tuple[int, ...] | None = None

    @property
    def preparation(self) -> Preparation:
        """How image files become square arrays; raises InputError for values that cannot be."""
        return Preparation(self.fit or Preparation.fit, self.crop, self.levels)

    @staticmethod
    def of(settings: SplitSettings) -> "SplitOptions":
        """The options that describe a split completely."""
        preparation = settings.preparation
        return SplitOptions(settings.num_users, settings.images_per_user_train, settings.strategy, settings.fold,
                            settings.guard, settings.validation, settings.seed, settings.class_folders,
                            settings.recording_pattern,
                            Path(settings.test_data) if settings.test_data is not None else None, preparation.fit,
                            preparation.crop, preparation.levels, settings.leave_out_users)


@dataclass(frozen=True)
class OpenedSplit:
    """A split, the overlaps of its images, and lines to print about them: how it was made, warnings."""
    split: Split
    overlaps: Overlaps
    lines: list[str]


def locate_data(data_path: Path, test_data: Path | None) -> tuple[Path, Path | None]:
    """The folder of the training images and that of a given test set.

    They are as given; but if data_path holds the folders train and test, with folders of users in them, it is these.
    Where there is no test, val or validation takes its place.
    """
    train = data_path / "train"
    if test_data is None and train.is_dir():
        for held_out in (data_path / name for name in HELD_OUT):
            if held_out.is_dir() and set(folders_by_class(train)) & set(folders_by_class(held_out)):
                return train, held_out
    return data_path, test_data


def open_split(path: Path, data_path: Path, options: SplitOptions, class_names: Path | None = None) -> OpenedSplit:
    """The split at `path`; made from the images in data_path and written there if there is none.

    class_names: a JSON file for `read_names`, from which the split gets its names, and is written again if they change;
    without one the names stay as they are.

    Raises InputError when the stored split was made with other settings than the options say or lists images that are
    missing, and when a split cannot be made of the images.
    """
    split, lines = read_split(path, data_path, options) if path.exists() else make_split(path, data_path, options)
    named = _named(split, class_names)
    if not path.exists() or named.to_json() != read_json(path):     # new names, a moved test set, or an older form
        write_json(path, named.to_json())
    overlaps = load_or_find_overlaps(data_path, named.recordings, path.parent, named.preparation)
    return OpenedSplit(named, overlaps, lines)


def load_split(path: Path, test_data: Path | None = None) -> Split:
    """The split at `path`. test_data: where a given test set is now; None: where it was.

    Raises InputError when there is no split, or it is none of ours.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; make it with python -m microdoppler.split --data_path …, or name the "
                         "one that was trained on with --split")
    content = read_json(path)
    if test_data is not None and isinstance(content, dict) and content.get("test_data") is not None:
        content["test_data"] = os.path.abspath(test_data)
    return Split.from_json(content, path)


def read_split(path: Path, data_path: Path, options: SplitOptions) -> tuple[Split, list[str]]:
    """The stored split and lines to print: what of the data it does not use. Raises InputError as open_split does.

    A given test set may have been moved since: its images are looked for where the options say.
    """
    split = load_split(path, options.test_data)
    was = vars(SplitOptions.of(split.settings))
    options = replace(options, test_data=options.test_data and Path(os.path.abspath(options.test_data)),
                      leave_out_users=options.leave_out_users and tuple(sorted(options.leave_out_users)))
    ignored = ("seed",) if split.settings.strategy == "contiguous" else ("split_fold", "split_guard")
    changed = [f"{name} {_text(was[name])} (now {_text(value)})" for name, value in vars(options).items()
               if value is not None and name not in ignored and _plain(value) != _plain(was[name])]
    if changed:
        raise InputError(f"{path} was made with {', '.join(changed)}; leave these constants as they were, or "
                         + NEW_SPLIT)
    if not data_path.is_dir():
        raise InputError(f"data_path {data_path} is no folder; check the path, and give the folder that {path} was "
                         "made from")
    listed = {name for part in (split.train_images, split.validation_images, split.test_images)
              for own in part.values() for name in own}
    listed |= {name for own in split.recordings.values() for name in all_images(own)}
    if missing := [name for name in sorted(listed) if not (data_path / name).is_file()]:
        if any(Path(name).is_absolute() for name in missing):
            raise InputError(f"{path} lists images that do not exist: {shortened(missing, 3)}; say where the test set "
                             "is now with --test_data")
        raise InputError(f"data_path {data_path} lacks images that {path} lists: {shortened(missing, 3)}; give the "
                         f"data it was made from with --data_path, or {NEW_SPLIT}")
    images = find_images(data_path, split.folders)
    if not any(split.recordings.values()):      # an older file; the overlaps need also what it does not list
        decodable, _ = drop_broken(data_path, images, split.preparation)
        split = replace(split, recordings={user: one_run(own) for user, own in decodable.items()})
    return split, unused_lines(data_path, images, split)


def unused_lines(data_path: Path, images: dict[int, list[str]], split: Split) -> list[str]:
    """What of the data a stored split does not use. images: {user number: paths in data_path now}."""
    known = {name for own in split.recordings.values() for name in all_images(own)}
    lines = []
    if added := [name for own in images.values() for name in own if name not in known]:
        lines.append(f"note: {len(added)} images that are not in the split are not used ({shortened(added, 3)}). Those "
                     f"that cannot be decoded stay out. To use those that were added later, {NEW_SPLIT}")
    return lines + unused_folders(data_path, split.folders, split.settings)


def unused_beside(data_path: Path, test_data: Path | None) -> list[str]:
    """A line about folders of held-out images beside train and test; none if there are none."""
    if data_path.name != "train" or test_data is None:
        return []
    unused = [folder for name in HELD_OUT if (folder := data_path.with_name(name)).is_dir()
              and folder != test_data and set(folders_by_class(folder)) & set(folders_by_class(data_path))]
    return [f"note: {unused[0]} is not used: images to validate on are taken from {data_path}. To train on its images, "
            "move them there"] if unused else []


def unused_folders(data_path: Path, folders: dict[int, str], settings: SplitSettings) -> list[str]:
    """A line about folders of data_path that are no users here; none if all are used."""
    class_folders, left_out = settings.class_folders, settings.leave_out_users
    unused = [folder.name for folder in folders_by_class(data_path).values() if folder.name not in folders.values()
              and (class_folders or user_number(folder.name) is not None) and not is_own_output(folder)]
    reasons = [f"num_users is {len(folders)}"] * (len(unused) > len(left_out)) + [
        f"leave_out_users is {' '.join(map(str, left_out))}"] * bool(left_out)
    return [f"note: not used, as {' and '.join(reasons)}: {shortened(unused)}"] if unused else []


def make_split(path: Path, data_path: Path, options: SplitOptions) -> tuple[Split, list[str]]:
    """A new split, and lines to print: how it follows from the data. Raises InputError as open_split does."""
    preparation = options.preparation
    folders = find_classes(data_path, options.num_users or 0, bool(options.class_folders),
                           options.leave_out_users or ())
    class_folders = options.class_folders
    if class_folders is None:
        class_folders = any(user_number(folder) is None for folder in folders.values())
    images = find_images(data_path, folders)
    looked = look_at_images(path.with_name(INSPECTION_PICTURE), data_path, images, preparation)
    images, skipped = drop_broken(data_path, images, preparation)
    lines = [*skipped, *looked, *describe_duplicates(find_duplicates(data_path, images))]
    recordings, source = find_recordings(data_path, images, options.recording_pattern)
    ignored = describe_ignored(ignored_files(data_path, list(folders.values())))
    test_recordings = None
    if options.test_data is not None:
        test_recordings = find_test_recordings(options.test_data, folders, options.recording_pattern, preparation)
    settings, reasons = fill_in(options, recordings, len(folders), class_folders, preparation)
    split_images(recordings, settings, folders, test_recordings)        # says at once if there are too few images
    overlaps = load_or_find_overlaps(data_path, with_test(recordings, test_recordings), path.parent, preparation)
    if source == FROM_NAMES:
        recordings = join_continued(recordings, overlaps.overlaps_previous)
    lines += [*([f"note: {ignored}"] if ignored else []), *unused_beside(data_path, options.test_data),
              *unused_folders(data_path, folders, settings),
              describe_recordings(recordings, source)]
    if options.split_guard is None and settings.strategy == "contiguous":
        settings, reason = with_guard(settings, overlaps)
        reasons.append(reason)
    settings, reason = with_validation(settings, options.split_validation, recordings, folders, test_recordings)
    reasons += [reason] if reason else []
    if reasons:
        lines.append("from the data: " + "; ".join(reasons))
    return split_images(recordings, settings, folders, test_recordings), lines


def look_at_images(picture: Path, data_path: Path, images: dict[int, list[str]],
                   preparation: Preparation) -> list[str]:
    """Lines to print about the image files. A proposed crop or levels are shown in a picture at `picture`."""
    found = inspect(data_path, images, preparation)
    lines = found.lines
    if found.proposal() != preparation:
        save_figure(found.figure(), picture)
        lines.append(f"an image before and after what is proposed: {picture}")
    return lines


def find_test_recordings(test_data: Path, folders: dict[int, str], pattern: str | None,
                         preparation: Preparation) -> RecordingsOfUsers:
    """The recordings of a given test set, with absolute paths. folders: {user number: folder of the training images}.

    Raises InputError when a user has no images there.
    """
    check_same_users("--test_data", test_data, folders)
    images, _ = drop_broken(test_data, find_images(test_data, folders), preparation)
    recordings, _ = find_recordings(test_data, images, pattern)
    return {user: [replace(recording, name=f"test {recording.name}" if recording.name else "",
                           images=[in_test_data(name, os.path.abspath(test_data)) for name in recording.images])
                   for recording in own] for user, own in recordings.items()}


def fill_in(options: SplitOptions, recordings: RecordingsOfUsers, num_users: int, class_folders: bool,
            preparation: Preparation) -> tuple[SplitSettings, list[str]]:
    """The settings, with what the options leave open (but not the guard), and in words why they are so."""
    size, reasons = options.images_per_user_train, []
    if size is None and options.test_data is not None:
        size = ALL_BUT_TEST
    elif size is None:
        smallest = min(len(all_images(own)) for own in recordings.values())
        size = max(1, smallest // 3)
        reasons.append(f"images_per_user_train {size}, a third of the {smallest} images of the smallest user")
    return SplitSettings(num_users, size, options.split_strategy or "contiguous", options.split_fold or 0,
                         options.split_guard or 0, USUAL_SEED if options.seed is None else options.seed, class_folders,
                         options.recording_pattern,
                         None if options.test_data is None else os.path.abspath(options.test_data),
                         preparation, leave_out_users=tuple(sorted(options.leave_out_users or ()))), reasons


def with_guard(settings: SplitSettings, overlaps: Overlaps) -> tuple[SplitSettings, str]:
    """The settings with the guard that the overlaps need, and in words why it is so.

    No training and test window may share a column. The guard must be the same in all folds: so it does not follow from
    the near-copies of one of them, which the audit counts.
    """
    if overlaps.hop is None:
        return replace(settings, guard=USUAL_GUARD), f"split_guard {USUAL_GUARD}, the usual one: no overlap was found"
    guard = math.ceil(1 / overlaps.hop) - 1
    return replace(settings, guard=guard), f"split_guard {guard}, as the overlaps need"


def with_validation(settings: SplitSettings, share: float | None, recordings: RecordingsOfUsers,
                    folders: dict[int, str], test_recordings: RecordingsOfUsers | None) -> tuple[SplitSettings, str]:
    """The settings with the share of the validation part, and in words why it is so, "" where it was given.

    The share must be the same in all folds. So if it is open, and the training run of a user is too short for the
    usual one in any fold, there is no validation part.
    """
    if share is not None:
        return replace(settings, validation=share), ""
    settings = replace(settings, validation=USUAL_SHARE)
    of_folds = [replace(settings, fold=fold) for fold in FOLDS] if settings.strategy == "contiguous" else [settings]
    short = {user for fold in of_folds for user in users_too_short_to_validate(recordings, fold, test_recordings)}
    if short:
        named = shortened([folders[user] for user in sorted(short)])
        return replace(settings, validation=0.0), (
            f"split_validation 0: {named} has too few training images to give up {USUAL_SHARE:.0%} and a guard for "
            "validation; to choose constants on a validation part, raise images_per_user_train")
    return settings, f"split_validation {USUAL_SHARE:g} of each user's images to train on"


def _named(split: Split, class_names: Path | None) -> Split:
    """The split with the names from a class-name file; unchanged without one."""
    if class_names is None:
        return split
    defaults = default_names(split.folders, split.settings.class_folders)
    return replace(split, names=read_names(class_names, split.folders, defaults))


def _plain(value: Any) -> Any:
    """A value of an option so that equal ones compare as equal."""
    return tuple(map(float, value)) if isinstance(value, (tuple, list)) else os.path.abspath(value) if isinstance(
        value, Path) else value


def _text(value: Any) -> str:
    """A value of an option as it is given on the command line."""
    return as_option(tuple(value)) if isinstance(value, (tuple, list)) else str(value)
