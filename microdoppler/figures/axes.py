"""The time and the speeds that an image shows. Known for simulated data, and for a radar whose values are given."""
from dataclasses import dataclass
from pathlib import Path

from groundwork.errors import InputError
from groundwork.files import read_json
from groundwork.images import open_image, size_as_shown
from groundwork.preparation import Preparation, Region
from microdoppler.simulate.dataset import SIMULATION_FILE
from microdoppler.simulate.gait import WINDOW_COLUMNS
from microdoppler.simulate.radar import Radar


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

    @staticmethod
    def of_simulator() -> "PictureAxes":
        """The axes of simulated walking persons."""
        radar = Radar()
        return PictureAxes.of_radar(radar, WINDOW_COLUMNS * radar.hop_seconds)

    @staticmethod
    def of_radar(radar: Radar, window_seconds: float) -> "PictureAxes":
        """The axes of images that show all rows of a radar's spectrogram."""
        speeds = radar.speeds_mps()
        half_bin = (speeds[0] - speeds[1]) / 2          # speeds_mps() are at the middle of the rows
        return PictureAxes(window_seconds, float(speeds[-1] - half_bin), float(speeds[0] + half_bin))

    def within(self, region: Region) -> "PictureAxes":
        """The axes of a part of the image, or of more than the image; region: where it lies in the image."""
        speeds = self.highest_mps - self.lowest_mps
        return PictureAxes(self.window_seconds * region.width, self.highest_mps - region.bottom * speeds,
                           self.highest_mps - region.top * speeds)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """The argument `extent` of matplotlib's imshow, which puts the first row at the top."""
        return 0.0, self.window_seconds, self.lowest_mps, self.highest_mps


def simulated_axes(data_path: str | Path) -> PictureAxes | None:
    """The axes of simulated data, from the simulation.json in data_path; None for other data. Raises InputError if that
    file is not what the simulator writes.
    """
    path = Path(data_path) / SIMULATION_FILE
    if not path.is_file():
        return None
    try:
        truth = read_json(path)
        return PictureAxes.of_radar(Radar(**truth["radar"]), float(truth["window_seconds"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not what the simulator writes ({type(error).__name__}: {error}); "
                         "move it away") from None


def known_axes(data_path: str | Path, window_seconds: float, velocity_range_mps: tuple[float, float], file: Path,
               preparation: Preparation) -> PictureAxes | None:
    """The axes of square images of a data set; None if they are unknown.

    The given values are those of what preparation.crop keeps of an image file. If all are 0, they are not given: then
    the axes of the whole file are those of simulated data, and unknown for other data. file: any of the image files;
    preparation: what makes squares of them.
    """
    is_given = window_seconds != 0 or velocity_range_mps != (0.0, 0.0)
    axes = PictureAxes(window_seconds, *velocity_range_mps) if is_given else simulated_axes(data_path)
    if axes is None:
        return None
    with open_image(file) as image:
        size = size_as_shown(image)
    return axes.within(preparation.region_of_box(size) if is_given else preparation.region_of_file(size))
