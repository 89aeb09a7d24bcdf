"""What lies in folders: images, files that are ignored, and outputs of the project; and which folder was meant."""
import os
import re
from collections import Counter
from pathlib import Path
from typing import Iterator, Sequence

from groundwork.errors import InputError, printable, shortened
from groundwork.files import read_json
from groundwork.images import SUFFIXES, natural_order
from groundwork.lock import OWNER

# Files by which a folder of the project's own is known, whatever its name is: of a training, a study or a measurement,
# of the split and the latents, of a simulation or a conversion; of a repository and of compiled code.
OWN_FILES = ("model-*.pt", "metrics.jsonl", "vae_range.json", "runs.csv", "fidelity.json", OWNER, "data_split.json",
             "latents.npy", "overlaps.npz", "simulation.json", "axes.json", ".git", "*.pyc")
MAX_LOOKED_AT = 500     # folders in which suggest_data_path looks for images, so that it ends soon in a home folder


def user_number(folder: str) -> int | None:
    """The number n of a folder called ID_<n>; None for other names."""
    match = re.fullmatch(r"ID_([0-9]+)", folder, re.IGNORECASE)
    return int(match[1]) if match else None


def files_below(folder: Path) -> Iterator[Path]:
    """All files in `folder` and its subfolders, without hidden ones.

    A link to a folder is followed, unless it leads to a folder that was read before or that holds `folder`. Raises
    InputError if a folder cannot be read.
    """
    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}; make it readable, or move it away")
    real = Path(folder).resolve()
    seen = {real, *real.parents}
    for current, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        target_of = {Path(current, name).resolve(): name for name in sorted(folders, reverse=True) if name[0] != "."}
        folders[:] = sorted(name for target, name in target_of.items() if target not in seen)
        seen |= target_of.keys()
        yield from (Path(current, name) for name in files if name[0] != ".")


def image_files(folder: Path) -> list[Path]:
    """The files below `folder` whose suffix is that of an image, in natural order; hidden files and folders are none.

    Raises InputError if a folder cannot be read.
    """
    found = [path for path in files_below(folder) if path.suffix.lower() in SUFFIXES]
    return sorted(found, key=lambda path: [natural_order(part) for part in path.relative_to(folder).parts])


def ignored_files(root: Path, folders: Sequence[str]) -> dict[str, int]:
    """How many files in these folders of `root` are not read because of their suffix: {suffix: count}, most first."""
    counts = Counter(path.suffix.lower() for folder in folders for path in files_below(root / folder)
                     if path.suffix.lower() not in SUFFIXES)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def describe_ignored(counts: dict[str, int]) -> str:
    """A line that says which files are ignored, and what to do; empty if there are none. counts: see ignored_files."""
    if not counts:
        return ""
    kinds = shortened([f"{count} {suffix or 'without a suffix'}" for suffix, count in counts.items()])
    return printable(f"{kinds} ignored (only {', '.join(sorted(SUFFIXES))} are read; save images among them as "
                     ".png, and convert radar recordings with python -m microdoppler.convert)")


def is_own_output(folder: Path) -> bool:
    """Whether a folder was written by this project (or by git or Python), and so is no class of a data set.

    It is known by its files, not by its name. A folder that holds such a folder is one, too, as synthetic_data/ and
    demo/ are, unless it is called ID_<n>.
    """
    children = [] if user_number(folder.name) is not None else _subfolders(folder)
    return any(_holds_own_files(place) for place in (folder, *children))


def _holds_own_files(folder: Path) -> bool:
    if any(next(folder.glob(pattern), None) for pattern in OWN_FILES):
        return True
    try:
        keys = set(read_json(folder / "manifest.json"))      # of generate.py: a synthetic set, or its control
        return "images" in keys and bool({"checkpoint", "cuts_per_hop"} & keys)
    except (InputError, TypeError):
        return False


def suggest_data_path(path: Path) -> Path | None:
    """The folder that was probably meant, where `path` is one level too low, or up to two levels too high.

    The folder that is meant holds two or more folders with images. None if `path` is such a folder itself, or if it is
    unclear which one is meant.
    """
    if not path.is_dir():
        return None
    whole = Path(os.path.abspath(path))
    if _holds_images(path) or user_number(whole.name) is not None:
        parent = whole.parent if path.name in ("", "..") else path.parent
        return parent if _holds_classes(parent) else None
    if _holds_classes(path):
        return None
    children = _subfolders(path)
    for level in (children, [below for child in children for below in _subfolders(child)][:MAX_LOOKED_AT]):
        if found := [folder for folder in level if _holds_classes(folder)]:
            return found[0] if len(found) == 1 else None
    return None


def _holds_classes(folder: Path) -> bool:
    """Whether two or more folders in `folder` hold images, or have names like ID_3 and so are classes anyway."""
    classes = (child for child in _subfolders(folder) if user_number(child.name) is not None or _holds_images(child))
    return next(classes, None) is not None and next(classes, None) is not None


def _holds_images(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(Path(entry.name).suffix.lower() in SUFFIXES and entry.name[0] != "." for entry in entries)
    except OSError:
        return False


def _subfolders(folder: Path) -> list[Path]:
    """The folders in `folder` that are not hidden; none if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(folder / entry.name for entry in entries if entry.name[0] != "." and entry.is_dir()
                          )[:MAX_LOOKED_AT]
    except OSError:
        return []
