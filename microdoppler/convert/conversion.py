"""Write a data set from recordings. A repeated run writes what is missing, and changes nothing else."""
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Sequence

from groundwork.errors import InputError, differences, shortened
from groundwork.files import digest_file, read_json, write_json
from groundwork.limits import to_plain
from groundwork.lock import sole_writer
from groundwork.progress import Progress
from microdoppler.convert.processing import (PROCESSING_VERSION, Plan, Processing, Spectrogram, make_plan,
                                             make_spectrogram)
from microdoppler.convert.readers import read_recording
from microdoppler.convert.recording import Recording
from microdoppler.convert.sources import Source
from microdoppler.figures.axes import write_axes
from microdoppler.radar.image_files import RECORDINGS_FILE, SUFFIXES, write_recordings, write_windows
from microdoppler.radar.settings import RadarSettings, settings_of

CONVERSION_FILE = "conversion.json"
TOLD = ("carrier_hz", "prf_hz", "column_seconds")       # the parts of a plan that a radar decides
ANEW = "choose another --output_dir, or write this one anew with --force"


def open_spectrogram(root: Path, source: Source, settings: RadarSettings, options: Processing
                     ) -> tuple[Recording, Plan, Spectrogram]:
    """A recording, the sizes that follow, and its spectrogram. Raises InputError, with the file's path."""
    recording = read_recording(root / source.path, settings)
    try:
        plan = make_plan(recording, options)
        return recording, plan, make_spectrogram(recording, plan, options)
    except InputError as error:
        raise InputError(f"{root / source.path}: {error}") from None


@dataclass
class Conversion:
    """What conversion.json keeps: how the images were made, and of which recordings. The names are its keys.

    options: of Processing. plan: of Plan, once a recording was read. recordings: by their paths, `class`, `sha256` of
    the file, `radar` (settings), and `images`, the names of the files. In the file, `processing_version` is added.
    """
    folder: Path
    options: dict[str, Any]
    plan: dict[str, Any] | None
    recordings: dict[str, dict[str, Any]]

    @staticmethod
    def open(folder: Path, options: dict[str, Any], force: bool) -> "Conversion":
        """The conversion in a folder, or a new one.

        Raises InputError when the folder holds other things or, unless force removes them, images with other options
        or of another version of the processing.
        """
        path = folder / CONVERSION_FILE
        new = Conversion(folder, options, None, {})
        if not path.is_file():
            if other := [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]:
                raise InputError(f"--output_dir {folder} holds {shortened(sorted(other))}, and no conversion; choose "
                                 "another, or an empty one")
            return new
        try:
            kept = read_json(path)
            found = Conversion(folder, kept["options"], kept["plan"], kept["recordings"])
            changed = differences(found.options, options)
            outdated = differences(kept, {"processing_version": PROCESSING_VERSION})
            has_images = any(entry["images"] for entry in found.recordings.values())
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is not what the converter writes ({type(error).__name__}: {error}); choose "
                             "another --output_dir") from None
        if force or not has_images:     # nothing was written yet: other options do no harm
            found.remove_images()
            return new
        if outdated:
            raise InputError(f"{folder} was converted by another version of the program, so new images would not match "
                             f"those in it: {outdated}; {ANEW}")
        if changed:
            raise InputError(f"{folder} was converted with other options: {changed}; go back to these, or {ANEW}")
        return found

    def write(self) -> None:
        """Write conversion.json."""
        write_json(self.folder / CONVERSION_FILE,
                   {"processing_version": PROCESSING_VERSION, "options": self.options, "plan": self.plan,
                    "recordings": self.recordings})

    def remove_images(self) -> None:
        """Remove all images that were written, and folders that are empty then."""
        for name in [name for entry in self.recordings.values() for name in entry["images"]]:
            (self.folder / name).unlink(missing_ok=True)
            for parent in list(Path(name).parents)[:-1]:
                with suppress(OSError):         # it is not empty, or is gone
                    (self.folder / parent).rmdir()

    def has(self, path: str, now: dict[str, Any]) -> bool:
        """Whether all images of a recording are there. Raises InputError if they were made of another one."""
        entry = self.recordings.get(path)
        if entry is None:
            return False
        if changed := differences(entry, now):
            raise InputError(f"{path} was converted when it was another: {changed}; restore it, or {ANEW}")
        return all((self.folder / name).is_file() for name in entry["images"])


def convert(root: Path, sources: Sequence[Source], output_dir: Path, radar: RadarSettings, options: Processing,
            force: bool = False) -> Conversion:
    """Write the images of all recordings, with recordings.csv, axes.json and conversion.json, to output_dir.

    Raises InputError when a recording cannot be read or is of another radar than the others, when output_dir holds
    other things, or when no recording is long enough for an image.
    """
    with sole_writer(output_dir):
        conversion = Conversion.open(output_dir, to_plain(options), force)
        if gone := sorted(conversion.recordings.keys() - {source.path for source in sources}):
            raise InputError(f"{output_dir} was made of {shortened(gone)}, too, which {root} lacks now; restore them, "
                             f"or {ANEW}")
        for source in Progress(sources, desc="convert", unit="recording"):
            settings = settings_of(root / source.path, root, radar)
            entry = {"class": source.label, "sha256": digest_file(root / source.path), "radar": settings.to_plain()}
            if not conversion.has(source.path, entry):
                _convert_one(conversion, root, source, settings, options, entry)
        if not any(entry["images"] for entry in conversion.recordings.values()):
            raise InputError(f"all recordings in {root} are shorter than an image ({options.window_seconds:g} s); give "
                             "a shorter --window_seconds, or check prf_hz")
        assert conversion.plan is not None
        plan = Plan(**conversion.plan)
        write_axes(output_dir, plan.axes, plan.hop_seconds)
        write_recordings(output_dir / RECORDINGS_FILE, [
            (name, source.path, number) for source in sources
            for number, name in enumerate(conversion.recordings[source.path]["images"], start=1)])
    return conversion


def _convert_one(conversion: Conversion, root: Path, source: Source, settings: RadarSettings, options: Processing,
                 entry: dict[str, Any]) -> None:
    """Write the images of one recording, and before them its entry, so that nothing is written that is not listed."""
    _, plan, spectrogram = open_spectrogram(root, source, settings, options)
    conversion.plan = conversion.plan or asdict(plan)
    if conversion.plan != asdict(plan):
        changed = differences(conversion.plan, {name: getattr(plan, name) for name in TOLD})
        raise InputError(f"{root / source.path} is of another radar than the recordings before it: {changed}; convert "
                         "each kind to a data set of its own, so that all images of one have the same axes")
    images = source.images(plan.num_windows(spectrogram.levels.shape[1]), SUFFIXES[options.channels])
    conversion.recordings[source.path] = {**entry, "images": images}
    conversion.write()
    write_windows([conversion.folder / name for name in images], spectrogram.levels, plan.window_columns,
                  plan.hop_columns, (options.floor_db, options.top_db), options.image_size, options.channels)
