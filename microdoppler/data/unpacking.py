"""Unpack a data set of Hugging Face into class folders, which all other steps read.

    python -m microdoppler.unpack --source DOWNLOADED --output_dir data/unpacked --label_column person

Such a data set holds its images in parquet or arrow files, or names their classes in a metadata file. They become files
in folders once, instead of being read where they are: every later step names images by their paths (split, audit,
near-copies, figures), people look at them, and nothing else needs the package `datasets`.
"""
import io
import itertools
import math
import os
import re
import string
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Iterable, Sequence

from PIL import Image

from groundwork.command_line import quoted
from groundwork.errors import InputError, printable, shortened
from groundwork.files import atomic_path, make_folder
from groundwork.images import FORMATS, SUFFIXES
from groundwork.limits import checks_arguments
from groundwork.progress import Progress
from microdoppler.data.spectrograms import MAX_NAME_BYTES
from microdoppler.radar.image_files import RECORDINGS_FILE, write_recordings

SAVED = ("dataset_dict.json", "state.json")     # one of them is in a folder of Dataset.save_to_disk
SUFFIX_OF = {"PNG": ".png", "JPEG": ".jpg", "BMP": ".bmp", "GIF": ".gif", "WEBP": ".webp", "TIFF": ".tif"}


@dataclass(frozen=True)
class Columns:
    """The names of the columns; None: there is none, or it is not wanted."""
    image: str
    label: str
    recording: str | None
    number: str | None

    @property
    def names(self) -> list[str]:
        return [name for name in vars(self).values() if name is not None]


@dataclass(frozen=True)
class PackedImage:
    """What a data set says of an image: the path of its file, None if it has kept none; the folder of its class; its
    recording and its number there, "" and 0 if not asked for."""
    path: str | None
    folder: str
    recording: str = ""
    number: int = 0


@checks_arguments
def main(source: Path, *, output_dir: Path, image_column: str = "image", label_column: str = "label",
         recording_column: str | None = None, number_column: str | None = None) -> None:
    """Write the images of a Hugging Face data set on this disk as files, in a folder for each class.

    If it has several splits, they become output_dir/train/<class>, output_dir/test/<class> and so on. The bytes of the
    images stay as they are.

    Args:
        source: a .parquet file; or a folder with parquet files, as on the Hub; or a folder that Dataset.save_to_disk
            wrote; or one with images and metadata.csv, .jsonl or .parquet
        output_dir: a new folder
        image_column: column of the images
        label_column: column of the classes, names or numbers
        recording_column: column of the recording that an image is from; default: the file names tell, where the data
            set has kept them
        number_column: column of an image's place in its recording, a whole number; default: the order of the rows
    """
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise InputError(f"--output_dir {output_dir} exists and is not empty; choose another, or delete it")
    if number_column and not recording_column:
        raise InputError("--number_column needs --recording_column: a number is a place in a recording")
    columns = Columns(image_column, label_column, recording_column, number_column)
    make_folder(output_dir.parent)
    with tempfile.TemporaryDirectory(prefix=f".{output_dir.name}.", dir=output_dir.parent,
                                     ignore_cleanup_errors=True) as temporary:      # Windows: mapped files stay
        tables, data, lines = open_tables(source, Path(temporary, "cache")), Path(temporary, "data"), []
        for split, table in tables.items():
            lines += write_split(data / split if len(tables) > 1 else data, split, table, columns)
        if output_dir.is_dir():
            output_dir.rmdir()
        data.rename(output_dir)     # so it is written completely or not at all
    command = quoted(["python", "-m", "microdoppler.split", "--data_path", str(output_dir)])
    print("\n".join([*lines, f"written: {output_dir}", f"next: {command}"]))


def open_tables(source: Path, cache: Path) -> dict[str, Any]:
    """{split: datasets.Dataset}. cache: folder for what the package `datasets` writes. Raises InputError if the package
    or the data set is missing, or cannot be read.
    """
    try:
        import datasets
    except ImportError as error:
        raise InputError(f"--source {source} is read by a package that cannot be imported ({error}); pip install "
                         "datasets") from None
    if not source.exists():     # the package would look for one of this name on the Hub
        raise InputError(f"--source {source} does not exist; expected a data set of Hugging Face on this disk")
    datasets.disable_progress_bars()
    try:
        if source.is_file():
            found = datasets.load_dataset("parquet", data_files=str(source), cache_dir=str(cache))
        elif any((source / name).is_file() for name in SAVED):
            found = datasets.load_from_disk(str(source))
        else:
            found = datasets.load_dataset(str(source), cache_dir=str(cache))
    except Exception as error:      # it raises many kinds of errors
        raise InputError(f"--source {source} cannot be read as a data set of Hugging Face: "
                         f"{_reason(error.__cause__ or error)}; expected a .parquet file, or a folder with such files, "
                         "of save_to_disk, or with images and metadata.csv") from None
    return dict(found) if isinstance(found, dict) else {"train": found}


def _reason(error: BaseException) -> str:
    return printable(" ".join(f"{type(error).__name__}: {error}".split()))[:300]


def write_split(folder: Path, split: str, table: Any, columns: Columns) -> list[str]:
    """Write the images of a split and, if there is a column of recordings, recordings.csv. Returns lines to print.

    table: datasets.Dataset. An image that is missing or broken is left out. Raises InputError if none is left, or if
    columns or values are missing.
    """
    table = _undecoded(split, table, columns)
    images = [describe(row, f"{split}, row {index}", index, columns, table.features[columns.label])
              for index, row in enumerate(table)]
    kept_names = names_below_class([image.path for image in images], [image.folder for image in images])
    written, skipped = [], []
    for index, (image, name) in enumerate(zip(Progress(images, desc=f"unpacking {split}", unit="image"),
                                              kept_names or letters(len(images)))):
        try:
            content = _content(table[index][columns.image])
            path = f"{image.folder}/{name}{_suffix(content)}"
        except (OSError, ValueError) as error:
            skipped.append(f"row {index}, {_reason(error)}")
            continue
        with atomic_path(folder / path) as temporary:
            temporary.write_bytes(content)
        written.append((path, image.recording, image.number))
    if not written:
        raise InputError(f"{split} has no image that can be read: {shortened(skipped, 1) or 'it has no rows'}")
    if columns.recording:
        write_recordings(folder / RECORDINGS_FILE, written)
    return [f"{split}: {len(written)} images of {len({image.folder for image in images})} classes",
            *([f"warning: {len(skipped)} images are left out: {shortened(skipped, 1)}"] if skipped else []),
            *_about_recordings(columns, kept_names is not None)]


def _undecoded(split: str, table: Any, columns: Columns) -> Any:
    """The table with the needed columns only, and with images as {"bytes": …, "path": …}. Raises InputError if a column
    is missing or holds no image files."""
    import datasets
    found = shortened(table.column_names)
    for role, name in vars(columns).items():
        if name is not None and name not in table.column_names:
            raise InputError(f"{split} has no column {name}, but {found}; say with --{role}_column which one it is")
    try:
        return table.select_columns(columns.names).cast_column(columns.image, datasets.Image(decode=False))
    except Exception as error:      # it raises many kinds of errors
        raise InputError(f"the column {columns.image} of {split} holds no image files ({type(error).__name__}); it has "
                         f"{found}: say with --image_column which one does") from None


def describe(row: dict, where: str, index: int, columns: Columns, label: Any) -> PackedImage:
    """What a row says of its image. index: its place in the table; label: the feature of the column of classes, a
    datasets.ClassLabel if numbers stand for names. Raises InputError, which says `where`, for impossible values.
    """
    value = row[columns.label]
    if value is None or hasattr(label, "int2str") and value < 0:        # -1 marks classes that are kept secret
        raise InputError(f"{where} has no class in the column {columns.label}; remove this split from the data set, or "
                         "such rows")
    if not isinstance(value, (str, int)):
        raise InputError(f"{where} has {str(value)[:40]} in the column {columns.label}; expected the name or number "
                         "of one class: give the right column with --label_column")
    folder = str(label.int2str(value) if hasattr(label, "int2str") else value).strip()
    if not folder or folder.startswith((".", "__")) or re.search(r"[/\\\0]", folder) or (
            len(folder.encode()) > MAX_NAME_BYTES):
        raise InputError(f"{where} has the class {folder!r}, which cannot be the name of a folder of images: rename it")
    path = (row[columns.image] or {}).get("path")
    if columns.recording is None:
        return PackedImage(path, folder)
    recording, number = row[columns.recording], str(row[columns.number] if columns.number else index)
    if recording in (None, "") or not re.fullmatch(r"[0-9]+(\.0)?", number):
        raise InputError(f"{where} has recording {recording!r} and number {number}; expected a name and a whole number")
    return PackedImage(path, folder, str(recording), int(number.removesuffix(".0")))


def names_below_class(paths: Sequence[str | None], folders: Sequence[str]) -> list[str] | None:
    """The names that the files have below the folder of their class, as run2/frame7, without suffix.

    paths: as the data set has kept them, absolute or not; folders: of the classes. None if a name is missing, stands
    twice in a class, or would not be read.
    """
    if not all(paths):
        return None
    whole = [PurePosixPath(os.path.normpath(str(path).replace("\\", "/"))) for path in paths]
    try:
        top = os.path.commonpath([path.parent for path in whole])
    except ValueError:      # some are absolute
        return None
    names = []
    for path, folder in zip(whole, folders):
        parts = path.relative_to(top).parts
        below = PurePosixPath(*parts[1 if len(parts) > 1 and parts[0] == folder else 0:])
        names.append(str(below.with_suffix("") if below.suffix.lower() in SUFFIXES else below))
    is_hidden = any(part.startswith(".") for name in names for part in name.split("/"))
    return None if is_hidden or len(set(zip(folders, names))) < len(names) else names


def letters(count: int) -> Iterable[str]:
    """Names in the order of the rows that say nothing else: aa, ab, ac, … Numbers would be read as places in time."""
    width = max(1, math.ceil(math.log(max(count, 1), len(string.ascii_lowercase)) + 1e-9))
    return ("".join(name) for name in itertools.islice(itertools.product(string.ascii_lowercase, repeat=width), count))


def _content(image: dict | None) -> bytes:
    """The bytes of an image file. Raises OSError or ValueError if there are none."""
    if not image or image["bytes"] is None and not image["path"]:
        raise ValueError("no image")
    return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()


def _suffix(content: bytes) -> str:
    """The suffix for the bytes of an image file. Raises OSError or ValueError if it is none in FORMATS."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        return SUFFIX_OF[str(image.format)]


def _about_recordings(columns: Columns, has_names: bool) -> list[str]:
    """A line that says what is known of recordings and their order, where it is not what the columns say."""
    if columns.recording:
        return [] if columns.number else [f"recordings: from the column {columns.recording}; the images of each are in "
                                          "the order of the rows. If it is another one, give --number_column"]
    return [] if has_names else ["recordings: unknown, since the data set has not kept the images' file names, or some "
                                 "stand twice in a class. If a column tells, give --recording_column and "
                                 "--number_column"]
