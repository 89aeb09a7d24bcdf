"""What a recording's file may not tell of its radar: options of the converter, or radar.json beside the recordings."""
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from groundwork.errors import InputError, shortened
from groundwork.files import read_json, write_json
from groundwork.limits import CarrierHz, Count, Few, Hertz, Positive, check_limits, from_plain, to_plain

RADAR_FILE = "radar.json"
NOT_GIVEN: tuple[Any, ...] = (None, (), [], False)      # values that leave a fact to the next source

Device = Literal["xwr12xx", "xwr14xx", "xwr16xx", "xwr18xx", "xwr68xx"]
Variables = Annotated[tuple[str, ...], Field(max_length=2, description="the name of one variable, or of two: I Q")]


@dataclass(frozen=True)
class RadarSettings:
    """Facts of the radar. What is not given here is as radar.json in the recording's folder, or above it, or the
    recording's file tells it.
    """
    carrier_hz: CarrierHz | None = None  # carrier frequency; of a sweep, its middle
    prf_hz: Hertz | None = None  # chirps (or slow-time samples) per second, of each transmitter
    bandwidth_hz: Hertz | None = None  # what a chirp sweeps while it is sampled; it makes ranges of gates
    samples_per_chirp: Count | None = None  # of FMCW recordings; 1: a slow-time signal
    receivers: Few | None = None  # DCA1000: receivers that were on
    transmitters: Few | None = None  # DCA1000: transmitters that took turns, chirp by chirp
    device: Device | None = None  # DCA1000: kind of TI radar, which decides the order of the samples
    chirps_per_frame: Count | None = None  # of each transmitter, if the radar rests between frames
    frame_seconds: Positive | None = None  # from the start of a frame to that of the next
    swap_iq: bool = False  # I and Q are exchanged: turns the direction of motion round
    variable: Variables = ()  # .mat, .npz: which variable to read, or two: I Q

    def over(self, other: "RadarSettings") -> "RadarSettings":
        """`other`, with the values that are given here in their place."""
        return replace(other, **{name: value for name, value in vars(self).items() if value not in NOT_GIVEN})

    def to_plain(self) -> dict[str, Any]:
        """The values that are given, as JSON's types."""
        return {name: value for name, value in to_plain(self).items() if value not in NOT_GIVEN}

    def write(self, folder: Path) -> None:
        """Write radar.json."""
        write_json(folder / RADAR_FILE, self.to_plain())


def read_settings(path: Path) -> RadarSettings:
    """The settings in a radar.json. Raises InputError if it has unknown names, or values outside their limits."""
    plain = read_json(path)
    known = list(RadarSettings.__dataclass_fields__)
    if not isinstance(plain, dict) or (unknown := sorted(plain.keys() - known)):
        found = f"names {shortened(unknown)}" if isinstance(plain, dict) else f"holds a {type(plain).__name__}"
        raise InputError(f"{path} {found}; expected values of {', '.join(known)}")
    try:
        settings = from_plain(plain, RadarSettings())
        check_limits(settings)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return settings


def settings_of(file: Path, top: Path, options: RadarSettings) -> RadarSettings:
    """The settings of a recording: the options, else those of the radar.json nearest above it, up to the folder top."""
    for folder in file.parents:
        if (folder / RADAR_FILE).is_file():
            return options.over(read_settings(folder / RADAR_FILE))
        if folder == top:
            break
    return options
