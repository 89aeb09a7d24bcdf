"""Controls of synthetic sets: which cuts they hold, and to which set they belong."""
import shutil

import numpy as np
import pytest
from PIL import Image

from groundwork.errors import InputError
from groundwork.files import read_json, write_json
from microdoppler.data.control_sets import CUT, TEST, TRAINING, cut_entry, draw_cuts, find_control
from microdoppler.data.folders import is_own_output
from microdoppler.data.overlap import Successor
from microdoppler.data.stitching import Cut, add_doppler_shifts, plan_cuts
from microdoppler.data.synthetic_sets import match_to_folds

PATHS = [f"ID_1/{i}.jpg" for i in range(10)]
MADE_BY = {"split": {"fold": 0}, "vae": "a"}


def training_cuts():
    successor_of = {path: Successor(following, 0.25) for path, following in zip(PATHS, PATHS[1:])}
    return add_doppler_shifts(plan_cuts(PATHS, successor_of, 4), 0.03, seed=1)


def test_drawn_cuts_are_the_training_cuts_and_cover_all_windows_before_any_comes_twice():
    cuts = training_cuts()      # nine windows have four, the last one
    assert len(cuts) == 37
    drawn = draw_cuts(cuts, 37, 0.03, seed=5)
    assert sorted(cut.identity for cut in drawn) == sorted(cut.identity for cut in cuts)
    assert {cut.path for cut in drawn[:10]} == set(PATHS) and len({cut.fraction for cut in drawn[:10]}) > 1
    assert drawn != draw_cuts(cuts, 37, 0.03, seed=6)


def test_a_set_grows_without_changing_and_repeats_its_cuts_with_other_doppler_shifts():
    cuts = training_cuts()
    many = draw_cuts(cuts, 90, 0.03, seed=5)
    for count in (1, 20, 37, 50):
        assert draw_cuts(cuts, count, 0.03, seed=5) == many[:count]
    assert len({cut.doppler_shift for cut in many}) == 90 and max(abs(cut.doppler_shift) for cut in many) <= 0.03
    assert {(cut.path, cut.fraction) for cut in many[37:74]} == {(cut.path, cut.fraction) for cut in cuts}


def write_set(folder, made_by, entries=None):
    """A set with an image per entry, or one image and no entries."""
    images = entries or {"ID_1/a.png": {"user": 1, "seed": 3}}
    for name in images:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((64, 64, 3), len(name), np.uint8)).save(folder / name)
    write_json(folder / "manifest.json", {**made_by, "images": images})
    return folder


@pytest.fixture
def sets(tmp_path):
    """A synthetic set and its control, of a cut and a recorded window."""
    cut = Cut(PATHS[3], Successor(PATHS[4], 0.25), 0.5, -0.02)
    return (write_set(tmp_path / "a", {**MADE_BY, "checkpoint": "model-1.pt"}),
            write_set(tmp_path / "a_control", {**MADE_BY, "cuts_per_hop": 4}, {
                "ID_1/c1.png": {"user": 1, "kind": "cut", **cut_entry(cut), "seed": 4},
                "ID_1/t1.png": {"user": 1, "kind": "training window", **cut_entry(Cut(PATHS[3]))}})), cut


def test_a_control_is_found_beside_its_set(sets):
    (synthetic, folder), cut = sets
    control = find_control(synthetic)
    assert control.cuts == {1: {"ID_1/c1.png": cut}}
    assert control.images[TRAINING] == {1: {"ID_1/t1.png": Cut(PATHS[3])}} and control.images[TEST] == {1: {}}
    images, labels = control.decoded(CUT, 16, channels=1)
    assert images.shape == (1, 1, 16, 16) and images.unique().tolist() == [len("ID_1/c1.png")]
    assert labels.tolist() == [0]
    assert is_own_output(folder)        # no class of a data set that it lies in


@pytest.mark.parametrize("change", [
    lambda own, control: write_json(own / "manifest.json", {"checkpoint": "model-1.pt", "images": {}}),    # older
    lambda own, control: (own / "manifest.json").unlink(),      # made elsewhere
    lambda own, control: write_set(control, {**MADE_BY, "split": {"fold": 1}, "cuts_per_hop": 4}),
    lambda own, control: write_set(control, {**MADE_BY, "vae": "b", "cuts_per_hop": 4}),
    lambda own, control: write_set(control, {**MADE_BY, "checkpoint": "model-2.pt"}),       # a set of that name
    lambda own, control: (control / "manifest.json").unlink(),
    lambda own, control: shutil.rmtree(control)])
def test_there_is_none_for_a_set_that_it_was_not_written_for(sets, change):
    folders, _ = sets
    change(*folders)
    assert find_control(folders[0]) is None


def test_a_control_without_some_of_its_images_is_not_used(sets, capsys):
    (synthetic, control), _ = sets
    (control / "ID_1" / "c1.png").unlink()
    assert find_control(synthetic) is None and "lacks 1 of its 2 images" in capsys.readouterr().out


@pytest.mark.parametrize("key, value", [("path", "../../secret.png"), ("next_path", "/etc/passwd"), ("fraction", "x"),
                                        ("kind", "other"), ("user", None)])
def test_a_damaged_control_is_refused(sets, key, value):
    (synthetic, control), _ = sets
    manifest = read_json(control / "manifest.json")
    manifest["images"]["ID_1/c1.png"][key] = value
    write_json(control / "manifest.json", manifest)
    with pytest.raises(InputError, match="manifest.json"):
        find_control(synthetic)


def test_a_control_is_no_synthetic_set(sets):
    """As --synthetic synthetic_data/* would give it."""
    (_, control), _ = sets
    with pytest.raises(InputError, match="a_control is the control of a synthetic set"):
        match_to_folds((control,), {})
