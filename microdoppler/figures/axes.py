"""The time and the speeds that an image shows. A data set's axes.json tells them, or the user's options do."""
from dataclasses import dataclass
from pathlib import Path

from groundwork.errors import InputError
from groundwork.files import read_json, write_json
from groundwork.images import open_image, size_as_shown
from groundwork.preparation import Preparation, Region
from microdoppler.radar.spectrogram import bin_mps, speed_edges_mps

AXES_FILE, SIMULATION_FILE = "axes.json", "simulation.json"


@dataclass(frozen=True)
class PictureAxes:
    """The duration of an image, and the radial speeds at its lower and upper edge (positive: approaching).

    Raises InputError if the duration is not positive, or if the lowest speed is not below the highest.
    """
    window_seconds: float
    lowest_mps: float
    highest_mps: float

    def __post_init__(self) -> None:
        if not self.window_seconds > 0 or not self.lowest_mps < self.highest_mps:
            raise InputError(f"window_seconds is {self.window_seconds:g}, velocity_range_mps ({self.lowest_mps:g}, "
                             f"{self.highest_mps:g}); expected a time above 0, and the lowest speed below the highest")

    def within(self, region: Region) -> "PictureAxes":
        """The axes of a part of the image, or of more than the image; region: where it lies in the image."""
        speeds = self.highest_mps - self.lowest_mps
        return PictureAxes(self.window_seconds * region.width, self.highest_mps - region.bottom * speeds,
                           self.highest_mps - region.top * speeds)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """The argument `extent` of matplotlib's imshow, which puts the first row at the top."""
        return 0.0, self.window_seconds, self.lowest_mps, self.highest_mps


def write_axes(data_path: str | Path, axes: PictureAxes, hop_seconds: float) -> None:
    """Write axes.json: the axes of every image file in data_path, and the time from one window to the next."""
    write_json(Path(data_path) / AXES_FILE, {"window_seconds": axes.window_seconds, "hop_seconds": hop_seconds,
                                             "velocity_range_mps": [axes.lowest_mps, axes.highest_mps]})


def axes_of_data(data_path: str | Path) -> PictureAxes | None:
    """The axes that a data set tells, of whole image files: from its axes.json, which the simulator and the converter
    write, or from simulation.json, where an earlier version of the simulator wrote no axes.json. None if it has
    neither. Raises InputError if the file is not what these write.
    """
    path = Path(data_path) / AXES_FILE
    if not path.is_file():
        path = Path(data_path) / SIMULATION_FILE
    if not path.is_file():
        return None
    try:
        told = read_json(path)
        if path.name == AXES_FILE:
            low, high = told["velocity_range_mps"]
            return PictureAxes(float(told["window_seconds"]), float(low), float(high))
        radar, rows = told["radar"], told["radar"]["window_chirps"]
        return PictureAxes(float(told["window_seconds"]), *speed_edges_mps(
            -radar["receding_bins"], rows, bin_mps(radar["carrier_hz"], radar["chirp_rate_hz"], rows)))
    except (KeyError, TypeError, ValueError, ZeroDivisionError, InputError) as error:
        raise InputError(f"{path} is not what the simulator or the converter writes ({type(error).__name__}: {error}); "
                         "write it again, or move it away") from None


def known_axes(data_path: str | Path, window_seconds: float, velocity_range_mps: tuple[float, float], file: Path,
               preparation: Preparation) -> PictureAxes | None:
    """The axes of square images of a data set; None if they are unknown.

    The given values are those of what preparation.crop keeps of an image file. If all are 0, they are not given: then
    the axes of the whole file are those that the data set tells. file: any of the image files;
    preparation: what makes squares of them.
    """
    is_given = window_seconds != 0 or velocity_range_mps != (0.0, 0.0)
    axes = PictureAxes(window_seconds, *velocity_range_mps) if is_given else axes_of_data(data_path)
    if axes is None:
        return None
    with open_image(file) as image:
        size = size_as_shown(image)
    return axes.within(preparation.region_of_box(size) if is_given else preparation.region_of_file(size))
