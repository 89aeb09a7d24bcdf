"""Find the spectrograms in class folders, and check that they can be decoded."""
import itertools
from pathlib import Path
from typing import Sequence

import torch

from groundwork.errors import InputError, printable, shortened
from groundwork.images import SUFFIXES, load_image, natural_order
from groundwork.preparation import Preparation
from groundwork.progress import Progress
from microdoppler.data.folders import (describe_ignored, ignored_files, image_files, is_own_output, suggest_data_path,
                                       user_number)

MAX_NAME_BYTES = 100        # of a class: file names contain it, and file systems allow 255 bytes at most
MAX_BROKEN_SHARE = 0.03     # a larger share of broken images is no accident, and the user should look at the data


def class_of(folder: str) -> str:
    """The class of a folder: ID_<number> for id_3, Id_03 and the like; otherwise the folder's own name."""
    number = user_number(folder)
    return folder if number is None else f"ID_{number}"


def folders_by_class(root: Path) -> dict[str, Path]:
    """{class: folder} for the folders in `root`, in natural order; for "class" see `class_of`.

    Left out are hidden folders, and those like __MACOSX, which some programs write.

    Raises InputError when two folders have the same class, or a name is longer than MAX_NAME_BYTES.
    """
    folders: dict[str, Path] = {}
    entries = (entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__")))
    for folder in sorted(entries, key=lambda entry: natural_order(entry.name)):
        if len(folder.name.encode()) > MAX_NAME_BYTES:
            raise InputError(f"the name of {folder} has {len(folder.name.encode())} bytes; expected {MAX_NAME_BYTES} "
                             "at most: rename it")
        twin = folders.setdefault(class_of(folder.name), folder)
        if twin is not folder:
            raise InputError(f"{twin.name} and {folder.name} in {root} have the same number; rename one of them")
    return folders


def find_classes(data_path: str | Path, num_users: int = 0, class_folders: bool = False,
                 leave_out: Sequence[int] = ()) -> dict[int, str]:
    """The users: {user number: name of the folder}, in rising order of their numbers.

    The number of a folder ID_<n> is n. Other folders get the free numbers from 1 on, in natural order of their names.

    num_users: only the first of them, in this order; 0: all. class_folders: True: all folders in data_path; False:
    those called ID_<n>, or all if there are none. leave_out: numbers of users who are in data_path, but not wanted.

    Raises InputError when data_path is no folder, or holds fewer classes, or none of a number in leave_out.
    """
    data_path = Path(data_path)
    if not data_path.is_dir():
        raise InputError(f"data_path {data_path} is no folder; give the folder that holds a folder per user with "
                         "--data_path")
    if (meant := suggest_data_path(data_path)) is not None:
        raise InputError(f"data_path {data_path} holds no folders of users, but {meant} does: give it with --data_path")
    found = {name: folder.name for name, folder in folders_by_class(data_path).items() if not is_own_output(folder)}
    numbers = {name: number for name, folder in found.items() if (number := user_number(folder)) is not None}
    if not numbers and (nested := [name for name, folder in found.items() if any(
            user_number(child.name) is not None and child.is_dir() for child in (data_path / folder).iterdir())]):
        raise InputError(f"data_path {data_path} holds no folders of users, but its folders {shortened(nested)} do: "
                         "give one of them with --data_path")
    if class_folders or not numbers:
        free = (number for number in itertools.count(1) if number not in numbers.values())
        numbers = {name: numbers[name] if name in numbers else next(free) for name in found}
    if not numbers:
        content = shortened(sorted(path.name for path in data_path.iterdir())) or "nothing"
        raise InputError(f"data_path {data_path} holds no folder of a user; expected ID_1, ID_2, … or a folder per "
                         f"class, found {content}; give the right one with --data_path")
    if unknown := sorted(set(leave_out) - set(numbers.values())):
        raise InputError(f"--leave_out_users {' '.join(map(str, unknown))}: no such user in {data_path}; expected some "
                         f"of {shortened([f'{number} {found[name]}' for name, number in numbers.items()])}")
    numbers = {name: number for name, number in numbers.items() if number not in leave_out}
    if not numbers:
        raise InputError(f"--leave_out_users leaves out all users of {data_path}; expected some to train on")
    kept = " that are not left out" if leave_out else ""
    if num_users > len(numbers):
        raise InputError(f"num_users is {num_users}, but {data_path} holds {len(numbers)}{kept}: "
                         f"{shortened([found[name] for name in numbers])}; set num_users to 0 for all, or add folders")
    in_order = sorted(numbers, key=numbers.__getitem__)
    return {numbers[name]: found[name] for name in in_order[:num_users or None]}


def check_same_users(option: str, root: Path, classes: dict[int, str]) -> None:
    """Raises InputError, which names the option that gives `root`, unless it is a folder that has all these classes.

    classes: {user number: name of the folder in data_path}.
    """
    if not root.is_dir():
        raise InputError(f"{option} {root} is no folder; expected one with the same users as data_path")
    found = folders_by_class(root)
    if missing := [name for name in classes.values() if class_of(name) not in found]:
        raise InputError(f"{option} {root} lacks {shortened(missing)}; expected the same users as in data_path")


def find_images(root: str | Path, classes: dict[int, str]) -> dict[int, list[str]]:
    """The images of these classes: {user number: paths relative to root, in natural order}.

    classes: {user number: name of the folder}; a folder of the same class (see `class_of`) is taken, too. Images in
    subfolders belong to the class. They are files with a suffix in SUFFIXES, in any letter case. Raises InputError when
    a class has none.
    """
    root = Path(root)
    folders = folders_by_class(root)
    if missing := [name for name in classes.values() if class_of(name) not in folders]:
        raise InputError(f"{root} lacks {shortened(missing)}; give the folder that holds them")
    images = {user: [file.relative_to(root).as_posix() for file in image_files(folders[class_of(name)])]
              for user, name in classes.items()}
    empty = [classes[user] for user, names in images.items() if not names]
    if empty:
        ignored = describe_ignored(ignored_files(root, empty))
        raise InputError(f"no image ({', '.join(sorted(SUFFIXES))}) in {shortened(empty)} of {root}"
                         + (f"; {ignored}" if ignored else ""))
    return images


def drop_broken(data_path: str | Path, images: dict[int, list[str]],
                preparation: Preparation = Preparation()) -> tuple[dict[int, list[str]], list[str]]:
    """Decode every image once. images: {user number: paths relative to data_path}; preparation: as when it is used.

    Returns (the images without the broken ones, a warning for each broken one). Raises InputError when more than
    MAX_BROKEN_SHARE of all images are broken.
    """
    decodable: dict[int, list[str]] = {user: [] for user in images}
    warnings = []
    total = sum(map(len, images.values()))
    with Progress(total=total, desc="checking images", unit="image") as bar:
        for user, names in images.items():
            for name in names:
                try:
                    load_image(Path(data_path) / name, 8, preparation=preparation)
                    decodable[user].append(name)
                except Exception as error:      # a broken file makes PIL raise nearly anything
                    warnings.append(printable(f"skipped {name}: {type(error).__name__}: {error}"))
                bar.update()
    if len(warnings) > MAX_BROKEN_SHARE * total:
        raise InputError(f"{len(warnings)} of {total} images in {data_path} cannot be decoded "
                         f"(at most {MAX_BROKEN_SHARE:.0%} are tolerated); the first: {warnings[0]}")
    return decodable, warnings


def paths_and_labels(images: dict[int, list[str]]) -> tuple[list[str], torch.Tensor]:
    """Flatten {user number: paths}, user by user.

    Returns (n paths, their labels (n,) int64). A label is the user's place in `images`: 0, 1, … without gaps.
    """
    paths = [path for own in images.values() for path in own]
    return paths, torch.tensor([label for label, own in enumerate(images.values()) for _ in own], dtype=torch.int64)
