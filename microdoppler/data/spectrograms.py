"""Find the spectrograms in class folders, order them in time, and check that they can be decoded."""
import re
from pathlib import Path

import torch
from tqdm import tqdm

from groundwork.errors import InputError, printable, shortened
from groundwork.images import load_image, natural_order, time_order

SUFFIXES = {".jpg", ".jpeg", ".png"}
MAX_NAME_BYTES = 100        # of a class: file names contain it, and file systems allow 255 bytes at most
MAX_BROKEN_SHARE = 0.03     # a larger share of broken images is no accident, and the user should look at the data


def class_of(folder: str) -> str:
    """The class of a folder: ID_<number> for id_3, Id_03 and the like; otherwise the folder's own name."""
    match = re.fullmatch(r"ID_([0-9]+)", folder, re.IGNORECASE)
    return f"ID_{int(match[1])}" if match else folder


def folders_by_class(root: Path) -> dict[str, Path]:
    """{class: folder} for the folders in `root` that are not hidden, in natural order; for "class" see `class_of`.

    Raises InputError when two folders have the same class, or a name is longer than MAX_NAME_BYTES.
    """
    folders: dict[str, Path] = {}
    for folder in sorted((entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")),
                         key=lambda entry: natural_order(entry.name)):
        if len(folder.name.encode()) > MAX_NAME_BYTES:
            raise InputError(f"the name of {folder} has {len(folder.name.encode())} bytes; expected {MAX_NAME_BYTES} "
                             "at most: rename it")
        twin = folders.setdefault(class_of(folder.name), folder)
        if twin is not folder:
            raise InputError(f"{twin.name} and {folder.name} in {root} have the same number; rename one of them")
    return folders


def find_classes(data_path: str | Path, num_users: int, class_folders: bool = False) -> dict[int, str]:
    """The classes of the users: {user number 1 … num_users: class}.

    They are the folders ID_1 … ID_<num_users> in data_path. With class_folders they are all its folders, whatever their
    names, numbered in natural order; then there must be exactly num_users of them.

    Raises InputError when data_path is no folder, or these folders are not there.
    """
    data_path = Path(data_path)
    wanted = "a folder per class" if class_folders else f"ID_1 … ID_{num_users}"
    if not data_path.is_dir():
        raise InputError(f"data_path {data_path} is no folder; give one that holds {wanted} with --data_path")
    found = list(folders_by_class(data_path))
    if class_folders:
        if len(found) != num_users:
            raise InputError(f"{data_path} holds {len(found)} folders ({shortened(found) or 'none'}), but num_users is "
                             f"{num_users}: set num_users to the number of classes")
        return dict(enumerate(found, start=1))
    numbered = [name for name in found if re.fullmatch(r"ID_[0-9]+", name)]
    if not numbered:
        raise InputError(f"no ID_<number> folder in {data_path}; expected {wanted}, "
                         f"found {shortened(sorted(p.name for p in data_path.iterdir())) or 'nothing'}"
                         + ("; for folders with other names set class_folders" if found else ""))
    classes = {user: f"ID_{user}" for user in range(1, num_users + 1)}
    if missing := [name for name in classes.values() if name not in numbered]:
        raise InputError(f"{data_path} lacks {shortened(missing)} of num_users = {num_users}; found {len(numbered)} ID "
                         "folders: set num_users to their number")
    return classes


def find_images(root: str | Path, classes: dict[int, str]) -> dict[int, list[str]]:
    """The images of these classes: {user number: paths relative to root, in time order}. classes: {user number: class}.

    Images are .jpg, .jpeg and .png files, in any letter case. Raises InputError when a class has none.
    """
    folders = folders_by_class(Path(root))
    images = {user: [f"{folders[name].name}/{file.name}" for file in folders[name].iterdir()
                     if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")]
              for user, name in classes.items()}
    empty = [classes[user] for user, names in images.items() if not names]
    if empty:
        raise InputError(f"no .jpg, .jpeg or .png in {shortened(empty)} of {root}")
    return {user: sorted(names, key=time_order) for user, names in images.items()}


def find_users(data_path: str | Path, num_users: int, class_folders: bool = False) -> dict[int, list[str]]:
    """The images of users 1 … num_users: {user number: paths relative to data_path, in time order}.

    class_folders and the InputErrors raised are those of `find_classes` and `find_images`.
    """
    return find_images(data_path, find_classes(data_path, num_users, class_folders))


def drop_broken(data_path: str | Path, images: dict[int, list[str]]) -> tuple[dict[int, list[str]], list[str]]:
    """Decode every image once. images: {user number: paths relative to data_path}.

    Returns (the images without the broken ones, a warning for each broken one). Raises InputError when more than
    MAX_BROKEN_SHARE of all images are broken.
    """
    decodable: dict[int, list[str]] = {user: [] for user in images}
    warnings = []
    total = sum(map(len, images.values()))
    with tqdm(total=total, desc="checking images", unit="image", disable=None) as bar:
        for user, names in images.items():
            for name in names:
                try:
                    load_image(Path(data_path) / name, 8)
                    decodable[user].append(name)
                except Exception as error:      # a broken file makes PIL raise nearly anything
                    warnings.append(printable(f"skipped {name}: {type(error).__name__}: {error}"))
                bar.update()
    if len(warnings) > MAX_BROKEN_SHARE * total:
        raise InputError(f"{len(warnings)} of {total} images in {data_path} cannot be decoded "
                         f"(at most {MAX_BROKEN_SHARE:.0%} are tolerated); the first: {warnings[0]}")
    return decodable, warnings


def paths_and_labels(images: dict[int, list[str]]) -> tuple[list[str], torch.Tensor]:
    """Flatten {user number: paths}: user by user, the paths of each in time order.

    Returns (n paths, their labels (n,) int64 = user number - 1).
    """
    paths = [path for user in images for path in sorted(images[user], key=time_order)]
    return paths, torch.tensor([user - 1 for user in images for _ in images[user]], dtype=torch.int64)
