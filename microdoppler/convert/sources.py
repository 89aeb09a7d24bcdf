"""Which files of a folder are recordings, and of which class each is."""
import csv
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from groundwork.errors import InputError, printable, shortened
from groundwork.images import natural_order
from microdoppler.convert.glasgow import NAME as GLASGOW_NAME
from microdoppler.convert.readers import READERS
from microdoppler.data.folders import files_below
from microdoppler.radar.image_files import RECORDINGS_FILE

# Names of what is no recording: the table of a data set; and what Infineon's Radar GUI writes beside .raw.txt, with the
# same content
NO_RECORDING = re.compile(rf"{re.escape(RECORDINGS_FILE)}|.*\.raw\.bin", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """A recording's file. path: below the input folder. label: the folder of its images. stem: what their names, below
    that folder, begin with.
    """
    path: str
    label: str
    stem: str

    def images(self, count: int, suffix: str) -> list[str]:
        """The files of its images, relative to the data set's folder."""
        return [f"{self.label}/{self.stem}_{number}{suffix}" for number in range(1, count + 1)]


def find_sources(root: Path, class_table: Path | None, class_pattern: str | None,
                 leave_out: Path) -> tuple[list[Source], str]:
    """The recordings below `root`, in natural order, and in words where their classes were read from.

    The class of a file is what the table says, a CSV with the columns path and class; else the group "class", or the
    first one, of the regular expression, in the path; else the person of a .dat file that is called as in the Glasgow
    data set; else the folder in `root` that the file is in. Files below leave_out are none.

    Raises InputError if there are none, or if the class of one is unknown or no name of a folder.
    """
    if not root.is_dir():
        raise InputError(f"--input {root} is no folder; give the one that holds the recordings")
    if class_table and class_pattern:
        raise InputError("--class_table and --class_pattern are both given; give one")
    if leave_out.resolve() in (root.resolve(), *root.resolve().parents):
        raise InputError(f"--output_dir {leave_out} holds --input {root}; give a folder of its own")
    unwanted = {class_table.resolve()} if class_table else set()
    paths = sorted((file.relative_to(root).as_posix() for file in files_below(root)
                    if file.suffix.lower() in READERS and not NO_RECORDING.fullmatch(file.name)
                    and file.resolve() not in unwanted and leave_out.resolve() not in file.resolve().parents),
                   key=natural_order)
    if not paths:
        raise InputError(f"--input {root} holds no recording; expected files {', '.join(READERS)}, in a folder per "
                         "person or class")
    if class_table:
        labels, rule = _from_table(paths, class_table), class_table.name
    elif class_pattern:
        labels, rule = _from_pattern(paths, class_pattern), "--class_pattern"
    else:
        labels, rule = _from_names(root, paths)
    for path, label in labels.items():
        if not label or PurePosixPath(label).name != label or label.startswith((".", "__")) or "\\" in label:
            raise InputError(f"the class of {path} is {label!r}; expected the name of a folder")
    return _with_stems(labels), rule


def _from_names(root: Path, paths: list[str]) -> tuple[dict[str, str], str]:
    """The classes by Glasgow's names or by folders, and in words what was used."""
    names = {path: GLASGOW_NAME.fullmatch(PurePosixPath(path).stem) for path in paths if path.lower().endswith(".dat")}
    persons = {path: f"P{match['person']}" for path, match in names.items() if match}
    folders = {path: PurePosixPath(path).parts[0] for path in paths if path not in persons}
    if lost := [path for path in folders if "/" not in path]:
        raise InputError(f"{root} holds {shortened(lost)}, whose class is unknown; expected a folder per person or "
                         "class, --class_pattern or --class_table; move what is no recording out of --input")
    rules = [text for found, text in ((folders, "the folders"), (persons, "the persons in Glasgow's names")) if found]
    return {path: {**folders, **persons}[path] for path in paths}, " and ".join(rules)


def _from_pattern(paths: list[str], pattern: str) -> dict[str, str]:
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--class_pattern {pattern} is no regular expression ({error})") from None
    if not regex.groups or regex.groupindex and "class" not in regex.groupindex:
        raise InputError(f"--class_pattern {pattern} has no group for the class; expected for example "
                         r"'(?P<class>P\d+)A01'")
    found = {path: regex.search(path) for path in paths}
    if missing := [path for path, match in found.items() if match is None]:
        raise InputError(f"--class_pattern {pattern} does not match {shortened(missing)}; it must match the path of "
                         "every recording below --input")
    group = "class" if regex.groupindex else 1
    return {path: match[group] or "" for path, match in found.items() if match}


def _from_table(paths: list[str], table: Path) -> dict[str, str]:
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            rows = list(csv.DictReader(file, delimiter=";" if ";" in header and "," not in header else ","))
        label_of = {row["path"].replace("\\", "/").strip(): (row["class"] or "").strip() for row in rows}
    except (UnicodeDecodeError, csv.Error, KeyError, AttributeError) as error:
        raise InputError(f"{table} cannot be read ({type(error).__name__}: {error}); expected a CSV table in UTF-8 "
                         "with the columns path and class") from None
    if missing := [path for path in paths if path not in label_of]:
        raise InputError(f"{table} lacks {shortened(missing)}; add a row for each recording, with its path below "
                         "--input")
    return {path: label_of[path] for path in paths}


def _with_stems(labels: dict[str, str]) -> list[Source]:
    """The recordings with the names of their images. Raises InputError if two would get the same."""
    sources: dict[tuple[str, str], Source] = {}
    for path, label in labels.items():
        stem = PurePosixPath(path).with_suffix("")
        if len(stem.parts) > 1 and stem.parts[0] == label:
            stem = PurePosixPath(*stem.parts[1:])
        twin = sources.setdefault((label, str(stem)), Source(path, label, str(stem)))
        if twin.path != path:
            raise InputError(printable(f"{twin.path} and {path} differ in their suffix only, so their images would "
                                       "have the same names; rename one, or move it out of --input"))
    return list(sources.values())
