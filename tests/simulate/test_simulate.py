import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from groundwork.errors import InputError
from microdoppler.radar.spectrogram import automatic_gain, render_image
from microdoppler.simulate import gait as simulated_gait
from microdoppler.simulate.dataset import plan, simulate_dataset
from microdoppler.simulate.gait import HOP_COLUMNS, WINDOW_COLUMNS, Pass, random_person, simulate_pass, walk_along
from microdoppler.simulate.radar import BLOCK, Radar, ellipsoid_rcs, receive, spectrogram_db
from microdoppler.simulate.walking import Gait, Person, periodic_spline

RADAR = Radar()
STEADY = Pass(num_windows=20, speed_mps=1.3, start_phase=0.2, start_fraction=1.0, end_fraction=1.0, drift=(),
              closest_m=3.0, offset_m=0.5, noise_change_db=0.0, legs_db=0.0, clutter_db=-40.0, bursts=0, burst_db=0.0)


# --- radar ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("speed_mps", [-1.0, 0.5, 1.3, 4.4])
@pytest.mark.parametrize("radar", [RADAR, Radar(carrier_hz=24e9, chirp_rate_hz=2000.0, receding_bins=40)])
def test_a_point_at_constant_speed_lands_at_its_doppler(radar, speed_mps):
    seconds = np.arange(-1, 62) * BLOCK / radar.chirp_rate_hz
    signal = receive(radar, (20 - speed_mps * seconds)[None], np.ones((1, len(seconds))))
    spectrum = spectrogram_db(radar, signal)
    speeds = radar.speeds_mps()
    bin_mps = 299_792_458 / radar.carrier_hz / 2 * radar.chirp_rate_hz / radar.window_chirps     # v = f λ / 2
    assert np.allclose(np.diff(speeds), -bin_mps)
    assert np.abs(speeds[spectrum.argmax(axis=0)] - speed_mps).max() <= bin_mps * 0.51
    assert np.median(spectrum) < spectrum.max() - 60        # interpolation between poses adds no ghosts


def test_noise_power_per_bin_is_noise_power_per_chirp():
    rng = np.random.default_rng(0)
    noise = (rng.standard_normal(60_000) + 1j * rng.standard_normal(60_000)) / np.sqrt(2)
    power = 10 ** (spectrogram_db(RADAR, noise) / 10)
    assert power.mean() == pytest.approx(1.0, rel=0.03)


def test_rcs_of_a_sphere_and_of_an_ellipsoid_along_its_axes():
    direction = np.random.default_rng(0).normal(size=(50, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    assert np.allclose(ellipsoid_rcs(np.array([0.3, 0.3, 0.3]), direction), np.pi * 0.09)
    a, b, c = axes = np.array([0.1, 0.2, 0.5])
    principal = [b * b * c * c / (a * a), a * a * c * c / (b * b), a * a * b * b / (c * c)]     # π × radii of curvature
    assert np.allclose(ellipsoid_rcs(axes, np.eye(3)), np.pi * np.array(principal))


def test_picture_has_floor_top_and_sharp_cells():
    spectrogram = np.full((RADAR.window_chirps, WINDOW_COLUMNS), RADAR.floor_db - 5, np.float32)
    spectrogram[:RADAR.window_chirps // 2] = RADAR.top_db + 5
    image = render_image(spectrogram, RADAR.levels_db, 256)
    assert image.shape == (256, 256, 3) and image.dtype == np.uint8
    assert {tuple(pixel) for pixel in image.reshape(-1, 3)} == {(127, 0, 0), (0, 0, 127)}
    assert tuple(image[0, 0]) == (127, 0, 0)


def test_levelling_removes_the_range_but_not_the_contrast():
    rng = np.random.default_rng(0)
    spectrogram = rng.normal(size=(96, 300)).astype(np.float32)
    shifted = automatic_gain(spectrogram - 50, WINDOW_COLUMNS)
    assert np.allclose(shifted, automatic_gain(spectrogram, WINDOW_COLUMNS), atol=1e-4)
    assert shifted.max(axis=0).mean() == pytest.approx(0, abs=0.1)
    assert np.allclose(np.diff(shifted, axis=0), np.diff(spectrogram, axis=0), atol=1e-4)


# --- walking -------------------------------------------------------------------------------------------------------

def test_spline_meets_its_points_and_a_smooth_periodic_function():
    spline = periodic_spline([0.1, 0.35, 0.5, 0.93], [3.0, -2.0, 5.0, 1.0])
    assert np.allclose(spline(np.array([0.1, 0.35, 0.5, 0.93, 1.1, -0.5])), [3, -2, 5, 1, 3, 5])
    phases = np.linspace(0, 1, 24, endpoint=False)
    where = np.linspace(-1, 2, 500)
    assert np.abs(periodic_spline(phases, np.sin(2 * np.pi * phases))(where) - np.sin(2 * np.pi * where)).max() < 1e-4


def test_cycle_follows_the_model():
    person = Person(height_m=1.8, hip_ratio=0.5)
    assert person.cycle_hz(0.9) == pytest.approx(1 / 1.346)         # R_v = 1 / s: T_c = 1.346 / sqrt(R_v)
    assert person.cycle_hz(1.8) == pytest.approx(np.sqrt(2) / 1.346)


@pytest.mark.parametrize("speed_mps", [0.6, 1.3, 1.7])
def test_gait_is_periodic_symmetric_and_keeps_lengths(speed_mps):
    person = Person(asymmetry=0.0)
    gait, phase = Gait(person, speed_mps), np.linspace(0, 1, 101)
    joints, ones = gait.joints(phase, np.ones_like(phase)), np.ones_like(phase)
    later, half = gait.joints(phase + 1, ones), gait.joints(phase + 0.5, ones)
    mirror = np.array([1, -1, 1])
    for name, place in joints.items():
        assert np.allclose(place, later[name], atol=1e-9)
        if name.startswith("left_"):
            assert np.allclose(place * mirror, half[name.replace("left_", "right_")], atol=1e-9)
    leg = person.hip_height_m - 0.039 * person.height_m
    for side in ("left", "right"):
        thigh = np.linalg.norm(joints[f"{side}_knee"] - joints[f"{side}_hip"], axis=1)
        shank = np.linalg.norm(joints[f"{side}_ankle"] - joints[f"{side}_knee"], axis=1)
        assert np.allclose(thigh, leg / 2) and np.allclose(shank, leg / 2)


@pytest.mark.parametrize("speed_mps", [0.9, 1.3, 1.6])
def test_the_standing_foot_stands_and_the_other_swings(speed_mps):
    gait = Gait(Person(), speed_mps)
    phase = np.linspace(0, 1, 1001)
    toe = gait.joints(phase, np.ones_like(phase))["right_toe"][:, 0]
    over_ground = np.gradient(toe, phase) * gait.cycle_hz + speed_mps
    assert np.abs(over_ground[(phase > 0.12) & (phase < gait.support - 0.15)]).max() < 0.05 * speed_mps
    assert 2.5 < over_ground.max() / speed_mps < 4.5        # as in measured gait, where it is 3 to 4
    assert over_ground.min() > -0.1 * speed_mps


def test_the_body_goes_forward_at_the_asked_speed():
    person = random_person(1, seed=0)
    walk = dataclasses.replace(STEADY, speed_mps=1.45)
    pelvis = walk_along(person, walk, RADAR)["pelvis"][:, 0]
    poses_per_cycle = RADAR.chirp_rate_hz / BLOCK / person.cycle_hz(1.45)
    start, stop = np.interp([100, 100 + 4 * poses_per_cycle], np.arange(len(pelvis)), pelvis)
    speed = (stop - start) / (4 / person.cycle_hz(1.45))
    assert speed == pytest.approx(1.45, rel=1e-3)


def test_a_pass_speeds_up_and_brakes():
    walk = dataclasses.replace(STEADY, start_fraction=0.3, end_fraction=0.5)
    pace = walk.pace(RADAR, np.array([0.0, walk.seconds(RADAR) / 2, walk.seconds(RADAR)]))
    assert np.allclose(pace, [0.3, 1.0, 0.5], atol=1e-6)


# --- the whole -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("user", [1, 2, 3, 4])
def test_torso_line_has_the_known_cadence_and_speed(user):
    person = random_person(user, seed=0)
    walk = dataclasses.replace(STEADY, num_windows=25, speed_mps=person.speed_mps, offset_m=0.0)
    spectrogram = simulate_pass(person, walk, RADAR, np.random.default_rng(user))
    torso = RADAR.speeds_mps()[spectrogram.argmax(axis=0)]
    assert np.median(torso) == pytest.approx(walk.speed_mps, rel=0.12)
    spectrum = np.abs(np.fft.rfft((torso - torso.mean()) * np.hanning(len(torso)), 8192))
    hertz = np.fft.rfftfreq(8192, RADAR.hop_seconds)
    band = (hertz > 1.2) & (hertz < 3)
    cadence_hz = hertz[band][spectrum[band].argmax()]
    assert cadence_hz == pytest.approx(2 * person.cycle_hz(walk.speed_mps), rel=0.05)


def test_outside_the_body_there_is_floor():
    spectrogram = simulate_pass(Person(), STEADY, RADAR, np.random.default_rng(0))
    speeds = RADAR.speeds_mps()
    assert spectrogram.shape == (RADAR.window_chirps, WINDOW_COLUMNS + 19 * HOP_COLUMNS)
    assert (spectrogram[speeds > 5.4] < RADAR.floor_db).mean() > 0.98
    assert (spectrogram[speeds < -1.0] < RADAR.floor_db).mean() > 0.98
    assert (spectrogram[(speeds > 2.5) & (speeds < 4.0)] > RADAR.floor_db).mean() > 0.1       # legs


def test_data_set_on_disk(tmp_path):
    simulate_dataset(tmp_path / "a", num_users=2, images_per_user=20, image_size=256, seed=3)
    recordings = plan(simulated_gait, "ID_2", random_person(2, 3), [3, 2], 20)
    names = [name for recording in recordings for name in recording.names(".jpg")]
    assert sorted(f"ID_2/{path.name}" for path in (tmp_path / "a" / "ID_2").iterdir()) == sorted(names)
    assert names[0] == "ID_2/ID2_case1_1_Doppler1.jpg" and len(names) == 20
    assert len(list((tmp_path / "a" / "ID_1").iterdir())) == 20

    first, second = (np.asarray(Image.open(tmp_path / "a" / name), int) for name in names[:2])
    assert first.shape == (256, 256, 3)
    assert np.abs(first[:, 64:] - second[:, :192]).mean() < 3           # 75 % overlap, but for JPG
    assert np.abs(first - second).mean() > 10

    truth = json.loads((tmp_path / "a" / "simulation.json").read_text())
    person = random_person(2, 3)
    assert truth["radar"]["carrier_hz"] == RADAR.carrier_hz
    assert truth["classes"]["ID_2"]["height_m"] == person.height_m
    assert truth["classes"]["ID_2"]["cadence_hz"] == pytest.approx(2 * person.cycle_hz())
    assert sum(len(walk["window_cadence_hz"]) for walk in truth["classes"]["ID_2"]["passes"]) == 20

    simulate_dataset(tmp_path / "b", num_users=1, images_per_user=20, image_size=256, seed=3)     # same user
    for path in (tmp_path / "b" / "ID_1").iterdir():
        assert path.read_bytes() == (tmp_path / "a" / "ID_1" / path.name).read_bytes()


def test_started_again_it_makes_what_is_missing(tmp_path):
    simulate_dataset(tmp_path, num_users=2, images_per_user=3, image_size=32, seed=0)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.glob("ID_*/*")}
    lost = tmp_path / "ID_2" / "ID2_case1_1_Doppler2.jpg"
    lost.unlink()
    simulate_dataset(tmp_path, num_users=2, images_per_user=3, image_size=32, seed=0)
    assert lost.read_bytes() == before[lost][0]
    untouched = [path for path in before if path.parent.name == "ID_1"]
    assert all(path.stat().st_mtime_ns == before[path][1] for path in untouched)
    assert Image.open(lost).size == (32, 32)


def test_recordings_are_what_the_pictures_are_made_of(tmp_path):
    """Of a radar that rests, the chirps of its frames alone; a lost file is made again, and images are another set."""
    simulate_dataset(tmp_path, num_users=1, images_per_user=1, seed=3, format="npy")
    path = tmp_path / "ID_1" / "ID1_case1_1.npy"
    signal, told = np.load(path), json.loads((tmp_path / "radar.json").read_text())
    frame = RADAR.window_chirps
    assert signal.dtype == np.complex64 and len(signal) % frame == 0
    assert told == {"carrier_hz": RADAR.carrier_hz, "prf_hz": RADAR.chirp_rate_hz, "chirps_per_frame": frame,
                    "frame_seconds": RADAR.hop_seconds}
    recording, = plan(simulated_gait, "ID_1", random_person(1, 3), [3, 1], 1)
    whole = simulated_gait.simulate_signal(random_person(1, 3), recording.scene, RADAR, recording.rng)
    assert np.array_equal(signal[frame:2 * frame], whole[RADAR.hop_chirps:RADAR.hop_chirps + frame])
    before = path.read_bytes()
    path.unlink()
    simulate_dataset(tmp_path, num_users=1, images_per_user=1, seed=3, format="npy")
    assert path.read_bytes() == before
    with pytest.raises(InputError, match="other settings"):
        simulate_dataset(tmp_path, num_users=1, images_per_user=1, seed=3)


def test_persons_and_seeds_differ():
    assert random_person(1, 0) != random_person(2, 0) and random_person(1, 0) != random_person(1, 1)
    assert random_person(7, 5) == random_person(7, 5)


@pytest.mark.parametrize("wrong", [{"num_users": 0}, {"images_per_user": 0}, {"image_size": 4}, {"seed": -1}])
def test_nonsense_is_refused_and_nothing_is_written(tmp_path, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        simulate_dataset(tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_other_data_in_the_folder_is_left_alone(tmp_path):
    (tmp_path / "measured" / "ID_1").mkdir(parents=True)
    with pytest.raises(InputError, match="no simulation"):
        simulate_dataset(tmp_path / "measured", 1, 1, 32)
    simulate_dataset(tmp_path / "sim", 1, 1, 32, seed=0)
    with pytest.raises(InputError, match="other settings"):
        simulate_dataset(tmp_path / "sim", 1, 1, 32, seed=1)
