"""Persons who walk towards a radar: who they are, how they walk this time, and what the radar receives.

The body is microdoppler.walking's (Boulic et al. 1990); its segments echo as ellipsoids.
"""
from dataclasses import dataclass

import numpy as np

from microdoppler.simulate.radar import (BLOCK, Radar, ellipsoid_rcs, fading, level, receive, receiver_noise,
                                         spectrogram_db)
from microdoppler.simulate.walking import Gait, Person

NUM_CLASSES = 31            # when nothing else is asked for
RADAR = Radar()
WINDOW_COLUMNS = 56         # spectrogram columns in one picture: 2.27 s, about four steps
HOP_COLUMNS = 14            # from picture to picture: 75 % overlap
RAMP_SECONDS = 1.2          # to reach walking speed, and to brake

# Ellipsoids: joints at their ends, semi-axes (depth, width) / body height, and over how many scattering centres along
# the axis the echo is spread, since the ends of a long limb move at different speeds.
TRUNK = [("chest", "head", 0.055, 0.045, 2), ("pelvis", "chest", 0.070, 0.115, 5),
         ("left_shoulder", "right_shoulder", 0.045, 0.045, 4), ("left_hip", "right_hip", 0.045, 0.045, 3)]
LEG = [("hip", "knee", 0.036, 0.036, 8), ("knee", "ankle", 0.031, 0.031, 12), ("ankle", "toe", 0.038, 0.038, 5)]
ARM = [("shoulder", "elbow", 0.028, 0.028, 4), ("elbow", "hand", 0.022, 0.022, 5)]


@dataclass(frozen=True)
class Pass:
    """One walk towards the radar, and what its surroundings make of it."""
    num_windows: int
    speed_mps: float
    start_phase: float              # of the walking cycle
    start_fraction: float           # of the speed, when the first window begins
    end_fraction: float             # of the speed, when the last window ends
    drift: tuple[tuple[float, float, float], ...]   # slow changes of speed: (fraction of the speed, hertz, turns)
    closest_m: float                # along the path, still to go at the end: the range
    offset_m: float                 # of the radar to the side of the path: the aspect angle
    noise_change_db: float          # against the radar's own noise
    legs_db: float                  # echo of the legs, against what a level antenna would receive
    clutter_db: float               # rest of the static clutter, against the whole echo
    bursts: int                     # of interference by other radars
    burst_db: float                 # their energy, against the echo of one chirp

    def seconds(self, radar: Radar) -> float:
        return (WINDOW_COLUMNS + HOP_COLUMNS * (self.num_windows - 1)) * radar.hop_seconds

    def pace(self, radar: Radar, seconds: np.ndarray) -> np.ndarray:
        """Momentary speed / nominal speed at times since the first window's beginning."""
        left = self.seconds(radar) - seconds
        drift = sum(size * np.sin(2 * np.pi * (hertz * seconds + turns)) for size, hertz, turns in self.drift)
        return ((1 - (1 - self.start_fraction) * np.exp(-(seconds / RAMP_SECONDS) ** 2))
                * (1 - (1 - self.end_fraction) * np.exp(-(left / RAMP_SECONDS) ** 2)) * (1 + drift))


def subjects(num_classes: int, seed: int) -> dict[str, Person]:
    """{folder: walker}, ID_1 … ID_<num_classes>."""
    return {f"ID_{user}": random_person(user, seed) for user in range(1, num_classes + 1)}


def random_person(user: int, seed: int) -> Person:
    """The walker behind folder ID_<user>; other users, and how many there are, have no influence."""
    rng = np.random.default_rng([seed, user])
    return Person(
        height_m=float(np.clip(rng.normal(1.72, 0.08), 1.5, 1.98)),
        speed_mps=float(np.clip(rng.normal(1.32, 0.14), 1.0, 1.65)),
        cadence_factor=float(np.clip(rng.normal(1.0, 0.06), 0.88, 1.12)),
        hip_ratio=float(np.clip(rng.normal(0.53, 0.01), 0.5, 0.56)),
        thigh_ratio=float(np.clip(rng.normal(0.5, 0.015), 0.46, 0.54)),
        build=float(rng.uniform(0.8, 1.25)),
        surge=float(rng.uniform(0.5, 1.7)),
        arm_swing=float(rng.uniform(0.5, 2.0)),
        knee_lift=float(rng.uniform(0.75, 1.15)),
        lean_deg=float(rng.uniform(0, 10)),
        asymmetry=float(np.clip(rng.normal(0, 0.03), -0.08, 0.08)),
    )


def random_pass(person: Person, rng: np.random.Generator) -> Pass:
    """How this person walks this time, and how well the radar sees it."""
    return Pass(
        num_windows=int(rng.integers(15, 26)),
        speed_mps=person.speed_mps * float(np.clip(rng.normal(1, 0.02), 0.94, 1.06)),
        start_phase=float(rng.uniform()),
        start_fraction=float(rng.choice([1.0, rng.uniform(0.2, 0.7)], p=[0.65, 0.35])),
        end_fraction=float(rng.choice([1.0, rng.uniform(0.2, 0.7)], p=[0.65, 0.35])),
        drift=tuple((float(rng.normal(0, 0.01)), float(rng.uniform(0.05, 0.4)), float(rng.uniform()))
                    for _ in range(4)),
        closest_m=float(rng.uniform(2.0, 4.0)),
        offset_m=float(rng.uniform(0.0, 1.5)),
        noise_change_db=float(rng.uniform(-5, 5)),
        legs_db=float(rng.normal(-2, 2)),
        clutter_db=float(rng.uniform(-45, -20)),
        bursts=int(rng.poisson(rng.choice([0.3, 5.0], p=[0.7, 0.3]))),
        burst_db=float(rng.uniform(-8, 5)),
    )


def simulate_pass(person: Person, walk: Pass, radar: Radar, rng: np.random.Generator) -> np.ndarray:
    """One pass's spectrogram: float32 dB against the slowly followed peak, (radar.window_chirps, columns).

    Columns last radar.hop_seconds each, enough for walk.num_windows windows; rows see radar.speeds_mps().
    """
    columns = WINDOW_COLUMNS + HOP_COLUMNS * (walk.num_windows - 1)
    chirps = columns * radar.hop_chirps
    ranges, amplitudes = scatterers(person, walk, radar, rng)
    signal = receive(radar, ranges, amplitudes)[:chirps]
    return level(spectrogram_db(radar, signal + disturbances(walk, radar, signal, rng)), WINDOW_COLUMNS)


def walk_along(person: Person, walk: Pass, radar: Radar) -> dict[str, np.ndarray]:
    """Joints, name → (poses, 3) metres, every BLOCK chirps from one before the first; the path ends at x = 0."""
    interval = BLOCK / radar.chirp_rate_hz
    seconds = np.arange(-1, np.ceil(walk.seconds(radar) / interval) + 2) * interval
    pace = walk.pace(radar, seconds)
    gait = Gait(person, walk.speed_mps)
    joints = gait.joints(walk.start_phase + np.cumsum(np.sqrt(pace)) * interval * gait.cycle_hz, np.sqrt(pace))
    way = np.cumsum(pace) * interval * walk.speed_mps
    for joint in joints.values():
        joint[:, 0] += way - way[-1]
    return joints


def scatterers(person: Person, walk: Pass, radar: Radar, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Ranges in metres and echo amplitudes, sqrt(cross-section) / range², of all scattering centres (points, poses)."""
    joints = walk_along(person, walk, radar)
    antenna = np.array([walk.closest_m, walk.offset_m, radar.height_m])
    limbs = [(f"{side}_{start}", f"{side}_{end}", depth, width, points) for side in ("left", "right")
             for start, end, depth, width, points in LEG + ARM]
    ranges, amplitudes = [], []
    for start, end, depth, width, points in TRUNK + limbs:
        axis, middle = joints[end] - joints[start], (joints[end] + joints[start]) / 2
        length = np.linalg.norm(axis, axis=1)
        sight = (antenna - middle) / np.linalg.norm(antenna - middle, axis=1, keepdims=True)
        along, across = np.sum(sight * axis, axis=1) / length, sight[:, 1]
        through = np.sqrt(np.maximum(1 - along ** 2 - across ** 2, 0))
        girth = np.full_like(length, person.build * person.height_m)
        echo = ellipsoid_rcs(np.stack([depth * girth, width * girth, length / 2], axis=1),
                             np.stack([through, across, along], axis=1)) / points
        if start.endswith(("_hip", "_knee", "_ankle")):
            echo *= 10 ** (walk.legs_db / 10)
        for i in range(points):
            distance = np.linalg.norm(antenna - joints[start] - axis * ((i + rng.uniform()) / points), axis=1)
            is_limb = (start, end, depth, width, points) not in TRUNK
            ranges.append(distance)
            amplitudes.append(np.sqrt(echo) / distance ** 2 * (fading(len(length), rng) if is_limb else 1.0))
    return np.array(ranges), np.array(amplitudes)


def disturbances(walk: Pass, radar: Radar, signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Receiver noise, the rest of static clutter, and chirps hit by other radars, complex64 (chirps,)."""
    columns = len(signal) // radar.hop_chirps
    strength = np.sqrt(np.mean(np.square(np.abs(signal.reshape(columns, radar.hop_chirps))), axis=1))
    noise = receiver_noise(radar, len(signal), walk.noise_change_db, rng)
    clutter = rng.standard_normal((columns, 2)).view(np.complex128)[:, 0] * strength * 10 ** (walk.clutter_db / 20)
    out = noise + np.interp(np.arange(len(signal)) / radar.hop_chirps, np.arange(columns), clutter)
    for _ in range(walk.bursts):
        first = int(rng.integers(columns))
        for column in range(first, min(first + int(rng.integers(1, 16)), columns)):
            hit = column * radar.hop_chirps + int(rng.uniform(0.2, 0.8) * radar.window_chirps)
            amplitude = strength[column] * 10 ** ((walk.burst_db + rng.normal(0, 4)) / 20)
            out[hit:hit + 2] += amplitude * np.exp(2j * np.pi * rng.uniform(size=2))     # short, and so in all bins
    return out.astype(np.complex64)


def describe(person: Person) -> dict:
    """What estimators should find of a walker at the usual speed."""
    return {"cadence_hz": 2 * person.cycle_hz(), "cycle_hz": person.cycle_hz()}


def describe_pass(person: Person, walk: Pass, num_images: int) -> dict:
    """What estimators should find in a pass and in each of its first num_images windows."""
    cadence_hz = 2 * person.cycle_hz(walk.speed_mps)
    times = np.linspace(0, WINDOW_COLUMNS * RADAR.hop_seconds, 50)
    paces = [walk.pace(RADAR, times + i * HOP_COLUMNS * RADAR.hop_seconds) for i in range(num_images)]
    return {"cadence_hz": cadence_hz,
            "window_cadence_hz": [round(cadence_hz * float(np.mean(np.sqrt(pace))), 4) for pace in paces],
            "window_speed_mps": [round(walk.speed_mps * float(np.mean(pace)), 4) for pace in paces]}
