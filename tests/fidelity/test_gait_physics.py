"""Estimates from pictures, against drawings with known motion and against the simulator's truth."""
import json
import warnings
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import torch
from toys import find_users

from groundwork.images import load_images
from microdoppler.fidelity.gait_physics import PictureAxes, describe_gait, intensity, tracks_of
from microdoppler.simulate.dataset import simulate_dataset
from microdoppler.simulate.gait import AXES as SIMULATED_AXES
from microdoppler.simulate.radar import Radar

AXES = PictureAxes(window_seconds=2.0, lowest_mps=-1.0, highest_mps=3.0)


def drawing(cadence_hz: float, speed_mps: float, swing_mps: float, size: int = 100) -> np.ndarray:
    """(1, 3, size, size) uint8 in jet: a bright line that swings as a sine, within a fainter band of 1 m/s."""
    seconds = (np.arange(size) + 0.5) / size * AXES.window_seconds
    speeds = AXES.highest_mps - (np.arange(size) + 0.5) / size * (AXES.highest_mps - AXES.lowest_mps)
    line = speed_mps + swing_mps * np.sin(2 * np.pi * cadence_hz * seconds + 1)
    away = np.abs(speeds[:, None] - line)
    shade = np.where(away < 0.06, 1.0, np.where(away < 0.5, 0.4, 0.0))
    return (matplotlib.colormaps["jet"](shade, bytes=True)[..., :3].transpose(2, 0, 1))[None]


def test_the_colour_map_is_inverted():
    scale = np.linspace(0, 1, 256)
    picture = matplotlib.colormaps["jet"](scale, bytes=True)[None, :, :3].transpose(2, 0, 1)[None]
    assert np.abs(intensity(picture)[0, 0] - scale).max() < 0.02
    noisy = np.clip(picture.astype(int) + np.random.default_rng(0).integers(-6, 7, picture.shape), 0, 255)
    assert np.abs(intensity(noisy.astype(np.uint8))[0, 0] - scale).max() < 0.06


@pytest.mark.parametrize("cadence", [1.4, 1.77, 2.2])
def test_a_drawn_walk_is_read_off(cadence):
    found = describe_gait(drawing(cadence, speed_mps=1.2, swing_mps=0.2), AXES)
    assert found["cadence_hz"][0] == pytest.approx(cadence, rel=0.02)
    assert found["torso_mps"][0] == pytest.approx(1.2, abs=0.03)
    assert found["torso_variation_mps"][0] == pytest.approx(0.2 / 2**0.5, rel=0.1)
    # a band of 1 m/s at 0.4 and a line of 0.12 m/s at 1, less the floor: 3 % of it are cut off at either side
    assert found["doppler_spread_mps"][0] == pytest.approx(0.92, abs=0.06)


def test_units_are_those_of_the_axes():
    picture = drawing(1.7, 1.2, 0.2)
    found, twice = describe_gait(picture, AXES), describe_gait(picture, replace(AXES, lowest_mps=-2, highest_mps=6))
    for name in ("torso_mps", "torso_variation_mps", "doppler_spread_mps"):
        assert twice[name] == pytest.approx(2 * found[name])
    slower = describe_gait(picture, replace(AXES, window_seconds=2.4))
    assert slower["cadence_hz"][0] == pytest.approx(1.7 * 2 / 2.4, rel=0.02)


def test_the_track_follows_the_line_column_by_column():
    track = tracks_of(drawing(1.7, 1.2, 0.3), AXES).torso[0]
    seconds = (np.arange(100) + 0.5) / 100 * 2
    assert np.abs(track - 1.2 - 0.3 * np.sin(2 * np.pi * 1.7 * seconds + 1)).max() < 0.05


def test_pictures_that_show_no_walk_have_no_estimate_and_no_warning():
    blank = np.broadcast_to(np.array([0, 0, 127], dtype=np.uint8)[:, None, None], (3, 64, 64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = describe_gait(np.stack([blank, drawing(1.7, 1, 0.2, size=64)[0]]), AXES)
        still = describe_gait(drawing(1.7, 1.0, 0.0), AXES)
    assert all(np.isnan(values[0]) and np.isfinite(values[1]) for values in found.values())
    assert np.isnan(still["cadence_hz"][0]) and still["torso_mps"][0] == pytest.approx(1, abs=0.05)


def in_jet(shades: np.ndarray) -> np.ndarray:
    """(n, h, w) in [0, 1] → (n, 3, h, w) uint8."""
    return matplotlib.colormaps["jet"](shades, bytes=True)[..., :3].transpose(0, 3, 1, 2)


@pytest.mark.parametrize("size", [64, 128])
def test_noise_and_plain_pictures_have_no_figures(size):
    rng = np.random.default_rng(0)
    pixels, cells = rng.random((20, size, size)), rng.random((20, 16, 16)).repeat(size // 16, 1).repeat(size // 16, 2)
    faint = np.clip(rng.normal(0, 0.08, (20, size, size)), 0, 1)
    plain = np.full((1, 3, size, size), 128, dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = describe_gait(np.concatenate([in_jet(pixels), in_jet(cells), in_jet(faint), plain]), AXES)
    assert all(np.isnan(values).all() for values in found.values())


def test_stripes_of_interference_change_nothing():
    clean = drawing(1.7, 1.2, 0.2)
    striped, stripe = clean.copy(), in_jet(np.random.default_rng(0).uniform(0.3, 0.6, (1, 100, 4)))
    for first in (5, 31, 60, 83):
        striped[..., first:first + 4] = stripe
    expected, found = describe_gait(clean, AXES), describe_gait(striped, AXES)
    assert found["cadence_hz"] == pytest.approx(expected["cadence_hz"], rel=0.02)
    for name in ("torso_mps", "torso_variation_mps", "doppler_spread_mps"):
        assert found[name] == pytest.approx(expected[name], abs=0.03)


def test_the_simulators_rows_have_the_radars_speeds():
    radar, axes = Radar(), SIMULATED_AXES
    for row in (20, 60):
        shade = np.zeros((1, radar.window_chirps, 8))
        shade[:, row] = 1
        assert np.allclose(tracks_of(in_jet(shade), axes).torso, radar.speeds_mps()[row])


def test_many_pictures_come_out_as_each_alone_and_tensors_as_arrays():
    pictures = np.concatenate([drawing(cadence, 1.2, 0.2, size=32) for cadence in np.linspace(1.4, 2.2, 70)])
    together, last = describe_gait(torch.from_numpy(pictures), AXES), describe_gait(pictures[-1:], AXES)
    for name, values in together.items():
        assert values.shape == (70,) and values[-1] == pytest.approx(last[name][0])


@pytest.mark.parametrize("image_size", [64, 128])
def test_the_simulators_cadence_and_speed_are_recovered(tmp_path, image_size):
    simulate_dataset(tmp_path / "data", num_users=5, images_per_user=24, image_size=image_size, seed=11)
    truth = json.loads((tmp_path / "data" / "simulation.json").read_text())
    for user, names in find_users(tmp_path / "data").items():
        found = describe_gait(load_images(tmp_path / "data", names, image_size).numpy(), SIMULATED_AXES)
        passes = truth["classes"][f"ID_{user}"]["passes"]
        cadence, speed = (np.array([value for one in passes for value in one[key]])
                          for key in ("window_cadence_hz", "window_speed_mps"))
        assert np.nanmedian(found["cadence_hz"]) == pytest.approx(np.median(cadence), rel=0.05)
        assert np.nanmedian(found["torso_mps"] / speed) == pytest.approx(1, abs=0.08)
