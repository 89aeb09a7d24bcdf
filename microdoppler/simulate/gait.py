"""Persons who walk towards a radar: who they are, how they walk in one pass, and what the radar receives.

The body moves as in microdoppler.simulate.walking (Boulic et al. 1990). Its segments reflect like ellipsoids.
"""
from dataclasses import dataclass

import numpy as np

from microdoppler.radar.spectrogram import automatic_gain
from microdoppler.simulate.radar import (BLOCK, Radar, ellipsoid_rcs, fading, receive, receiver_noise, spectrogram_db)
from microdoppler.simulate.walking import Gait, Person

NUM_CLASSES = 31            # default
RADAR = Radar()
WINDOW_COLUMNS = 56         # spectrogram columns per window: 2.27 s, about four steps
HOP_COLUMNS = 14            # from window to window: 75 % overlap
AXES = RADAR.axes(WINDOW_COLUMNS)
RAMP_SECONDS = 1.2          # for reaching the walking speed, and for braking

# Ellipsoids: joints at both ends, semi-axes (depth, width) / body height, and scattering centres along the axis. There
# are several centres, because the ends of a long limb move at different speeds.
TRUNK = [("chest", "head", 0.055, 0.045, 2), ("pelvis", "chest", 0.070, 0.115, 5),
         ("left_shoulder", "right_shoulder", 0.045, 0.045, 4), ("left_hip", "right_hip", 0.045, 0.045, 3)]
LEG = [("hip", "knee", 0.036, 0.036, 8), ("knee", "ankle", 0.031, 0.031, 12), ("ankle", "toe", 0.038, 0.038, 5)]
ARM = [("shoulder", "elbow", 0.028, 0.028, 4), ("elbow", "hand", 0.022, 0.022, 5)]


@dataclass(frozen=True)
class Pass:
    """One walk towards the radar, and how well the radar receives it."""
    num_windows: int
    speed_mps: float
    start_phase: float              # phase of the walking cycle, in 0 … 1
    start_fraction: float           # speed when the first window begins, relative to speed_mps
    end_fraction: float             # speed when the last window ends, relative to speed_mps
    drift: tuple[tuple[float, float, float], ...]   # slow changes of speed: (relative size, hertz, phase in turns)
    closest_m: float                # distance to the radar along the path, at its end; determines the range
    offset_m: float                 # distance of the radar from the path, at its side; determines the aspect angle
    noise_change_db: float          # relative to radar.noise_db
    legs_db: float                  # echo of the legs, relative to what a level antenna would receive
    clutter_db: float               # remaining static clutter, relative to the whole echo
    bursts: int                     # number of bursts of interference by other radars
    burst_db: float                 # their energy, relative to the echo of one chirp

    def seconds(self, radar: Radar) -> float:
        """Duration of all windows together."""
        return (WINDOW_COLUMNS + HOP_COLUMNS * (self.num_windows - 1)) * radar.hop_seconds

    def pace(self, radar: Radar, seconds: np.ndarray) -> np.ndarray:
        """Momentary speed / speed_mps at times since the beginning of the first window, shaped like `seconds`."""
        remaining = self.seconds(radar) - seconds
        drift = sum(size * np.sin(2 * np.pi * (hertz * seconds + turns)) for size, hertz, turns in self.drift)
        return ((1 - (1 - self.start_fraction) * np.exp(-(seconds / RAMP_SECONDS) ** 2))
                * (1 - (1 - self.end_fraction) * np.exp(-(remaining / RAMP_SECONDS) ** 2)) * (1 + drift))


def subjects(num_classes: int, seed: int) -> dict[str, Person]:
    """{folder: person} for ID_1 … ID_<num_classes>."""
    return {f"ID_{user}": random_person(user, seed) for user in range(1, num_classes + 1)}


def random_person(user: int, seed: int) -> Person:
    """The person of folder ID_<user>. It does not depend on the other users or their number."""
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
    """How this person walks in one pass, and how well the radar receives it."""
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
    """The spectrogram of one pass: float32 dB after automatic_gain, (radar.window_chirps, columns).

    Columns are radar.hop_seconds apart and suffice for walk.num_windows windows. Rows are the speeds
    radar.speeds_mps().
    """
    return automatic_gain(spectrogram_db(radar, simulate_signal(person, walk, radar, rng)), WINDOW_COLUMNS)


def simulate_signal(person: Person, walk: Pass, radar: Radar, rng: np.random.Generator) -> np.ndarray:
    """What the radar receives in one pass: complex64 (chirps,)."""
    columns = WINDOW_COLUMNS + HOP_COLUMNS * (walk.num_windows - 1)
    ranges, amplitudes = scatterers(person, walk, radar, rng)
    signal = receive(radar, ranges, amplitudes)[:columns * radar.hop_chirps]
    return signal + disturbances(walk, radar, signal, rng)


def walk_along(person: Person, walk: Pass, radar: Radar) -> dict[str, np.ndarray]:
    """Joint positions, name → (poses, 3) in metres, every BLOCK chirps. The first pose is BLOCK chirps before the first
    chirp. The path ends at x = 0.
    """
    interval = BLOCK / radar.chirp_rate_hz
    seconds = np.arange(-1, np.ceil(walk.seconds(radar) / interval) + 2) * interval
    pace = walk.pace(radar, seconds)
    gait = Gait(person, walk.speed_mps)
    joints = gait.joints(walk.start_phase + np.cumsum(np.sqrt(pace)) * interval * gait.cycle_hz, np.sqrt(pace))
    distance = np.cumsum(pace) * interval * walk.speed_mps
    for joint in joints.values():
        joint[:, 0] += distance - distance[-1]
    return joints


def scatterers(person: Person, walk: Pass, radar: Radar, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """All scattering centres of the body: (ranges in metres, echo amplitudes), (points, poses) each.

    An amplitude is sqrt(cross-section) / range².
    """
    joints = walk_along(person, walk, radar)
    antenna = np.array([walk.closest_m, walk.offset_m, radar.height_m])
    limbs = [(f"{side}_{start}", f"{side}_{end}", depth, width, points) for side in ("left", "right")
             for start, end, depth, width, points in LEG + ARM]
    ranges, amplitudes = [], []
    for start, end, depth, width, points in TRUNK + limbs:
        axis, middle = joints[end] - joints[start], (joints[end] + joints[start]) / 2
        length = np.linalg.norm(axis, axis=1)
        direction = (antenna - middle) / np.linalg.norm(antenna - middle, axis=1, keepdims=True)
        along, across = np.sum(direction * axis, axis=1) / length, direction[:, 1]
        through = np.sqrt(np.maximum(1 - along ** 2 - across ** 2, 0))
        girth = np.full_like(length, person.build * person.height_m)
        cross_section = ellipsoid_rcs(np.stack([depth * girth, width * girth, length / 2], axis=1),
                                      np.stack([through, across, along], axis=1)) / points
        if start.endswith(("_hip", "_knee", "_ankle")):
            cross_section *= 10 ** (walk.legs_db / 10)
        for i in range(points):
            distance = np.linalg.norm(antenna - joints[start] - axis * ((i + rng.uniform()) / points), axis=1)
            is_limb = (start, end, depth, width, points) not in TRUNK
            ranges.append(distance)
            amplitudes.append(np.sqrt(cross_section) / distance ** 2 * (fading(len(length), rng) if is_limb else 1.0))
    return np.array(ranges), np.array(amplitudes)


def disturbances(walk: Pass, radar: Radar, signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Receiver noise, remaining static clutter and interference by other radars: complex64 (chirps,)."""
    columns = len(signal) // radar.hop_chirps
    rms = np.sqrt(np.mean(np.square(np.abs(signal.reshape(columns, radar.hop_chirps))), axis=1))
    noise = receiver_noise(radar, len(signal), walk.noise_change_db, rng)
    clutter = rng.standard_normal((columns, 2)).view(np.complex128)[:, 0] * rms * 10 ** (walk.clutter_db / 20)
    total = noise + np.interp(np.arange(len(signal)) / radar.hop_chirps, np.arange(columns), clutter)
    for _ in range(walk.bursts):
        first = int(rng.integers(columns))
        for column in range(first, min(first + int(rng.integers(1, 16)), columns)):
            hit = column * radar.hop_chirps + int(rng.uniform(0.2, 0.8) * radar.window_chirps)
            amplitude = rms[column] * 10 ** ((walk.burst_db + rng.normal(0, 4)) / 20)
            # Only two chirps, so the burst appears in all frequency bins.
            total[hit:hit + 2] += amplitude * np.exp(2j * np.pi * rng.uniform(size=2))
    return total.astype(np.complex64)


def describe(person: Person) -> dict:
    """Ground truth for estimators, at the person's preferred speed."""
    return {"cadence_hz": 2 * person.cycle_hz(), "cycle_hz": person.cycle_hz()}


def describe_pass(person: Person, walk: Pass, num_images: int) -> dict:
    """Ground truth for estimators, in a pass and in each of its first num_images windows."""
    cadence_hz = 2 * person.cycle_hz(walk.speed_mps)
    times = np.linspace(0, WINDOW_COLUMNS * RADAR.hop_seconds, 50)
    paces = [walk.pace(RADAR, times + i * HOP_COLUMNS * RADAR.hop_seconds) for i in range(num_images)]
    return {"cadence_hz": cadence_hz,
            "window_cadence_hz": [round(cadence_hz * float(np.mean(np.sqrt(pace))), 4) for pace in paces],
            "window_speed_mps": [round(walk.speed_mps * float(np.mean(pace)), 4) for pace in paces]}
