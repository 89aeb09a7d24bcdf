"""Folders of spectrograms: found, ordered in time, checked."""
import re
from pathlib import Path

import torch
from tqdm import tqdm

from groundwork.errors import InputError, printable, shortened
from groundwork.images import load_image, time_order

SUFFIXES = {".jpg", ".jpeg", ".png"}
MAX_BROKEN_SHARE = 0.03       # beyond a few per cent it is no accident, and the user should look at the data


def user_folders(root: Path) -> dict[int, Path]:
    """The folders root/ID_<number>, in any letter case: {number: folder}. Raises InputError when two share a number."""
    folders: dict[int, Path] = {}
    for folder in sorted(root.iterdir()):
        if folder.is_dir() and (match := re.fullmatch(r"ID_([0-9]+)", folder.name, re.IGNORECASE)):
            twin = folders.setdefault(int(match[1]), folder)
            if twin is not folder:
                raise InputError(f"{twin.name} and {folder.name} in {root} have the same number; rename one of them")
    return folders


def find_users(data_path: str | Path, num_users: int) -> dict[int, list[str]]:
    """The images of users 1 … num_users: {user number: paths relative to data_path, in time order}.

    Looks for data_path/ID_<number>/*.jpg|jpeg|png in any letter case. Raises InputError when the folder, a user, or
    all images of a user are missing.
    """
    data_path = Path(data_path)
    if not data_path.is_dir():
        raise InputError(f"data_path {data_path} is no folder; expected one that holds ID_1 … ID_{num_users}")
    folders = user_folders(data_path)
    if not folders:
        raise InputError(f"no ID_<number> folder in {data_path}; expected ID_1 … ID_{num_users}, "
                         f"found {shortened(sorted(p.name for p in data_path.iterdir())) or 'nothing'}")
    missing = [user for user in range(1, num_users + 1) if user not in folders]
    if missing:
        raise InputError(f"{data_path} lacks {shortened([f'ID_{user}' for user in missing])} of num_users = "
                         f"{num_users}; found {len(folders)} ID folders: set num_users to their number")
    images = {user: [f"{folders[user].name}/{file.name}" for file in folders[user].iterdir()
                     if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")]
              for user in range(1, num_users + 1)}
    empty = [f"ID_{user}" for user, names in images.items() if not names]
    if empty:
        raise InputError(f"no .jpg, .jpeg or .png in {shortened(empty)} of {data_path}")
    return {user: sorted(names, key=time_order) for user, names in images.items()}


def drop_broken(data_path: str | Path, images: dict[int, list[str]]) -> tuple[dict[int, list[str]], list[str]]:
    """Decode every image once: (images without the broken ones, warnings that name those).

    Raises InputError when more than MAX_BROKEN_SHARE of all are broken.
    """
    whole: dict[int, list[str]] = {user: [] for user in images}
    warnings = []
    total = sum(map(len, images.values()))
    with tqdm(total=total, desc="checking images", unit="image", disable=None) as bar:
        for user, names in images.items():
            for name in names:
                try:
                    load_image(Path(data_path) / name, 8)
                    whole[user].append(name)
                except Exception as error:      # a broken file makes PIL raise nearly anything
                    warnings.append(printable(f"skipped {name}: {type(error).__name__}: {error}"))
                bar.update()
    if len(warnings) > MAX_BROKEN_SHARE * total:
        raise InputError(f"{len(warnings)} of {total} images in {data_path} cannot be decoded "
                         f"(at most {MAX_BROKEN_SHARE:.0%} are tolerated); the first: {warnings[0]}")
    return whole, warnings


def labels_of(images: dict[int, list[str]]) -> tuple[list[str], torch.Tensor]:
    """{user: paths} → (all paths, user by user, each in time order; their labels (n,) int64 = user number - 1)."""
    paths = [path for user in images for path in sorted(images[user], key=time_order)]
    return paths, torch.tensor([user - 1 for user in images for _ in images[user]], dtype=torch.int64)
