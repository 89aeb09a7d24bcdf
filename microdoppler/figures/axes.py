"""What a picture's edges stand for, where that is known: of simulated data, and of a radar whose figures are given."""
from dataclasses import dataclass
from pathlib import Path

from groundwork.errors import InputError
from groundwork.files import read_json
from microdoppler.simulate.dataset import SIMULATION_FILE
from microdoppler.simulate.gait import WINDOW_COLUMNS
from microdoppler.simulate.radar import Radar


@dataclass(frozen=True)
class PictureAxes:
    """Its duration, and the radial speeds of its lowest and highest row (positive: approaching)."""
    window_seconds: float
    lowest_mps: float
    highest_mps: float

    def __post_init__(self) -> None:
        if not self.window_seconds > 0 or not self.lowest_mps < self.highest_mps:
            raise InputError(f"window_seconds {self.window_seconds:g}, speeds {self.lowest_mps:g} … "
                             f"{self.highest_mps:g} m/s; expected a time above 0, and the lowest speed below the "
                             "highest")

    @staticmethod
    def of_simulator() -> "PictureAxes":
        radar = Radar()
        return PictureAxes.of_radar(radar, WINDOW_COLUMNS * radar.hop_seconds)

    @staticmethod
    def of_radar(radar: Radar, window_seconds: float) -> "PictureAxes":
        speeds = radar.speeds_mps()
        half_bin = (speeds[0] - speeds[1]) / 2          # speeds are those of the rows' middles
        return PictureAxes(window_seconds, float(speeds[-1] - half_bin), float(speeds[0] + half_bin))

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """For matplotlib's imshow, whose first row is the top."""
        return 0.0, self.window_seconds, self.lowest_mps, self.highest_mps


def simulated_axes(data_path: str | Path) -> PictureAxes | None:
    """The axes of data that the simulator wrote, by the simulation.json beside them; None for other data."""
    path = Path(data_path) / SIMULATION_FILE
    if not path.is_file():
        return None
    try:
        truth = read_json(path)
        return PictureAxes.of_radar(Radar(**truth["radar"]), float(truth["window_seconds"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not what the simulator writes ({type(error).__name__}: {error}); "
                         "move it away") from None


def known_axes(data_path: str | Path, window_seconds: float, velocity_range_mps: tuple[float, float]
               ) -> PictureAxes | None:
    """The axes given, where they are; else the simulator's, of its data; else None. Zeros are not given."""
    if window_seconds == 0 and velocity_range_mps == (0.0, 0.0):
        return simulated_axes(data_path)
    return PictureAxes(window_seconds, *velocity_range_mps)
