"""Drones and gestures: what their spectrograms must show by closed formulas, and what is written."""
import json

import numpy as np
import pytest
from PIL import Image

from groundwork.errors import InputError
from microdoppler.simulate.dataset import simulate_dataset
from microdoppler.simulate.drones import RADAR, TYPES, Drone, Rotor, rotor_echo
from microdoppler.simulate.gestures import (FOREARM_M, GESTURES, UPPER_ARM_M, Gesture, elbow, minimum_jerk, random_pass,
                                            wrist)
from microdoppler.simulate.gestures import RADAR as HAND_RADAR
from microdoppler.simulate.radar import BLOCK, receive, spectrogram_db


def rotor_spectrogram(drone: Drone, seconds: float = 0.3, elevation_deg: float = 0.0) -> np.ndarray:
    turns = 0.1 + drone.rotor_hz * np.arange(int(seconds * RADAR.chirp_rate_hz)) / RADAR.chirp_rate_hz
    return spectrogram_db(RADAR, rotor_echo(RADAR, drone, turns, elevation_deg))


@pytest.mark.parametrize("elevation_deg", [0.0, 40.0])
@pytest.mark.parametrize("drone", [Drone(1, 2, 0.3, 0.03, 30), Drone(1, 3, 0.119, 0.012, 90)])
def test_the_fastest_echo_of_a_rotor_is_the_tips(drone, elevation_deg):
    """Up to 2π f · radius · cosβ, whose Doppler is 2 v / λ; beyond it the spectrum breaks off."""
    speeds, peaks = RADAR.speeds_mps(), rotor_spectrogram(drone, elevation_deg=elevation_deg).max(axis=1)
    tip = 2 * np.pi * drone.rotor_hz * drone.tip_m * np.cos(np.radians(elevation_deg))
    bin_mps = speeds[0] - speeds[1]
    inside = (np.abs(speeds) > tip * drone.root_m / drone.tip_m + bin_mps) & (np.abs(speeds) < tip - bin_mps)
    assert peaks[inside].min() > peaks.max() - 3
    assert peaks[np.abs(speeds) > tip + 3 * bin_mps].max() < peaks[inside].min() - 10


@pytest.mark.parametrize("num_blades", [1, 2, 3, 4, 5])
def test_each_side_flashes_once_per_blade_and_turn(num_blades):
    """N f on either side; on both together N f when blades stand opposite each other (N even), else 2 N f."""
    drone = Drone(1, num_blades, 0.3, 0.03, 20)
    spectrum = rotor_spectrogram(drone, 0.5)
    speeds = RADAR.speeds_mps()
    for rows, expected in ((speeds > 15, num_blades * 20), (speeds < -15, num_blades * 20),
                           (np.abs(speeds) > 15, num_blades * 20 * (1 if num_blades % 2 == 0 else 2))):
        power = (10 ** (spectrum[rows & (np.abs(speeds) < 35)] / 10)).sum(axis=0)
        transform = np.abs(np.fft.rfft(power - power.mean()))
        hertz = np.fft.rfftfreq(len(power), RADAR.hop_seconds)
        strong = hertz[transform > 0.3 * transform.max()]           # the lowest of a comb of lines is its rate
        assert strong[0] == pytest.approx(expected, abs=3)


def test_a_rotor_turns_by_the_integral_of_its_speed():
    rotor, seconds = Rotor(1.02, 0.3, ((0.02, 5.0, 0.4), (-0.01, 9.0, 0.1)), 0.0), np.linspace(0, 1, 20001)
    speed = 50 * 1.02 + 50 * sum(share * np.sin(2 * np.pi * (hertz * seconds + turns))
                                 for share, hertz, turns in rotor.wander)
    found = np.gradient(rotor.turns(50, seconds), seconds)
    offset = (found - speed)[1:-1]
    assert np.ptp(offset) < 1e-2


def test_a_push_is_as_fast_as_minimum_jerk_makes_it():
    """1.875 D / T at most, at half the time; seen by the radar as its Doppler."""
    tau = np.linspace(0, 1, 10001)
    assert np.gradient(minimum_jerk(tau), tau).max() == pytest.approx(1.875, abs=1e-4)
    push = Gesture(1.0, ((0.5, (0.3, 0, 0)),))
    speed = 1.875 * 0.3 / 0.5
    seconds = (np.arange(200) - 1) * BLOCK / HAND_RADAR.chirp_rate_hz
    ranges = 1.0 - push.offset(np.clip(seconds, 0, 1))[:, 0]
    spectrum = spectrogram_db(HAND_RADAR, receive(HAND_RADAR, ranges[None], np.ones((1, 200))))
    track = HAND_RADAR.speeds_mps()[spectrum.argmax(axis=0)]
    assert track.max() == pytest.approx(speed, abs=0.09) and track.min() == pytest.approx(-speed, abs=0.09)


def test_a_wave_swings_as_often_and_as_fast_as_it_says():
    """a sin(2π n t / T): n swings, at 2π n a / T at most."""
    wave = Gesture(2.0, rounds=5, sine=(0.1, 0, 0))
    share = np.linspace(0.25, 0.75, 6001)
    place = wave.offset(share)[:, 0]
    assert np.gradient(place, share * 2.0).max() == pytest.approx(2 * np.pi * 5 * 0.1 / 2, rel=1e-3)
    assert (np.diff(np.sign(place)) != 0).sum() == 5        # half the time, 2.5 swings


@pytest.mark.parametrize("name", GESTURES)
def test_arms_keep_their_length_and_gestures_begin_and_end_at_rest(name):
    gesture = GESTURES[name]
    assert np.allclose(gesture.offset(np.array([0.0, 1.0])), 0, atol=1e-12)
    session = random_pass(gesture, np.random.default_rng(0))
    hand = wrist(gesture, session, np.linspace(0, 8, 2000))
    bend = elbow(hand)
    assert np.allclose(np.linalg.norm(bend, axis=1), UPPER_ARM_M)
    assert np.abs(np.linalg.norm(hand - bend, axis=1) - FOREARM_M).max() < 0.03


@pytest.mark.parametrize("kind, classes", [("drone", TYPES), ("gesture", GESTURES)])
def test_a_grey_data_set_on_disk(tmp_path, kind, classes):
    simulate_dataset(tmp_path, images_per_user=3, image_size=48, kind=kind, channels=1)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == sorted(classes)
    name = next(iter(classes))
    first, second = (Image.open(tmp_path / name / f"{name}_case1_1_Doppler{i}.png") for i in (1, 2))
    assert first.mode == "L" and first.size == (48, 48)
    first, second = np.asarray(first, int), np.asarray(second, int)
    assert np.abs(first[:, 12:] - second[:, :36]).mean() < 1        # 75 % overlap
    assert np.abs(first - second).mean() > 1
    truth = json.loads((tmp_path / "simulation.json").read_text())
    assert truth["kind"] == kind and truth["radar"]["carrier_hz"] > 1e9 and list(truth["classes"]) == list(classes)
    with pytest.raises(InputError, match="other settings"):
        simulate_dataset(tmp_path, images_per_user=3, image_size=48, kind=kind)


def test_more_classes_than_there_are_is_said(tmp_path):
    with pytest.raises(InputError, match="6 types of drones: helicopter_28in"):
        simulate_dataset(tmp_path / "new", num_users=7, kind="drone")
    assert not (tmp_path / "new").exists()
