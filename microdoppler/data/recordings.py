"""Recordings: which images of a user come from one continuous recording, and in which order they were taken.

The first of these sources that exists is used:

1. `--recording_pattern REGEX`, matched against the path below the class folder, without suffix. Its groups are named
   recording, number, subject and condition, of which only recording is needed. Without names, group 1 is the recording
   and group 2 the number.
2. The table recordings.csv in the data folder, with the columns path, recording, number, and if wanted subject and
   condition. Paths are relative to the data folder. The simulator writes such a table.
3. The names. Images whose names differ in digits only have one stem. Of the numbers in such names, the place in time is
   the last that differs between names that agree up to there. What stands before it names the recording:
   walk1_case2_007.jpg is number 7 of the recording walk1_case2_*.

Numbers are compared as numbers, and equal ones are ordered by name (Doppler9 before Doppler10).
"""
import csv
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Callable, Sequence

from groundwork.errors import InputError, shortened
from groundwork.images import natural_order
from microdoppler.radar.image_files import RECORDINGS_FILE as TABLE

FROM_NAMES = "the file names"
LARGEST_NUMBER = 2 ** 62        # differences of larger ones would overflow; then the order alone counts


@dataclass(frozen=True)
class Recording:
    """One continuous recording of a user. The names of the fields are keys in data_split.json.

    name: what tells it from the user's other recordings, "" if it is unknown which images belong together; images:
    paths relative to the data folder, in time order; numbers: their places in time, in any unit; subject, condition:
    who was recorded and how, "" if not given.
    """
    name: str
    images: list[str]
    numbers: list[int]
    subject: str = ""
    condition: str = ""

    def __post_init__(self) -> None:
        if not (isinstance(self.images, list) and isinstance(self.numbers, list) and self.images
                and len(self.images) == len(self.numbers) and all(isinstance(number, int) for number in self.numbers)):
            raise InputError(f"recording {self.name!r}: expected a whole number for each of its images")

    @property
    def is_known(self) -> bool:
        """Whether it is known that these images, and no others, are one recording."""
        return bool(self.name)


RecordingsOfUsers = dict[int, list[Recording]]      # {user number: recordings in natural order of their names}


def all_images(recordings: Sequence[Recording]) -> list[str]:
    """The images of all recordings of one user, recording by recording, in time order."""
    return [image for recording in recordings for image in recording.images]


def find_recordings(root: Path, images: dict[int, list[str]], pattern: str | None = None
                    ) -> tuple[RecordingsOfUsers, str]:
    """The recordings of images {user number: paths relative to root}, and in words where they were read from.

    pattern: the value of --recording_pattern. Raises InputError when the pattern or the table does not fit the images.
    """
    if pattern is not None:
        regex = _compiled(pattern)
        return ({user: _grouped([_matched(path, regex) for path in paths]) for user, paths in images.items()},
                "--recording_pattern")
    if (root / TABLE).is_file():
        rows = _read_table(root / TABLE)
        if missing := [path for paths in images.values() for path in paths if path not in rows]:
            raise InputError(f"{root / TABLE} lacks {shortened(missing)}; add a row for each image, or move the table "
                             "away to have recordings read from the names")
        return {user: _grouped([rows[path] for path in paths]) for user, paths in images.items()}, TABLE
    return {user: by_names(paths) for user, paths in images.items()}, FROM_NAMES


@dataclass(frozen=True)
class _Place:
    """An image's place: its recording, and its number there; None: its place among the names in natural order."""
    image: str
    recording: str
    number: int | None
    subject: str = ""
    condition: str = ""


def _grouped(places: Sequence[_Place]) -> list[Recording]:
    """The recordings of one user's images. Subject and condition belong to the name of a recording."""
    groups: dict[tuple[str, str, str], list[_Place]] = defaultdict(list)
    for place in places:
        groups[place.subject, place.condition, place.recording].append(place)
    recordings = []
    for (subject, condition, name), members in groups.items():
        ordered = sorted(members, key=lambda place: (place.number or 0, natural_order(place.image)))
        numbers = [place.number for place in ordered]
        known = [number for number in numbers if number is not None and number < LARGEST_NUMBER]
        recordings.append(Recording(" ".join(filter(None, (subject, condition, name))),
                                    [place.image for place in ordered],
                                    known if len(known) == len(ordered) else list(range(len(ordered))),
                                    subject, condition))
    return sorted(recordings, key=lambda recording: natural_order(recording.name))


def below_class_folder(path: str) -> str:
    """The path below the folder of its class, without suffix: ID_1/pass2/frame7.jpg gives pass2/frame7."""
    inner = PurePosixPath(path).with_suffix("")
    return str(PurePosixPath(*inner.parts[1:])) if len(inner.parts) > 1 and not inner.is_absolute() else str(inner)


def by_names(images: Sequence[str]) -> list[Recording]:
    """The recordings that the names of one user's images show (source 3 of the module's docstring).

    A single recording without a name, in natural order, if most names stand for themselves.
    """
    by_stem: dict[tuple[str, ...], list[tuple[str, list[str]]]] = defaultdict(list)
    for image in images:
        parts = re.split(r"(\d+)", below_class_folder(image))
        by_stem[tuple(parts[::2])].append((image, parts[1::2]))
    places = []
    for text, members in by_stem.items():
        place = _place_of_number([tuple(map(int, digits)) for _, digits in members])
        for image, digits in members:
            if place is None:
                places.append(_Place(image, image, None))
                continue
            before = "".join(part for pair in zip(text, digits[:place]) for part in pair)
            places.append(_Place(image, f"{before}{text[place]}*{''.join(text[place + 1:])}", int(digits[place])))
    recordings = _grouped(places)
    if 2 * len(recordings) > len(images) > 1:
        ordered = sorted(images, key=natural_order)
        return [Recording("", ordered, list(range(len(ordered))))]
    return recordings


def join_continued(recordings: RecordingsOfUsers, continues: Callable[[int, int], bool]) -> RecordingsOfUsers:
    """Join each recording with the one before that it continues, as where names hold a time of day and every minute
    looks like a recording. continues(user, i): whether image i of the user overlaps image i - 1."""
    joined: RecordingsOfUsers = {}
    for user, own in recordings.items():
        joined[user], count = own[:1], len(own[0].images)
        for recording in own[1:]:
            if continues(user, count):
                images = joined[user][-1].images + recording.images
                joined[user][-1] = replace(joined[user][-1], images=images, numbers=list(range(len(images))))
            else:
                joined[user].append(recording)
            count += len(recording.images)
    return joined


def one_run(images: Sequence[str]) -> list[Recording]:
    """All images of a user as one recording, in the order of the last number in their names.

    Splits that do not store recordings were made so. Their folds stay the same only if they are read so.
    """
    def number(image: str) -> int:
        found = re.findall(r"\d+", PurePosixPath(image).stem)
        return min(int(found[-1]), LARGEST_NUMBER) if found else -1
    ordered = sorted(images, key=lambda image: (number(image), image))
    return [Recording("all images", ordered, [number(image) for image in ordered])]


def _place_of_number(numbers: Sequence[tuple[int, ...]]) -> int | None:
    """The last place at which tuples differ that agree before it; None if no two tuples differ.

    numbers: (n, places), the numbers in names of one stem.
    """
    for place in reversed(range(len(numbers[0]))):
        seen: dict[tuple[int, ...], int] = {}
        if any(seen.setdefault(number[:place], number[place]) != number[place] for number in numbers):
            return place
    return None


def _compiled(pattern: str) -> re.Pattern:
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--recording_pattern {pattern} is no regular expression ({error})") from None
    if unknown := regex.groupindex.keys() - {"recording", "number", "subject", "condition"}:
        raise InputError(f"--recording_pattern names the group {shortened(sorted(unknown))}; expected recording, "
                         "number, subject or condition")
    if not regex.groups or regex.groupindex and "recording" not in regex.groupindex:
        raise InputError(f"--recording_pattern {pattern} has no group for the recording; expected for example "
                         r"'(?P<recording>pass\d+)_(?P<number>\d+)'")
    return regex


def _matched(path: str, regex: re.Pattern) -> _Place:
    """The place of an image by --recording_pattern. Raises InputError when its path does not match."""
    searched = below_class_folder(path)
    match = regex.search(searched)
    if match is None:
        raise InputError(f"--recording_pattern {regex.pattern} does not match {searched} (of {path}); it must match "
                         "every image's path below its class folder, without suffix")
    groups = match.groupdict() or dict(zip(("recording", "number"), match.groups()))
    number = groups.get("number")
    if number is not None and not re.fullmatch(r"[0-9]+", number):
        raise InputError(f"--recording_pattern {regex.pattern} finds the number {number!r} in {searched}; expected "
                         "digits")
    return _Place(path, groups["recording"] or "?", None if number is None else int(number),
                  groups.get("subject") or "", groups.get("condition") or "")


def _read_table(path: Path) -> dict[str, _Place]:
    """{path of an image: its place}. Raises InputError when the file is no such table."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            # Spreadsheets write semicolons where the comma is the decimal mark
            reader = csv.DictReader(file, delimiter=";" if ";" in header and "," not in header else ",")
            if missing := {"path", "recording", "number"} - set(reader.fieldnames or ()):
                raise InputError(f"{path} lacks the column {shortened(sorted(missing))}; expected path, recording, "
                                 "number, and if wanted subject and condition, with commas between them")
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error}); expected a CSV table in UTF-8") from None
    places = {}
    for line, row in enumerate(rows, start=2):
        image, number = (row["path"] or "").replace("\\", "/"), row["number"] or ""
        if not re.fullmatch(r" *[0-9]+ *", number) or not row["recording"]:
            raise InputError(f"{path}, line {line}: recording {row['recording']!r}, number {number!r}; expected a name "
                             "and a whole number")
        if image in places:
            raise InputError(f"{path}, line {line} names {image} again; expected each image once")
        places[image] = _Place(image, row["recording"], int(number), row.get("subject") or "",
                               row.get("condition") or "")
    return places


def describe_recordings(recordings: RecordingsOfUsers, source: str) -> str:
    """One line to print: where order and recordings come from, and how many there are."""
    unknown = [user for user, own in recordings.items() if not own[0].is_known]
    if len(unknown) == len(recordings):
        return ("recordings: cannot tell from the file names which images belong together; they are taken in the "
                "natural order of their names. If they are windows of recordings, say which with --recording_pattern "
                f"or {TABLE}")
    counts = [len(own) for own in recordings.values()]
    first = next(own[0] for own in recordings.values() if own[0].is_known)
    number = f"{counts[0]}" if len(set(counts)) == 1 else f"{min(counts)} … {max(counts)}"
    return (f"recordings: {number} per user, from {source}; {first.name} begins with {Path(first.images[0]).name}"
            + (f"; cannot tell for {len(unknown)} users" if unknown else ""))
