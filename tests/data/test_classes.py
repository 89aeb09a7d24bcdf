"""Folders with any names, any number of them, and what tables and figures call them."""
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from toys import find_users

from groundwork.errors import InputError
from groundwork.preparation import Preparation
from microdoppler.data.class_names import default_names, read_names
from microdoppler.data.spectrograms import find_classes
from microdoppler.data.split import Split, describe
from microdoppler.data.split_file import SplitOptions, open_split
from microdoppler.data.synthetic_sets import find_synthetic
from microdoppler.figures.axes import PictureAxes, axes_of_data, known_axes
from microdoppler.figures.legend import Legend
from microdoppler.figures.pictures import image_grid, sample_grid
from microdoppler.simulate.dataset import simulate_dataset
from microdoppler.simulate.radar import Radar

OPTIONS = SplitOptions(images_per_user_train=2, split_guard=0, class_folders=True)


@pytest.fixture
def gestures(tmp_path):
    """Three classes whose names sort otherwise as text than as people count."""
    for name in ("swipe 10", "swipe 2", "Wave"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "data" / name / f"{number}.png")
    (tmp_path / "data" / ".cache").mkdir()
    return tmp_path / "data"


def test_all_folders_are_classes_in_natural_order(gestures):
    assert find_classes(gestures) == {1: "Wave", 2: "swipe 2", 3: "swipe 10"}
    assert find_classes(gestures, 2, class_folders=True) == {1: "Wave", 2: "swipe 2"}
    assert find_users(gestures, class_folders=True)[2][0] == "swipe 2/0.png"


def test_numbered_folders_keep_their_numbers_and_others_get_the_free_ones(gestures):
    for name in ("ID_2", "ID_09"):
        (gestures / name).mkdir()
    assert find_classes(gestures) == {2: "ID_2", 9: "ID_09"}
    assert find_classes(gestures, class_folders=True) == {
        1: "Wave", 2: "ID_2", 3: "swipe 2", 4: "swipe 10", 9: "ID_09"}


def test_a_wrong_number_of_classes_says_the_right_one(gestures):
    with pytest.raises(InputError, match="num_users is 31, but .* holds 3: Wave, swipe 2, swipe 10; set num_users"):
        find_classes(gestures, 31, class_folders=True)


def test_a_split_keeps_its_names_until_others_are_given(gestures, tmp_path):
    path, names = tmp_path / "split.json", tmp_path / "names.json"
    assert open_split(path, gestures, OPTIONS).split.names == {1: "Wave", 2: "swipe 2", 3: "swipe 10"}
    names.write_text(json.dumps({"Wave": "hello"}))
    named = open_split(path, gestures, OPTIONS, names).split
    assert named.names == {1: "hello", 2: "swipe 2", 3: "swipe 10"}
    kept = open_split(path, gestures, OPTIONS).split
    assert kept.names == named.names and kept.identity() == named.identity()


def test_the_line_of_the_split_says_which_number_is_whose_where_folders_do_not(gestures, tmp_path):
    for name, options in (("a", OPTIONS), ("b", replace(OPTIONS, class_folders=False))):
        split = open_split(tmp_path / name, gestures, options).split
        assert describe(split).startswith("split: 3 users (1 = Wave, 2 = swipe 2, 3 = swipe 10), images of each: ")
    for number, folder in enumerate(("Wave", "swipe 2", "swipe 10"), 1):
        (gestures / folder).rename(gestures / f"ID_{number}")
    assert describe(open_split(tmp_path / "c", gestures, OPTIONS).split).startswith("split: 3 users, images of each: ")


def test_splits_from_before_there_were_names_are_read(tmp_path):
    users = {str(user): {"label": user - 1, "train_images": [f"Id_{user}/1.png"], "test_images": [f"Id_{user}/2.png"]}
             for user in (1, 2)}
    settings = {"num_users": 2, "images_per_user_train": 1, "strategy": "contiguous", "fold": 0, "guard": 0, "seed": 0}
    split = Split.from_json({**settings, "users": users}, tmp_path)
    assert split.names == {1: "user 1", 2: "user 2"} and split.folders == {1: "Id_1", 2: "Id_2"}
    assert "class_folders" not in split.identity()


@pytest.mark.parametrize("content, complaint", [
    ([], "no class-to-name file"), ({"Wave": 3}, "no class-to-name file"), ({"Wave": " "}, "no class-to-name file"),
    ({"wave": "hello"}, "names wave, which is no class"), ({"Wave": "swipe 2"}, "more than one class swipe 2")])
def test_nonsense_for_names_is_refused(tmp_path, content, complaint):
    (tmp_path / "names.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=complaint):
        read_names(tmp_path / "names.json", {1: "Wave", 2: "swipe 2"}, {1: "Wave", 2: "swipe 2"})


def test_numbered_folders_are_called_users_and_others_as_they_are():
    assert default_names({1: "ID_1", 2: "ID_2"}, class_folders=False) == {1: "user 1", 2: "user 2"}
    assert default_names({1: "ID_3", 2: "user 1"}, class_folders=True) == {1: "ID_3", 2: "user 1"}


def test_padded_numbers_are_one_class_wherever_they_are_read(tmp_path):
    for name in ("ID_01", "id_2"):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{number}.png")
    split = open_split(tmp_path / "split.json", tmp_path, OPTIONS).split
    assert split.folders == find_classes(tmp_path) == {1: "ID_01", 2: "id_2"}
    assert list(find_synthetic(tmp_path, split.folders)) == list(find_synthetic(tmp_path, {1: "ID_1", 2: "ID_2"}))
    (tmp_path / "names.json").write_text(json.dumps({"ID_01": "Anna", "ID_2": "Ben"}))
    assert read_names(tmp_path / "names.json", split.folders, split.names) == {1: "Anna", 2: "Ben"}


def test_a_split_of_all_folders_is_none_of_numbered_ones(gestures, tmp_path):
    open_split(tmp_path / "split.json", gestures, OPTIONS)
    with pytest.raises(InputError, match="class_folders True .now False"):
        open_split(tmp_path / "split.json", gestures, replace(OPTIONS, class_folders=False))


def test_a_name_too_long_for_files_is_refused_before_anything_is_trained(tmp_path):
    (tmp_path / ("步" * 40)).mkdir()
    with pytest.raises(InputError, match="120 bytes; expected 100 at most"):
        find_classes(tmp_path, 1, class_folders=True)


def test_a_synthetic_set_holds_exactly_the_classes(gestures):
    classes = find_classes(gestures, 3, class_folders=True)
    assert list(find_synthetic(gestures, classes)) == [1, 2, 3]
    with pytest.raises(InputError, match="holds Wave, but the users are swipe 2, swipe 10"):
        find_synthetic(gestures, {1: "swipe 2", 2: "swipe 10"})
    with pytest.raises(InputError, match="lacks circle"):
        find_synthetic(gestures, classes | {4: "circle"})


@pytest.mark.parametrize("change", [{"classes": ["../x", "b"]}, {"classes": ["a"]}, {"axes": {"seconds": 1}},
                                    {"axes": {"window_seconds": 0, "lowest_mps": 0, "highest_mps": 1}}])
def test_a_damaged_legend_is_refused(tmp_path, change):
    whole = Legend({1: "a", 2: "b"}, {1: "A", 2: "B"}, PictureAxes(2.0, -1.0, 3.0))
    assert Legend.of(whole.to_plain(), 2, tmp_path) == whole
    with pytest.raises(InputError):
        Legend.of(whole.to_plain() | change, 2, tmp_path)


# ---------------------------------------------------------------------------------------------------------- axes

def test_axes_are_those_given_or_the_data_sets_or_none(tmp_path):
    simulate_dataset(tmp_path, num_users=1, images_per_user=1, image_size=16)
    def known(*given):
        return known_axes(tmp_path, *given, file=next(tmp_path.glob("ID_1/*.jpg")), preparation=Preparation())
    radar, found = Radar(), known(0.0, (0.0, 0.0))
    widest = radar.chirp_rate_hz * radar.wavelength_m / 2           # all speeds that a chirp rate tells apart
    assert found.highest_mps - found.lowest_mps == pytest.approx(widest)
    assert found.window_seconds == pytest.approx(56 * 152 / 3750)
    assert known(1.5, (-2.0, 2.0)) == PictureAxes(1.5, -2.0, 2.0)
    with pytest.raises(InputError, match=r"window_seconds is 1.5, velocity_range_mps \(0, 0\)"):
        known(1.5, (0.0, 0.0))
    (tmp_path / "axes.json").unlink()
    old_set = known(0.0, (0.0, 0.0))        # its simulation.json alone tells them
    assert old_set == found
    (tmp_path / "simulation.json").unlink()
    assert known(0.0, (0.0, 0.0)) is None


@pytest.mark.parametrize("name, content", [
    ("axes.json", "[]"), ("axes.json", '{"window_seconds": 2}'), ("axes.json", "no JSON"),
    ("axes.json", '{"window_seconds": 2, "velocity_range_mps": [1]}'),
    ("axes.json", '{"window_seconds": -2, "velocity_range_mps": [-1, 1]}'),
    ("simulation.json", '{"radar": {}}'), ("simulation.json", '{"radar": 3, "window_seconds": 2}')])
def test_a_file_of_axes_that_cannot_be_is_named(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=f"{name} (is not what the simulator|cannot be read)"):
        axes_of_data(tmp_path)


@pytest.mark.parametrize("fit, window_seconds, speeds", [
    ("stretch", 4.0, (-1.0, 3.0)), ("crop", 2.0, (-1.0, 3.0)), ("pad", 4.0, (-3.0, 5.0))])
def test_axes_follow_what_makes_a_square_of_an_image(tmp_path, fit, window_seconds, speeds):
    Image.new("RGB", (32, 16)).save(tmp_path / "wide.png")
    found = known_axes(tmp_path, 4.0, (-1.0, 3.0), tmp_path / "wide.png", Preparation(fit))
    assert found == PictureAxes(window_seconds, *speeds)


def test_a_grid_has_a_time_below_and_speeds_beside():
    images, legend = torch.zeros(2, 3, 16, 16, dtype=torch.uint8), Legend(
        {1: "a", 2: "b"}, {1: "Anna", 2: "B$n"}, PictureAxes(2.27, -1.4, 6.0))
    figure = sample_grid({1: images[0], 2: images[0]}, {1: images, 2: images}, legend, "step 5")
    figure.draw_without_rendering()
    cells = figure.subfigs[0].axes
    assert [cell.get_ylabel() for cell in cells[::3]] == ["Anna", r"B\$n"]
    assert [tick.get_text() for tick in cells[0].get_yticklabels()] == ["-1.4", "0", "6 m/s"]
    assert [tick.get_text() for tick in cells[-1].get_xticklabels()] == ["0", "2.27 s"]
    assert len(cells[0].get_xticks()) == 0
    assert cells[0].images[0].get_extent() == [0.0, 2.27, -1.4, 6.0]


def test_31_users_fit_a_page_and_none_is_lost():
    images = torch.zeros(5, 3, 16, 16, dtype=torch.uint8)
    figure = image_grid([(f"user {user}", images) for user in range(1, 32)], ["real", "synthetic"])
    width, height = figure.get_size_inches()
    assert 0.4 < width / height < 2.5
    labels = [cell.get_ylabel() for part in figure.subfigs for cell in part.axes if cell.get_ylabel()]
    assert labels == [f"user {user}" for user in range(1, 32)]
    assert np.array([len(cell.images) for part in figure.subfigs for cell in part.axes]).sum() == 31 * 5
