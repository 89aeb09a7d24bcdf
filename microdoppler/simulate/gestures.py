"""Hand gestures in front of a radar: hand, forearm and upper arm of a person who sits still.

The hand moves between two places with minimum jerk (Flash & Hogan, 'The coordination of arm movements', J. Neuroscience
5, 1985). For the distance D in the time T, its position is D (10 τ³ - 15 τ⁴ + 6 τ⁵) with τ = t / T, and its highest
speed is 1.875 D / T.

Axes: x towards the radar, y to the left, z up, in metres. The origin is the shoulder, and the radar is at its height.
"""
from dataclasses import dataclass

import numpy as np

from groundwork.errors import InputError
from microdoppler.radar.spectrogram import automatic_gain
from microdoppler.simulate.radar import BLOCK, Radar, fading, receive, receiver_noise, spectrogram_db

# As many bins for receding as for approaching speeds, ±2.7 m/s. The radar does not rest between bursts of chirps.
RADAR = Radar(chirp_rate_hz=2800, window_chirps=72, hop_chirps=72, receding_bins=36, noise_db=-52.0)
WINDOW_COLUMNS = 88         # spectrogram columns per window: 2.26 s, one or two gestures
HOP_COLUMNS = 22            # from window to window: 75 % overlap
UPPER_ARM_M, FOREARM_M, HAND_M = 0.31, 0.27, 0.17
REST = np.array([0.25, 0.05, -0.25])    # rest position of the wrist, from the shoulder

# Scattering centres: (number, radar cross-section of all together in m²)
TRUNK, UPPER_ARM, FOREARM, HAND = (3, 0.02), (4, 0.004), (6, 0.008), (6, 0.010)


@dataclass(frozen=True)
class Gesture:
    """One kind of gesture: movements of the wrist between stops, plus an ellipse.

    seconds: duration.
    stops: (time as a fraction of the duration, place of the wrist relative to its rest position, in metres). The wrist
        moves between them with minimum jerk.
    rounds, cosine, sine: the ellipse cosine * (1 - cos φ) + sine * sin φ, in metres, is passed `rounds` times.
    """
    seconds: float
    stops: tuple[tuple[float, tuple[float, float, float]], ...] = ()
    rounds: float = 0.0
    cosine: tuple[float, float, float] = (0, 0, 0)
    sine: tuple[float, float, float] = (0, 0, 0)

    def offset(self, share: np.ndarray) -> np.ndarray:
        """Place of the wrist relative to its rest position, (…, 3) in metres, after the fractions `share` (…) of the
        duration.
        """
        stops = ((0.0, (0, 0, 0)), *self.stops, (1.0, (0, 0, 0)))
        moves = [minimum_jerk((share - start) / max(end - start, 1e-9))[..., None] * np.subtract(there, here)
                 for (start, here), (end, there) in zip(stops, stops[1:])]
        angle = 2 * np.pi * self.rounds * share[..., None]
        swing = minimum_jerk(np.minimum(share, 1 - share)[..., None] / 0.15)     # starts and stops smoothly
        return sum(moves) + swing * (np.array(self.cosine) * (1 - np.cos(angle)) + np.array(self.sine) * np.sin(angle))


def minimum_jerk(tau: np.ndarray) -> np.ndarray:
    """The minimum-jerk curve from 0 to 1, as tau goes from 0 to 1. It is constant before and after."""
    tau = np.clip(tau, 0, 1)
    return tau ** 3 * (10 - 15 * tau + 6 * tau ** 2)


GESTURES = {
    "circle": Gesture(2.0, rounds=2, cosine=(-0.09, 0, 0), sine=(0, 0, 0.12)),
    "double_push": Gesture(1.8, ((0.2, (0.18, 0, 0.1)), (0.45, (0, 0, 0)), (0.65, (0.18, 0, 0.1)))),
    "pull": Gesture(1.6, ((0.28, (-0.2, 0, 0.02)), (0.45, (-0.2, 0, 0.02)))),
    "push": Gesture(1.6, ((0.28, (0.22, 0, 0.12)), (0.45, (0.22, 0, 0.12)))),
    "swipe": Gesture(1.6, ((0.3, (0.10, 0.3, 0.2)), (0.55, (0.10, -0.3, 0.2)))),
    "wave": Gesture(2.0, ((0.15, (0, 0, 0.3)), (0.85, (0, 0, 0.3))), rounds=5, sine=(0.06, 0.12, 0)),
}
NUM_CLASSES = len(GESTURES)


@dataclass(frozen=True)
class Session:
    """One pass: a person repeats the same gesture, each time a little differently."""
    num_windows: int
    distance_m: float               # from the radar to the shoulder
    aside_m: float                  # how far the radar is to the left of the shoulder
    executions: tuple[tuple[float, float, float], ...]      # (start in seconds, tempo, size), relative to the gesture
    breathing: tuple[float, float, float]       # movement of the trunk: (metres, hertz, phase in turns)
    noise_change_db: float          # relative to radar.noise_db


def subjects(num_classes: int, seed: int) -> dict[str, Gesture]:
    """{folder: gesture}, the first num_classes of GESTURES. The seed changes nothing: gestures are fixed."""
    if num_classes > len(GESTURES):
        raise InputError(f"num_users is {num_classes}; there are {len(GESTURES)} gestures: {', '.join(GESTURES)}")
    return dict(list(GESTURES.items())[:num_classes])


def random_pass(gesture: Gesture, rng: np.random.Generator) -> Session:
    """How a person performs the gesture in one pass, and how well the radar receives it."""
    num_windows, tempo, size = int(rng.integers(15, 26)), rng.uniform(0.8, 1.25), rng.uniform(0.75, 1.0)
    executions, begin = [], float(rng.uniform(-1, 0.5))
    while begin < pass_seconds(num_windows):
        own_tempo = float(tempo * rng.uniform(0.92, 1.08))
        executions.append((begin, own_tempo, float(size * rng.uniform(0.92, 1.08))))
        begin += gesture.seconds / own_tempo + float(rng.uniform(0.1, 0.9))
    return Session(
        num_windows=num_windows,
        distance_m=float(rng.uniform(0.8, 1.4)),
        aside_m=float(rng.uniform(-0.25, 0.25)),
        executions=tuple(executions),
        breathing=(float(rng.uniform(0.002, 0.006)), float(rng.uniform(0.2, 0.35)), float(rng.uniform())),
        noise_change_db=float(rng.uniform(-5, 5)),
    )


def pass_seconds(num_windows: int) -> float:
    """Duration of all windows together."""
    return (WINDOW_COLUMNS + HOP_COLUMNS * (num_windows - 1)) * RADAR.hop_seconds


def wrist(gesture: Gesture, session: Session, seconds: np.ndarray) -> np.ndarray:
    """Places of the wrist at times (poses,): (poses, 3) in metres from the shoulder."""
    place = np.tile(REST, (len(seconds), 1))
    for begin, tempo, size in session.executions:
        share = (seconds - begin) * tempo / gesture.seconds
        place += size * gesture.offset(np.clip(share, 0, 1))
    return place


def elbow(wrist: np.ndarray) -> np.ndarray:
    """Places of the elbow for a wrist at (poses, 3) from the shoulder. Upper arm and forearm keep their lengths, and
    the elbow is as low as possible.
    """
    reach = np.linalg.norm(wrist, axis=1, keepdims=True)
    direction = wrist / reach
    reach = np.clip(reach, FOREARM_M - UPPER_ARM_M + 0.1, FOREARM_M + UPPER_ARM_M - 0.001)
    along = (UPPER_ARM_M ** 2 - FOREARM_M ** 2 + reach ** 2) / (2 * reach)
    down = np.array([0.0, -0.3, -1.0]) - direction * (direction @ np.array([0.0, -0.3, -1.0]))[:, None]
    down /= np.linalg.norm(down, axis=1, keepdims=True)
    return along * direction + np.sqrt(np.maximum(UPPER_ARM_M ** 2 - along ** 2, 0)) * down


def simulate_pass(gesture: Gesture, session: Session, radar: Radar, rng: np.random.Generator) -> np.ndarray:
    """The spectrogram of one pass: float32 dB after automatic_gain, (radar.window_chirps, columns)."""
    return automatic_gain(spectrogram_db(radar, simulate_signal(gesture, session, radar, rng)), WINDOW_COLUMNS)


def simulate_signal(gesture: Gesture, session: Session, radar: Radar, rng: np.random.Generator) -> np.ndarray:
    """What the radar receives in one pass: complex64 (chirps,)."""
    columns = WINDOW_COLUMNS + HOP_COLUMNS * (session.num_windows - 1)
    chirps = (columns - 1) * radar.hop_chirps + radar.window_chirps
    seconds = (np.arange(-(-chirps // BLOCK) + 3) - 1) * BLOCK / radar.chirp_rate_hz
    ranges, amplitudes = scatterers(gesture, session, seconds, rng)
    signal = receive(radar, ranges, amplitudes)[:chirps]
    return signal + receiver_noise(radar, chirps, session.noise_change_db, rng)


def scatterers(gesture: Gesture, session: Session, seconds: np.ndarray,
               rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """All scattering centres of trunk and arm: (ranges in metres, echo amplitudes), (points, poses) each.

    An amplitude is sqrt(cross-section) / range². seconds: times of the poses, (poses,).
    """
    antenna = np.array([session.distance_m, session.aside_m, 0.0])
    hand = wrist(gesture, session, seconds)
    bend = elbow(hand)
    fingertips = hand + HAND_M * (hand - bend) / np.linalg.norm(hand - bend, axis=1, keepdims=True)
    size, hertz, turns = session.breathing
    chest = np.zeros_like(hand)
    chest[:, 0] = size * np.sin(2 * np.pi * (hertz * seconds + turns))
    shoulder = np.zeros_like(hand)
    ranges, amplitudes = [], []
    for start, end, (points, cross_section) in ((chest, chest + [0.0, 0.3, -0.1], TRUNK), (shoulder, bend, UPPER_ARM),
                                                (bend, hand, FOREARM), (hand, fingertips, HAND)):
        for i in range(points):
            distance = np.linalg.norm(antenna - start - (end - start) * ((i + rng.uniform()) / points), axis=1)
            ranges.append(distance)
            amplitudes.append(np.sqrt(cross_section / points) / distance ** 2 * fading(len(seconds), rng))
    return np.array(ranges), np.array(amplitudes)


def describe(gesture: Gesture) -> dict:
    """Ground truth for estimators: the wrist's highest speed, in any direction, at the gesture's own tempo and size."""
    share = np.linspace(0, 1, 2001)
    speeds = np.linalg.norm(np.gradient(gesture.offset(share), share * gesture.seconds, axis=0), axis=1)
    return {"wrist_mps": float(speeds.max())}


def describe_pass(gesture: Gesture, session: Session, num_images: int) -> dict:
    """Ground truth for estimators: the wrist's highest speed in the fastest execution of a pass."""
    return {"wrist_mps": round(describe(gesture)["wrist_mps"] * max(t * s for _, t, s in session.executions), 4)}
