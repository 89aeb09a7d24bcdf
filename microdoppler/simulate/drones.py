"""Drones that hover or fly in front of a radar: the blade flashes of their rotors.

A blade is a homogeneous line of scatterers from its root to its tip that rotates about the hub (Martin & Mulgrew,
'Analysis of the theoretical radar return signal from aircraft propeller blades', IEEE Int. Radar Conf. 1990; V. C.
Chen, 'The Micro-Doppler Effect in Radar', 2011, on rotor blades). It flashes when it is perpendicular to the line of
sight: then all its points have the same range. Their speeds differ, up to the speed of the tip.

A rotor of N blades at f turns per second flashes N f times per second on the approaching side, and as often on the
receding side. If N is even, opposite blades flash together, so both sides flash at the same time. If N is odd, the
sides take turns, and there are 2 N f flashes per second on both sides together.
"""
from dataclasses import dataclass

import numpy as np

from groundwork.errors import InputError
from microdoppler.radar.spectrogram import automatic_gain
from microdoppler.simulate.radar import Radar, receiver_noise, spectrogram_db

# K band, as in many drone radars: spans ±100 m/s. A spectrum lasts 2 ms; most rotors have longer times between flashes.
RADAR = Radar(carrier_hz=24e9, chirp_rate_hz=32e3, window_chirps=64, hop_chirps=16, receding_bins=32, noise_db=-92.0)
WINDOW_COLUMNS = 128        # spectrogram columns per window: 64 ms, about five turns of a middle-sized rotor
HOP_COLUMNS = 32            # from window to window: 75 % overlap
AIRFRAME_M2 = 0.02          # radar cross-section of a small drone without its blades


@dataclass(frozen=True)
class Drone:
    """One type of drone. All its rotors are alike; rotor_hz is their speed while it hovers."""
    num_rotors: int
    num_blades: int             # per rotor
    tip_m: float                # tip of a blade, from the hub
    root_m: float               # root of a blade, from the hub
    rotor_hz: float

    @property
    def tip_mps(self) -> float:
        """Speed of the blade tips: 2π f · radius."""
        return 2 * np.pi * self.rotor_hz * self.tip_m


TYPES = {       # names give the diameter in inches, as propellers are sold
    "helicopter_28in": Drone(num_rotors=1, num_blades=2, tip_m=0.355, root_m=0.060, rotor_hz=38),
    "hexacopter_13in": Drone(num_rotors=6, num_blades=2, tip_m=0.165, root_m=0.020, rotor_hz=65),
    "octocopter_18in": Drone(num_rotors=8, num_blades=2, tip_m=0.229, root_m=0.025, rotor_hz=48),
    "quadcopter_5in": Drone(num_rotors=4, num_blades=3, tip_m=0.064, root_m=0.008, rotor_hz=190),
    "quadcopter_9in": Drone(num_rotors=4, num_blades=2, tip_m=0.119, root_m=0.012, rotor_hz=90),
    "tricopter_10in": Drone(num_rotors=3, num_blades=3, tip_m=0.127, root_m=0.015, rotor_hz=80),
}
NUM_CLASSES = len(TYPES)


@dataclass(frozen=True)
class Rotor:
    """One rotor in one pass."""
    speed_factor: float         # relative to the type's rotor_hz; motors differ, to keep the drone level
    start_turns: float
    wander: tuple[tuple[float, float, float], ...]      # changes of its speed: (relative size, hertz, phase in turns)
    blade_db: float             # echo of 10 cm of a blade as it flashes, relative to the airframe's

    def turns(self, rotor_hz: float, seconds: np.ndarray) -> np.ndarray:
        """Angle in turns at times in seconds since the pass began, shaped like `seconds`: the integral of the momentary
        speed.
        """
        steady = self.start_turns + rotor_hz * self.speed_factor * seconds
        return steady + sum(rotor_hz * share / (2 * np.pi * hertz) * (1 - np.cos(2 * np.pi * (hertz * seconds + turns)))
                            for share, hertz, turns in self.wander)


@dataclass(frozen=True)
class Flight:
    """One pass: a part of one flight, and how well the radar receives it."""
    num_windows: int
    range_m: float
    speed_mps: float                # whole drone, towards the radar
    elevation_deg: float            # line of sight, relative to the plane of the rotors
    rotors: tuple[Rotor, ...]
    noise_change_db: float          # relative to radar.noise_db


def subjects(num_classes: int, seed: int) -> dict[str, Drone]:
    """{folder: type}, the first num_classes of TYPES. The seed changes nothing: types are fixed."""
    if num_classes > len(TYPES):
        raise InputError(f"num_users is {num_classes}; there are {len(TYPES)} types of drones: {', '.join(TYPES)}")
    return dict(list(TYPES.items())[:num_classes])


def random_pass(drone: Drone, rng: np.random.Generator) -> Flight:
    """How this drone flies in one pass, and how well the radar receives it."""
    load = float(np.clip(rng.normal(1, 0.04), 0.9, 1.1))        # rotors turn faster while climbing or carrying
    return Flight(
        num_windows=int(rng.integers(15, 26)),
        range_m=float(rng.uniform(10, 30)),
        speed_mps=float(rng.normal(0, 3)),
        elevation_deg=float(rng.uniform(5, 35)),
        rotors=tuple(Rotor(
            speed_factor=load * float(np.clip(rng.normal(1, 0.025), 0.93, 1.07)),
            start_turns=float(rng.uniform()),
            wander=tuple((float(rng.normal(0, 0.01)), float(rng.uniform(1, 12)), float(rng.uniform()))
                         for _ in range(3)),
            blade_db=float(rng.normal(-4, 2.5))) for _ in range(drone.num_rotors)),
        noise_change_db=float(rng.uniform(-5, 5)),
    )


def rotor_echo(radar: Radar, drone: Drone, turns: np.ndarray, elevation_deg: float = 0.0) -> np.ndarray:
    """Echo of a rotor's blades, complex (chirps,), at its angles `turns` (chirps,). 1 is the echo of one blade while it
    flashes.

    Martin & Mulgrew 1990. Let θ be the angle of a blade and β the elevation. A point at radius r is nearer than the hub
    by r cosβ sinθ. The mean of exp(4πi r cosβ sinθ / λ) over r = root … tip is exp(i u (tip + root) / 2) · sin(x) / x
    with x = u (tip - root) / 2 and u = 4π cosβ sinθ / λ.
    """
    echo = np.zeros(len(turns), complex)
    for blade in range(drone.num_blades):
        sine = np.sin(2 * np.pi * (turns + blade / drone.num_blades))
        u = 4 * np.pi / radar.wavelength_m * np.cos(np.radians(elevation_deg)) * sine
        middle, half = (drone.tip_m + drone.root_m) / 2, (drone.tip_m - drone.root_m) / 2
        echo += np.exp(1j * u * middle) * np.sinc(u * half / np.pi)
    return echo


def simulate_pass(drone: Drone, flight: Flight, radar: Radar, rng: np.random.Generator) -> np.ndarray:
    """The spectrogram of one pass: float32 dB after automatic_gain, (radar.window_chirps, columns)."""
    return automatic_gain(spectrogram_db(radar, simulate_signal(drone, flight, radar, rng)), WINDOW_COLUMNS)


def simulate_signal(drone: Drone, flight: Flight, radar: Radar, rng: np.random.Generator) -> np.ndarray:
    """What the radar receives in one pass: complex128 (chirps,)."""
    columns = WINDOW_COLUMNS + HOP_COLUMNS * (flight.num_windows - 1)
    chirps = (columns - 1) * radar.hop_chirps + radar.window_chirps
    seconds = np.arange(chirps) / radar.chirp_rate_hz
    length = (drone.tip_m - drone.root_m) / 0.1
    echo = 1 + sum(length * 10 ** (rotor.blade_db / 20)
                   * rotor_echo(radar, drone, rotor.turns(drone.rotor_hz, seconds), flight.elevation_deg)
                   for rotor in flight.rotors)
    ranges = flight.range_m - flight.speed_mps * seconds
    signal = np.sqrt(AIRFRAME_M2) / ranges ** 2 * np.exp(-4j * np.pi * ranges / radar.wavelength_m) * echo
    return signal + receiver_noise(radar, chirps, flight.noise_change_db, rng)


def describe(drone: Drone) -> dict:
    """Ground truth for estimators, for a type that hovers and is seen in the plane of its rotors: tip speed v, tip
    Doppler frequency 2 v / λ, and N f.
    """
    return {"tip_mps": drone.tip_mps, "tip_doppler_hz": 2 * drone.tip_mps / RADAR.wavelength_m,
            "flashes_per_second": drone.num_blades * drone.rotor_hz}


def describe_pass(drone: Drone, flight: Flight, num_images: int) -> dict:
    """Ground truth for estimators, for each rotor in a pass. Tip speeds are along the line of sight."""
    speeds = [drone.rotor_hz * rotor.speed_factor for rotor in flight.rotors]
    along = np.cos(np.radians(flight.elevation_deg))
    return {"tip_mps": [round(2 * np.pi * hertz * drone.tip_m * along, 3) for hertz in speeds],
            "flashes_per_second": [round(drone.num_blades * hertz, 3) for hertz in speeds]}
