"""Simulated micro-Doppler spectrograms of walking persons, drones or hand gestures. Folders and files are named like
measured ones.

    python -m microdoppler.simulate --output_dir data/simulated --num_users 31 --images_per_user 150 --seed 0
    python -m microdoppler.simulate --output_dir data/drones --kind drone --channels 1
    python -m microdoppler.simulate --output_dir recordings --format npy

Each kind is a module with the same names: RADAR, WINDOW_COLUMNS (spectrogram columns per window), HOP_COLUMNS (from
window to window), NUM_CLASSES (the default), and the functions subjects, random_pass, simulate_signal, simulate_pass,
describe and describe_pass.
"""
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from groundwork.command_line import quoted
from groundwork.errors import InputError
from groundwork.files import atomic_path, read_json, write_json
from groundwork.limits import checks_arguments
from groundwork.progress import Progress
from microdoppler.figures.axes import SIMULATION_FILE, write_axes
from microdoppler.radar.image_files import RECORDINGS_FILE, SUFFIXES, write_recordings, write_windows
from microdoppler.radar.settings import RadarSettings
from microdoppler.simulate import drones as simulated_drones
from microdoppler.simulate import gait as simulated_gait
from microdoppler.simulate import gestures as simulated_gestures
from microdoppler.simulate.radar import Radar

KINDS = {"gait": simulated_gait, "drone": simulated_drones, "gesture": simulated_gestures}


@dataclass(frozen=True)
class Recording:
    """One pass and its place in the data set. In file names, its windows are numbered from first_number on."""
    folder: str
    number: int
    scene: Any                  # Pass, Flight or Session, from the kind's random_pass
    first_number: int
    num_images: int
    rng: np.random.Generator

    @property
    def stem(self) -> str:
        """What the names of its files begin with, relative to the data set's folder."""
        return f"{self.folder}/{self.folder.replace('ID_', 'ID')}_case1_{self.number}"

    def names(self, suffix: str) -> list[str]:
        """The files of its images, relative to the data set's folder."""
        return [f"{self.stem}_Doppler{self.first_number + i}{suffix}" for i in range(self.num_images)]


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
                     image_size: int = 256, seed: int = 0, kind: str = "gait", channels: int = 3,
                     format: str = "images") -> None:
    """Write a simulated data set: image files, recordings.csv (the pass and the number of each image), axes.json, and
    simulation.json (radar, subjects, passes, and what estimators should find).

    The files are output_dir/<class>/<class>_case1_<pass>_Doppler<k>.jpg, or .png with one channel. For persons they are
    ID_<n>/ID<n>_…. With format "npy" they are what the radar receives in whole passes, <class>_case1_<pass>.npy,
    complex64 (chirps,), and radar.json takes the place of recordings.csv and axes.json.

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
    window_seconds, hop_seconds = (columns * radar.hop_seconds
                                   for columns in (simulator.WINDOW_COLUMNS, simulator.HOP_COLUMNS))
    truth = {"kind": kind, "seed": seed, "num_users": num_users, "images_per_user": images_per_user,
             "image_size": image_size, "channels": channels, **({} if format == "images" else {"format": format}),
             "window_seconds": window_seconds, "hop_seconds": hop_seconds, "radar": asdict(radar),
             "classes": {folder: describe(simulator, subjects[folder], plans[folder]) for folder in subjects}}
    claim_folder(output_dir, json.loads(json.dumps(truth)))
    recordings = [recording for own in plans.values() for recording in own]
    if format == "npy":
        describe_radar(radar).write(output_dir)
    else:
        write_axes(output_dir, radar.axes(simulator.WINDOW_COLUMNS), hop_seconds)
        write_recordings(output_dir / RECORDINGS_FILE, [
            (name, f"pass {recording.number}", recording.first_number + i) for recording in recordings
            for i, name in enumerate(recording.names(SUFFIXES[channels]))])
    with Progress(total=num_users * images_per_user, desc="simulate", unit="image") as progress:
        for recording in recordings:
            names = [f"{recording.stem}.npy"] if format == "npy" else recording.names(SUFFIXES[channels])
            paths = [output_dir / name for name in names]
            scene = (subjects[recording.folder], recording.scene, radar, recording.rng)
            if all(path.is_file() for path in paths):
                pass
            elif format == "npy":
                write_signal(paths[0], simulator.simulate_signal(*scene), radar)
            else:
                write_windows(paths, simulator.simulate_pass(*scene), simulator.WINDOW_COLUMNS, simulator.HOP_COLUMNS,
                              radar.levels_db, image_size, channels)
            progress.update(recording.num_images)


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


def describe_radar(radar: Radar) -> RadarSettings:
    """What radar.json tells the converter. A radar that rests between two spectra sends its chirps in frames."""
    settings = RadarSettings(carrier_hz=radar.carrier_hz, prf_hz=radar.chirp_rate_hz)
    return replace(settings, chirps_per_frame=radar.window_chirps,
                   frame_seconds=radar.hop_seconds) if rests(radar) else settings


def rests(radar: Radar) -> bool:
    """Whether there are chirps between two spectra that are in neither."""
    return radar.hop_chirps > radar.window_chirps


def write_signal(path: Path, signal: np.ndarray, radar: Radar) -> None:
    """Write a slow-time signal (chirps,) as complex64. Of a radar that rests, only the chirps of its bursts."""
    if rests(radar):
        signal = signal[:len(signal) // radar.hop_chirps * radar.hop_chirps]
        signal = signal.reshape(-1, radar.hop_chirps)[:, :radar.window_chirps].ravel()
    with atomic_path(path) as temporary:
        np.save(temporary, signal.astype(np.complex64))


@checks_arguments
def main(output_dir: Path, num_users: int | None = None, images_per_user: int = 150, image_size: int = 256,
         seed: int = 0, kind: Literal["gait", "drone", "gesture"] = "gait", channels: Literal[3, 1] = 3,
         format: Literal["images", "npy"] = "images") -> None:
    """Simulate what moves in front of a radar, and write its micro-Doppler spectrograms.

    Args:
        output_dir: where simulation.json, axes.json, recordings.csv and a folder for each class go.
        num_users: number of classes; default: 31 persons, or all types of drones, or all gestures.
        images_per_user: number of windows of each class; with format npy, of the last pass all windows are kept.
        image_size: height and width in pixels.
        seed: another seed gives other persons and recordings.
        kind: walking persons (in folders ID_1, ID_2, …), drones, or hand gestures (in folders of their names).
        channels: 3: colours, JPG; 1: grey, PNG.
        format: images; or npy: recordings, as the radar receives them, for python -m microdoppler.convert.
    """
    simulate_dataset(output_dir, num_users, images_per_user, image_size, seed, kind, channels, format)
    print(f"{kind}, {images_per_user} images of each class: {output_dir}")
    if format == "npy":
        print(f"next: {convert_command(output_dir, KINDS[kind], image_size, channels)}")


def convert_command(output_dir: Path, kind: ModuleType, image_size: int, channels: int) -> str:
    """The command that makes the same images of recordings that the simulator itself would have written."""
    radar, axes = kind.RADAR, kind.RADAR.axes(kind.WINDOW_COLUMNS)
    stft = [] if rests(radar) else ["--stft_seconds", f"{radar.window_chirps / radar.chirp_rate_hz:.5g}",
                                    "--stft_overlap", f"{1 - radar.hop_chirps / radar.window_chirps:.5g}"]
    options = [*stft, "--nfft", radar.window_chirps, "--clutter", "none",
               "--velocity_range_mps", f"{axes.lowest_mps:.5g}", f"{axes.highest_mps:.5g}",
               "--window_seconds", f"{axes.window_seconds:.5g}",
               "--hop_seconds", f"{kind.HOP_COLUMNS * radar.hop_seconds:.5g}",
               "--floor_db", radar.floor_db, "--top_db", radar.top_db, "--image_size", image_size,
               "--channels", channels]
    return quoted(["python", "-m", "microdoppler.convert", "--input", str(output_dir),
                   "--output_dir", f"{output_dir}_images", *map(str, options)])
