"""A walking human body: the positions of its joints at any time.

Boulic, Magnenat-Thalmann & Thalmann, 'A global human walking model with real-time kinematic personification', The
Visual Computer 6 (1990), give joint trajectories as functions of two quantities. One is the relative walking speed R_v
(speed / hip height, 1/s), the other is the phase of the walking cycle. Van Dorp & Groen (IEE Proc. Radar Sonar Navig.
150, 2003) and V. C. Chen ('The Micro-Doppler Effect in Radar', 2011) use the model for radar.

At phase 0 the right heel touches the ground, at phase 0.5 the left one. Axes: x forward, y to the left, z up, in
metres.
"""
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Person:
    """What distinguishes one walker. The factors multiply the values that the walking model has for everybody."""
    height_m: float = 1.75
    speed_mps: float = 1.3                  # preferred walking speed
    cadence_factor: float = 1.0             # steps per second, relative to the model's at the same speed
    hip_ratio: float = 0.53                 # hip joint's height above ground / body height (Drillis & Contini 1966)
    thigh_ratio: float = 0.5                # thigh / (thigh + lower leg)
    build: float = 1.0                      # girth of trunk and limbs
    surge: float = 1.0                      # forward swing of the trunk within a step
    arm_swing: float = 1.0                  # shoulder and elbow
    knee_lift: float = 1.0                  # knee flexion while the leg swings
    lean_deg: float = 3.0                   # trunk bent forward
    asymmetry: float = 0.0                  # the left side swings this fraction more, the right side less

    @property
    def hip_height_m(self) -> float:
        return self.hip_ratio * self.height_m

    def cycle_hz(self, speed_mps: float | None = None) -> float:
        """Walking cycles (two steps) per second, at speed_mps or else at the preferred speed. The model's relative
        cycle length is R_c = 1.346 sqrt(R_v), and its cycle time is T_c = R_c / R_v.
        """
        relative_speed = (self.speed_mps if speed_mps is None else speed_mps) / self.hip_height_m
        return self.cadence_factor * np.sqrt(relative_speed) / 1.346


def periodic_spline(phases: ArrayLike, values: ArrayLike) -> "scipy.interpolate.CubicSpline":
    """The cubic spline of period 1, with continuous curvature, through `values` at ascending `phases` within one
    period.
    """
    x, y = np.asarray(phases, float), np.asarray(values, float)
    return scipy.interpolate.CubicSpline(np.append(x, x[0] + 1), np.append(y, y[0]), bc_type="periodic")


class Gait:
    """One person's walk at one nominal speed. `joints` gives the positions of the joints at a phase of the cycle."""

    def __init__(self, person: Person, speed_mps: float):
        self.person, self.speed_mps = person, speed_mps
        self.cycle_hz = person.cycle_hz(speed_mps)
        self.relative_speed = speed_mps / person.hip_height_m
        cycle_seconds = 1 / self.cycle_hz
        self.support = float(np.clip((0.752 * cycle_seconds - 0.143) / cycle_seconds, 0.52, 0.72))  # T_s / T_c, support
        self._set_flexions()
        self._keep_stance_foot_still()

    def _set_flexions(self) -> None:
        """Set the flexion curves, in degrees, by control points over the phase. Their shapes are the paper's.

        Below R_v = 0.5 they grow with speed, as in the paper. Those of the hip and the swinging knee grow with step
        length, so that the correction in _keep_stance_foot_still stays small. Control points of the knee: contact,
        shock absorption, extension, swing; of the ankle: contact, foot flat, heel off, toe off, swing.
        """
        growth, excess = min(2 * self.relative_speed, 1.0), max(self.relative_speed - 0.5, 0.0)
        step = np.sqrt(self.relative_speed / 1.4) / self.person.cadence_factor    # step length; 1 at 1.3 m/s
        bend = 57 * step * self.person.knee_lift
        self.hip = periodic_spline([0.0, 0.3, 0.5, 0.9], [21 * step, -3 * step, -15 * step, 25 * step])
        self.knee = periodic_spline([0.0, 0.15, 0.4, self.support + 0.1, 0.98], [3, 3 + 12 * excess, 4, bend, 2])
        self.ankle = periodic_spline([0.0, 0.08, 0.48, self.support + 0.02, 0.85],
                                     [-3, -3 - 8 * growth, -3 + 11 * growth, -3 - 12 * growth, -3])
        self.elbow = periodic_spline([0.05, 0.5, 0.9], [3 + 3 * growth, 3 + 17 * growth, 3 + 5 * growth])

    def _keep_stance_foot_still(self) -> None:
        """Correct the hip's flexion, as in the paper, so that the toe stays in place on the ground until it lifts off.

        The straight line from hip to toe turns with the hip. So an arc sine gives the flexion that puts the toe at a
        target. The target moves back by speed * time. It starts where the uncorrected leg needs the smallest
        correction.
        """
        phase = np.linspace(0, 1, 100, endpoint=False)
        nominal_stride = np.ones_like(phase)
        pose = self.joints(phase, nominal_stride)
        leg = pose["right_toe"] - pose["right_hip"]
        target = -self.speed_mps / self.cycle_hz * np.mod(phase + 0.1, 1) - pose["right_hip"][:, 0]
        weight = (np.clip((phase + 0.03) / 0.1, 0, 1) * np.clip((self.support + 0.07 - phase) / 0.2, 0, 1)
                  + np.clip((phase - 0.97) / 0.1, 0, 1))
        weight = weight ** 2 * (3 - 2 * weight)
        target += np.average(leg[:, 0] - target, weights=weight)
        length = np.hypot(leg[:, 0], leg[:, 2])
        correction = np.arcsin(np.clip(target / length, -0.9, 0.9)) - np.arcsin(leg[:, 0] / length)
        self.hip = periodic_spline(phase, self.hip(phase) + np.degrees(correction) * weight)

    def joints(self, phase: np.ndarray, stride: np.ndarray) -> dict[str, np.ndarray]:
        """Joint positions at cycle phases (time,). Returns name → (time, 3) in metres.

        They are relative to the point on the ground that moves at constant speed with the walker. `stride` (time,)
        scales the movements where the momentary speed differs from the nominal one. It is sqrt(speed / nominal speed),
        because in the model step length and cadence both grow with the square root of the speed.

        Unlike in the paper, the trunk's surge has a second harmonic: measured torso lines have sharp peaks and flat
        troughs.
        """
        person, rv = self.person, self.relative_speed
        scale = person.hip_height_m * stride
        growth = 4 * rv * (1 - rv) if rv < 0.5 else 1.0                               # as in the paper
        step = 4 * np.pi * (phase + 0.625 - self.support)
        pelvis = np.stack([
            scale * 0.016 * growth * person.surge * (np.sin(step) + 0.2 * np.sin(2 * step)),
            -scale * 0.032 * growth * np.sin(2 * np.pi * (phase - 0.1)),
            person.hip_height_m + scale * 0.015 * rv * (np.sin(2 * np.pi * (2 * phase - 0.35)) - 1)], axis=-1)
        torsion = np.radians(4 * rv) * stride * np.cos(2 * np.pi * phase)           # right hip in front at phase 0
        nod = np.radians(growth / 2) * stride * np.sin(2 * np.pi * (2 * phase - 0.1))  # pelvis 2°, spine less
        lean = np.radians(person.lean_deg) + nod
        chest = pelvis + 0.288 * person.height_m * _sagittal(np.pi - lean)
        body = {"pelvis": pelvis, "chest": chest, "head": chest + 0.182 * person.height_m * _sagittal(np.pi - lean / 2)}
        for side, sign, own_phase in (("right", -1, phase), ("left", 1, phase + 0.5)):
            swing = stride * (1 + sign * person.asymmetry)
            body.update(self._leg(side, pelvis + _across(sign * 0.0955 * person.height_m, torsion), own_phase, swing))
            body.update(self._arm(side, chest + _across(sign * 0.129 * person.height_m, -torsion), own_phase, swing))
        return body

    def _leg(self, side: str, hip: np.ndarray, phase: np.ndarray, swing: np.ndarray) -> dict[str, np.ndarray]:
        """Joints of one leg below a hip at (time, 3): name → (time, 3). swing, (time,), scales the angles."""
        person = self.person
        length = person.hip_height_m - 0.039 * person.height_m                     # without the ankle's height
        thigh = np.radians(self.hip(phase)) * swing
        shank = thigh - np.radians(self.knee(phase)) * swing
        foot = shank + np.radians(self.ankle(phase)) * swing + np.pi / 2
        knee = hip + person.thigh_ratio * length * _sagittal(thigh)
        ankle = knee + (1 - person.thigh_ratio) * length * _sagittal(shank)
        toe = ankle + 0.11 * person.height_m * _sagittal(foot)
        return {f"{side}_hip": hip, f"{side}_knee": knee, f"{side}_ankle": ankle, f"{side}_toe": toe}

    def _arm(self, side: str, shoulder: np.ndarray, phase: np.ndarray, swing: np.ndarray) -> dict[str, np.ndarray]:
        """Joints of one arm below a shoulder at (time, 3): name → (time, 3). swing, (time,), scales the angles."""
        person, amplitude = self.person, 9.88 * self.relative_speed
        upper = np.radians(3 - amplitude * person.arm_swing * np.cos(2 * np.pi * phase) * swing)
        lower = upper + np.radians(self.elbow(phase) * person.arm_swing) * swing
        elbow = shoulder + 0.186 * person.height_m * _sagittal(upper)
        hand = elbow + 0.22 * person.height_m * _sagittal(lower)                   # to the middle of the fist
        return {f"{side}_shoulder": shoulder, f"{side}_elbow": elbow, f"{side}_hand": hand}


def _sagittal(angle: np.ndarray) -> np.ndarray:
    """Unit vectors (time, 3) in the plane of walking, for angles (time,) in radians. 0 points straight down, positive
    is forward.
    """
    return np.stack([np.sin(angle), np.zeros_like(angle), -np.cos(angle)], axis=-1)


def _across(offset: float, torsion: np.ndarray) -> np.ndarray:
    """The vector (time, 3) from the spine to a joint `offset` metres to its left, if the body is turned by `torsion`
    radians about the vertical axis.
    """
    return np.stack([-offset * np.sin(torsion), offset * np.cos(torsion), np.zeros_like(torsion)], axis=-1)
