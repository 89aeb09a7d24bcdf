"""Simulated micro-Doppler spectrograms of walking persons, drones or hand gestures. Folders and files are named like
measured ones.

    python -m microdoppler.simulate --output_dir data/simulated --num_users 31 --images_per_user 150 --seed 0
    python -m microdoppler.simulate --output_dir data/drones --kind drone --channels 1

Each kind is a module with the same names: RADAR, WINDOW_COLUMNS (spectrogram columns per window), HOP_COLUMNS (from
window to window), NUM_CLASSES (the default), and the functions subjects, random_pass, simulate_pass, describe and
describe_pass.
"""
import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from PIL import Image

from groundwork.errors import InputError
from groundwork.files import atomic_path, read_json, write_json
from groundwork.limits import checks_arguments
from groundwork.progress import Progress
from microdoppler.simulate import drones as simulated_drones
from microdoppler.simulate import gait as simulated_gait
from microdoppler.simulate import gestures as simulated_gestures
from microdoppler.simulate.radar import render_image

SIMULATION_FILE, RECORDINGS_FILE = "simulation.json", "recordings.csv"
KINDS = {"gait": simulated_gait, "drone": simulated_drones, "gesture": simulated_gestures}
SUFFIXES = {3: ".jpg", 1: ".png"}       # by number of channels: colour and grey images


@dataclass(frozen=True)
class Recording:
    """One pass and its place in the data set. In file names, its windows are numbered from first_number on."""
    folder: str
    number: int
    scene: Any                  # Pass, Flight or Session, from the kind's random_pass
    first_number: int
    num_images: int
    rng: np.random.Generator

    def names(self, suffix: str) -> list[str]:
        """The files of its images, relative to the data set's folder."""
        start = self.folder.replace("ID_", "ID") + f"_case1_{self.number}_Doppler"
        return [f"{self.folder}/{start}{self.first_number + i}{suffix}" for i in range(self.num_images)]


def plan(kind: ModuleType, folder: str, subject: Any, seeds: list[int], num_images: int) -> list[Recording]:
    """Plan as many passes of a subject as num_images windows need. Between two passes, the windows' numbers have a gap.

    seeds: the seed of the data set and the number of the subject.
    """
    recordings, number, first, left = [], 1, 1, num_images
    while left > 0:
        rng = np.random.default_rng([*seeds, number])
        scene = kind.random_pass(subject, rng)
        recordings.append(Recording(folder, number, scene, first, min(left, scene.num_windows), rng))
        left -= scene.num_windows
        first += scene.num_windows + int(rng.integers(4, 16))
        number += 1
    return recordings


def describe(kind: ModuleType, subject: Any, recordings: list[Recording]) -> dict:
    """The ground truth about one subject's images, for simulation.json: what estimators should find."""
    passes = [{"pass": recording.number, "first_number": recording.first_number, "num_images": recording.num_images,
               **asdict(recording.scene), **kind.describe_pass(subject, recording.scene, recording.num_images)}
              for recording in recordings]
    return {**asdict(subject), **kind.describe(subject), "passes": passes}


def simulate_dataset(output_dir: str | Path, num_users: int | None = None, images_per_user: int = 150,
                     image_size: int = 256, seed: int = 0, kind: str = "gait", channels: int = 3) -> None:
    """Write a simulated data set: image files, recordings.csv (the pass and the number of each image), and
    simulation.json (radar, subjects, passes, and what estimators should find).

    The files are output_dir/<class>/<class>_case1_<pass>_Doppler<k>.jpg, or .png with one channel. For persons they are
    ID_<n>/ID<n>_….

    The same seed gives the same files, whatever num_users is. If some files already exist, only the missing passes are
    simulated. Raises InputError for unusable arguments, or if output_dir holds anything but a part of exactly this data
    set.
    """
    simulator = KINDS[kind]
    num_users = simulator.NUM_CLASSES if num_users is None else num_users
    for name, value, least in (("num_users", num_users, 1), ("images_per_user", images_per_user, 1),
                               ("image_size", image_size, 8), ("seed", seed, 0)):
        if value < least:
            raise InputError(f"{name} is {value}; expected {least} or more")
    output_dir, radar = Path(output_dir), simulator.RADAR
    subjects = simulator.subjects(num_users, seed)
    plans = {folder: plan(simulator, folder, subject, [seed, number], images_per_user)
             for number, (folder, subject) in enumerate(subjects.items(), start=1)}
    truth = {"kind": kind, "seed": seed, "num_users": num_users, "images_per_user": images_per_user,
             "image_size": image_size, "channels": channels,
             "window_seconds": simulator.WINDOW_COLUMNS * radar.hop_seconds,
             "hop_seconds": simulator.HOP_COLUMNS * radar.hop_seconds, "radar": asdict(radar),
             "classes": {folder: describe(simulator, subjects[folder], plans[folder]) for folder in subjects}}
    claim_folder(output_dir, json.loads(json.dumps(truth)))
    write_recordings(output_dir / RECORDINGS_FILE, plans, SUFFIXES[channels])
    with Progress(total=num_users * images_per_user, desc="simulate", unit="image") as progress:
        for folder, recordings in plans.items():
            for recording in recordings:
                paths = [output_dir / name for name in recording.names(SUFFIXES[channels])]
                if not all(path.is_file() for path in paths):
                    spectrogram = simulator.simulate_pass(subjects[folder], recording.scene, radar, recording.rng)
                    write_images(paths, spectrogram, simulator, image_size, channels)
                progress.update(len(paths))


def claim_folder(output_dir: Path, truth: dict) -> None:
    """Write simulation.json into output_dir. Raises InputError if output_dir holds other data."""
    path = output_dir / SIMULATION_FILE
    if path.is_file():
        if read_json(path) != truth:
            raise InputError(f"{output_dir} holds a simulation with other settings (see {path}); "
                             "choose another --output_dir, or delete this one")
    elif output_dir.exists() and (not output_dir.is_dir() or any(path.is_dir() for path in output_dir.iterdir())):
        raise InputError(f"{output_dir} exists and is no simulation (no simulation.json); choose another --output_dir")
    else:
        write_json(path, truth)


def write_recordings(path: Path, plans: dict[str, list[Recording]], suffix: str) -> None:
    """Write the table of the images: from which pass each was cut, and its number there."""
    with atomic_path(path) as temporary:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "recording", "number"])
            writer.writerows([name, f"pass {recording.number}", recording.first_number + i]
                             for recordings in plans.values() for recording in recordings
                             for i, name in enumerate(recording.names(suffix)))


def write_images(paths: list[Path], spectrogram: np.ndarray, kind: ModuleType, image_size: int, channels: int) -> None:
    """Write the first len(paths) windows of a pass as JPG or PNG files. spectrogram: float32 dB, (bins, columns)."""
    for i, path in enumerate(paths):
        start = i * kind.HOP_COLUMNS
        window = spectrogram[:, start:start + kind.WINDOW_COLUMNS]
        with atomic_path(path) as temporary:
            image = Image.fromarray(render_image(kind.RADAR, window, image_size, channels))
            image.save(temporary, quality=95, subsampling=0)


@checks_arguments
def main(output_dir: Path, num_users: int | None = None, images_per_user: int = 150, image_size: int = 256,
         seed: int = 0, kind: Literal["gait", "drone", "gesture"] = "gait", channels: Literal[3, 1] = 3) -> None:
    """Simulate what moves in front of a radar, and write its micro-Doppler spectrograms.

    Args:
        output_dir: where simulation.json, recordings.csv and a folder for each class go.
        num_users: number of classes; default: 31 persons, or all types of drones, or all gestures.
        images_per_user: number of windows of each class.
        image_size: height and width in pixels.
        seed: another seed gives other persons and recordings.
        kind: walking persons (in folders ID_1, ID_2, …), drones, or hand gestures (in folders of their names).
        channels: 3: colours, JPG; 1: grey, PNG.
    """
    simulate_dataset(output_dir, num_users, images_per_user, image_size, seed, kind, channels)
    print(f"{kind}, {images_per_user} images of each class: {output_dir}")
