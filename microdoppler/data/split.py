"""The split into training, validation and test images, made once and stored in data_split.json for all programs.

Windows overlap by 75 %, so a random split puts near-copies of training images into the test set. The default strategy
therefore trains on whole recordings of each user and tests on others. Where a user has too few recordings for that, it
trains on one run of consecutive windows. The windows next to it (the guard) are then in neither set.

The last passes of each user's training run are the validation part (validation_part.py). Constants are chosen on it, so
that test images are looked at once, by classify.py.
"""
import hashlib
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Sequence

import numpy as np

from groundwork.errors import InputError, printable, shortened
from groundwork.files import check_inside
from groundwork.preparation import Preparation
from microdoppler.data.class_names import default_names
from microdoppler.data.folders import user_number
from microdoppler.data.recordings import Recording, RecordingsOfUsers, all_images
from microdoppler.data.split_settings import ALL_BUT_TEST, FOLDS, SplitSettings
from microdoppler.data.validation_part import last_passes, leaves_too_few


@dataclass(frozen=True)
class Split:
    """The images to train on, those to choose constants on, and those to test on.

    train_images, validation_images, test_images: {user number: paths}, in time order if the strategy is contiguous; all
    users have validation images, or none; folders: {user number: name of the class folder}; names: {user number: name
    in figures and tables}; recordings: {user number: recordings}, of all images of the user, including those in no set.

    Paths are relative to data_path. Those of a given test set (settings.test_data) are absolute.
    """
    settings: SplitSettings
    train_images: dict[int, list[str]]
    validation_images: dict[int, list[str]]
    test_images: dict[int, list[str]]
    names: dict[int, str]
    folders: dict[int, str]
    recordings: RecordingsOfUsers = field(default_factory=dict)

    def identity(self) -> dict:
        """What identifies the training images: the settings used, and a digest of the paths.

        Checkpoints and manifests store it, so that a model can be matched to the split it was trained on.
        """
        paths = "\n".join(path for user in self.users for path in self.train_images[user])
        return {**self.settings.used(), "train_images": hashlib.sha256(paths.encode()).hexdigest()[:16]}

    @property
    def users(self) -> list[int]:
        """The user numbers, in the order of their labels 0, 1, …"""
        return list(self.train_images)

    @property
    def labels(self) -> dict[int, int]:
        """{user number: label}."""
        return {user: label for label, user in enumerate(self.users)}

    @property
    def preparation(self) -> Preparation:
        """How image files of the data set become square arrays."""
        return self.settings.preparation

    def to_json(self) -> dict:
        """The content of data_split.json."""
        def stored(paths: Sequence[str]) -> list[str]:
            return [relative_to_test_data(path, self.settings.test_data) for path in paths]
        users = {}
        for user, label in self.labels.items():
            recordings = [vars(recording) for recording in self.recordings.get(user, ())]
            given = [{**recording, "images": stored(recording["images"])} for recording in recordings
                     if Path(recording["images"][0]).is_absolute()]
            users[str(user)] = {
                "label": label, "folder": self.folders[user], "name": self.names[user],
                "train_images": self.train_images[user], "validation_images": self.validation_images[user],
                "test_images": stored(self.test_images[user]),
                "recordings": recordings[:len(recordings) - len(given)], "test_recordings": given}
        return {**self.settings.to_json(), "users": users}

    @staticmethod
    def from_json(value: dict, path: Path) -> "Split":
        """The split from the content of data_split.json.

        Raises InputError, which names `path`, when the content has another form, or lists an image twice or outside the
        data set.
        """
        try:
            users = {user: value["users"][str(user)] for user in sorted(map(int, value["users"]))}
            settings = _settings_of({key: item for key, item in value.items() if key != "users"})
            train, test = ({user: list(entry[part]) for user, entry in users.items()}
                           for part in ("train_images", "test_images"))
            # Older splits have no validation part
            validation = {user: list(entry.get("validation_images", ())) for user, entry in users.items()}
            recordings, given = ({user: [Recording(**recording) for recording in entry.get(part, ())]
                                  for user, entry in users.items()} for part in ("recordings", "test_recordings"))
            # Older splits do not store folders
            folders = {user: str(entry.get("folder") or train[user][0].split("/")[0]) for user, entry in users.items()}
            defaults = default_names(folders, settings.class_folders)
            names = {user: str(entry.get("name", defaults[user])) for user, entry in users.items()}
            in_data = [name for part in (train, validation) for own in part.values() for name in own]
            in_test = [name for own in test.values() for name in own]
            check_inside(in_data + in_test + [name for part in (recordings, given) for own in part.values()
                                   for name in all_images(own)], path)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path} is no split of ours ({type(error).__name__}: {error}); delete it, "
                             "and it is made again") from None
        listed = in_data + (in_test if settings.test_data is None else [])
        if len(set(listed)) < len(listed):
            twice = next(name for name in listed if listed.count(name) > 1)
            raise InputError(f"{path} lists {twice} twice; an image is in one place, to train, to validate or "
                             "to test")
        for user, folder in folders.items():
            if "/" in folder or not settings.class_folders and user_number(folder) != user:
                raise InputError(f"{path} says that the images of user {user} are in {folder}; expected ID_{user}")
        if len(users) != settings.num_users:
            raise InputError(f"{path} has users {shortened([str(user) for user in users])}; expected "
                             f"{settings.num_users}; delete it, and it is made again")
        if settings.test_data is not None:
            test = {user: [in_test_data(name, settings.test_data) for name in own] for user, own in test.items()}
            recordings = {user: own + [replace(recording, images=[in_test_data(name, settings.test_data)
                                                                  for name in recording.images])
                                       for recording in given[user]] for user, own in recordings.items()}
        return Split(settings, train, validation, test, names, folders, recordings)


def _settings_of(plain: dict[str, Any]) -> SplitSettings:
    """Settings from data_split.json."""
    preparation = Preparation.from_json(plain["preparation"]) if "preparation" in plain else Preparation()
    return SplitSettings(**{**plain, "preparation": preparation,
                            "leave_out_users": tuple(map(int, plain.get("leave_out_users", ())))})


def in_test_data(name: str, test_data: str) -> str:
    """The absolute path of an image in a given test set, which loaders can join to any data folder."""
    return os.path.join(os.path.abspath(test_data), name)


def relative_to_test_data(path: str, test_data: str | None) -> str:
    """The inverse of in_test_data; other paths stay as they are."""
    is_given = test_data is not None and Path(path).is_absolute()
    return Path(path).relative_to(os.path.abspath(str(test_data))).as_posix() if is_given else path


def split_images(recordings: RecordingsOfUsers, settings: SplitSettings, folders: dict[int, str],
                 test_recordings: RecordingsOfUsers | None = None) -> Split:
    """Split the images of recordings {user number: recordings}.

    folders: {user number: name of the class folder}; test_recordings: of a given test set. Raises InputError that names
    users with too few images.
    """
    runs = {user: _run_and_test(user, own, settings, (test_recordings or {}).get(user))
            for user, own in recordings.items()}
    short = [f"{folders[user]} has {len(all_images(recordings[user]))}" for user, (run, test) in runs.items()
             if len(run) < num_training(len(all_images(recordings[user])), settings) or not run or not test]
    if short:
        needed = [f"{settings.images_per_user_train} to train"] + (
            [f"a guard of {settings.guard} on each side of them"] if settings.guard else [])
        raise InputError(f"too few images: {shortened(short)}; needed per user: {', '.join(needed)}, and 1 to test: "
                         f"lower images_per_user_train{' or split_guard' if settings.guard else ''}, or add images")
    parts = {user: _training_and_validation(user, run, recordings[user], settings) for user, (run, _) in runs.items()}
    if few := [f"{folders[user]} keeps {len(train)} of {len(runs[user][0])}" for user, (train, _) in parts.items()
               if leaves_too_few(len(train), len(runs[user][0]))]:
        raise InputError(f"split_validation {settings.validation:g} leaves too few images to train on: "
                         f"{shortened(few)}; expected more than half of them: lower split_validation, 0 for none, or "
                         "raise images_per_user_train")
    train, validation = ({user: part[which] for user, part in parts.items()} for which in (0, 1))
    return Split(settings, train, validation, {user: test for user, (_, test) in runs.items()},
                 default_names(folders, settings.class_folders), folders, with_test(recordings, test_recordings))


def fewer_training_images(split: Split, number: int) -> Split:
    """The split with only the first `number` training images of each user, and everything else as it is.

    Raises InputError when a user has fewer.
    """
    if short := [split.folders[user] for user, own in split.train_images.items() if len(own) < number]:
        raise InputError(f"{shortened(short)} has fewer than {number} training images; expected at least as many of "
                         "each user")
    return replace(split, settings=replace(split.settings, images_per_user_train=number),
                   train_images={user: own[:number] for user, own in split.train_images.items()})


def users_too_short_to_validate(recordings: RecordingsOfUsers, settings: SplitSettings,
                                test_recordings: RecordingsOfUsers | None = None) -> list[int]:
    """The users whose training run is too short for the validation part of these settings."""
    short = []
    for user, own in recordings.items():
        run, _ = _run_and_test(user, own, settings, (test_recordings or {}).get(user))
        train, _ = _training_and_validation(user, run, own, settings)
        short += [user] if leaves_too_few(len(train), len(run)) else []
    return short


def _run_and_test(user: int, own: Sequence[Recording], settings: SplitSettings,
                  test_recordings: Sequence[Recording] | None) -> tuple[list[str], list[str]]:
    """(images that may be trained on, test images) of one user. test_recordings: of a given test set."""
    if test_recordings is not None:
        return training_images(own, settings), all_images(test_recordings)
    return _random(user, own, settings) if settings.strategy == "random" else _contiguous(own, settings)


def _training_and_validation(user: int, run: list[str], own: Sequence[Recording], settings: SplitSettings
                             ) -> tuple[list[str], list[str]]:
    """(training, validation) images among those that may be trained on. Of a random split, any of them."""
    if settings.validation == 0:
        return run, []
    if settings.strategy == "contiguous":
        return last_passes(run, own, settings.validation, settings.guard)
    count = max(1, round(settings.validation * len(run)))
    chosen = set(_shuffled(user, run, settings)[-count:])
    return [image for image in run if image not in chosen], [image for image in run if image in chosen]


def with_test(recordings: RecordingsOfUsers, test_recordings: RecordingsOfUsers | None) -> RecordingsOfUsers:
    """All recordings of each user, those of a given test set last."""
    return {user: [*own, *(test_recordings or {}).get(user, ())] for user, own in recordings.items()}


def num_training(count: int, settings: SplitSettings) -> int:
    """How many of a user's `count` images are to be trained on; with all_but_test at least 1: the split decides."""
    size = settings.images_per_user_train
    if isinstance(size, str):
        return count if settings.test_data is not None else 1
    return size if isinstance(size, int) else max(1, round(size * count))


def training_images(own: Sequence[Recording], settings: SplitSettings) -> list[str]:
    """The training images of a user whose test images are given: a run that the fold chooses, or all images."""
    images = all_images(own)
    size = min(num_training(len(images), settings), len(images))
    start = (len(images) - size) * settings.fold // 2
    return images[start:start + size]


def _contiguous(own: Sequence[Recording], settings: SplitSettings) -> tuple[list[str], list[str]]:
    """(training, test) images of one user.

    One set is a run of consecutive windows: the training set, or with all_but_test a third of the images as test set.
    The fold puts it at the start, the middle or the end. The other set has all images of the recordings that the run
    does not touch. If there are too few recordings, it has the images that are at least a guard away.
    """
    images, size = all_images(own), settings.images_per_user_train
    run_is_test = size == ALL_BUT_TEST
    length = len(images) // 3 if run_is_test else num_training(len(images), settings)
    if (starts := _starts_at_recordings(own, length)) is not None:
        run = images[starts[settings.fold]:starts[settings.fold] + length]
        touched = [recording for recording in own if not set(run).isdisjoint(recording.images)]
        others = all_images([recording for recording in own if recording not in touched])
        run = all_images(touched) if run_is_test else run       # no test image of these recordings is left out
    else:
        start = (len(images) - length) * settings.fold // 2
        run = images[start:start + length] if length else []
        others = images[:max(0, start - settings.guard)] + images[start + length + settings.guard:]
    return (others, run) if run_is_test else (run, others)


def _starts_at_recordings(own: Sequence[Recording], length: int) -> list[int] | None:
    """Where the run of `length` images begins in each fold, if it begins with a recording: the nearest to the start,
    the middle and the end. None if there are too few recordings for three different runs that each leave one untouched.
    """
    sizes = [len(recording.images) for recording in own]
    first = np.cumsum([0, *sizes])
    last_start = first[-1] - length
    touched = [int(np.searchsorted(first, start + length)) - number for number, start in enumerate(first[:-1])]
    possible = [int(start) for start, count in zip(first, touched) if start <= last_start and count < len(own)]
    if not possible or length < 1:
        return None
    starts = [min(possible, key=lambda start: abs(start - last_start * fold / 2)) for fold in FOLDS]
    return starts if len(set(starts)) == len(FOLDS) else None


def _random(user: int, own: Sequence[Recording], settings: SplitSettings) -> tuple[list[str], list[str]]:
    """(training, test) images of one user, shuffled."""
    order = _shuffled(user, all_images(own), settings)
    size = num_training(len(order), settings) if settings.images_per_user_train != ALL_BUT_TEST else (
        len(order) - len(order) // 3)
    return order[:size], order[size:]


def _shuffled(user: int, images: Sequence[str], settings: SplitSettings) -> list[str]:
    """Names sorted as strings, permuted by RandomState(seed + user).

    This is the split of the experiments that came before this project. A seed has 32 bits; a user's number may have
    more, as a telephone number has.
    """
    return np.random.RandomState((settings.seed + user) % 2 ** 32).permutation(sorted(images)).tolist()


def cut_at_recordings(split: Split) -> bool:
    """Whether no user's training and test images share a recording. It is True with a given test set."""
    if any(not recording.is_known for own in split.recordings.values() for recording in own):
        return split.settings.test_data is not None
    return all(set(split.train_images[user]).isdisjoint(recording.images)
               or set(split.test_images[user]).isdisjoint(recording.images)
               for user, own in split.recordings.items() for recording in own)


def describe(split: Split) -> str:
    """One line to print: the users, with their names where folders do not tell their numbers, and of how many images of
    each is made what."""
    settings = split.settings
    how = settings.strategy
    if settings.test_data is not None:
        how = f"test set given: {settings.test_data}"
    elif settings.strategy == "contiguous":
        how += f", fold {settings.fold}, " + (
            "whole recordings" if cut_at_recordings(split) else f"guard {settings.guard}")
    parts = {"to train on": split.train_images, "to validate on": split.validation_images,
             "to test on": split.test_images}
    counts = {part: [len(images[user]) for user in split.users] for part, images in parts.items()}
    counts["left out"] = [len(all_images(split.recordings[user])) - sum(used) for user, used in zip(
        split.users, zip(*counts.values()))]
    described = [f"{_range(numbers)} {part}" for part, numbers in counts.items() if max(numbers)]
    named = [f"{user} = {printable(split.folders[user] if name == f'user {user}' else name)}"
             for user, name in split.names.items() if user_number(split.folders[user]) != user]
    users = f"{len(split.users)} users" + (f" ({shortened(named)})" if named else "")
    return f"split: {users}, images of each: {', '.join(described)} ({how})"


def _range(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(set(numbers)) == 1 else f"{min(numbers)} … {max(numbers)}"
