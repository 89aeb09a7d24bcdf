"""Which files are images, which are ignored, which folders are the project's own, and which folder was meant."""
import os
import shutil

import pytest
from PIL import Image
from toys import RGB

from groundwork.errors import InputError
from microdoppler.data.folders import describe_ignored, ignored_files, image_files, is_own_output, suggest_data_path
from microdoppler.data.spectrograms import find_classes


def write_images(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RGB).save(path)


def found_in(folder):
    return [str(path.relative_to(folder)) for path in image_files(folder)]


# ---------------------------------------------------------------------------------------------------- image files

def test_images_in_subfolders_are_found_in_natural_order(tmp_path):
    names = ["1.png", "pass2/2.jpg", "pass2/10.PNG", "pass10/1.tif", "pass10/night/1.bmp"]
    write_images(*(tmp_path / name for name in reversed(names)))
    write_images(tmp_path / ".hidden.png", tmp_path / ".ipynb_checkpoints" / "1.png")
    (tmp_path / "notes.txt").write_text("x")
    assert found_in(tmp_path) == names


def test_links_are_followed_once_and_never_upwards(tmp_path):
    user, elsewhere = tmp_path / "data" / "ID_1", tmp_path / "elsewhere"
    write_images(user / "1.png", tmp_path / "data" / "ID_2" / "1.png", elsewhere / "2.png")
    (user / "disk").symlink_to(elsewhere)
    (user / "again").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(user)
    (user / "self").symlink_to(user)
    (user / "up").symlink_to(tmp_path / "data")
    (user / "loop").symlink_to("loop")
    assert found_in(user) == ["1.png", "again/2.png"]
    (tmp_path / "link").symlink_to(user)
    assert found_in(tmp_path / "link") == ["1.png", "again/2.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_subfolder_that_cannot_be_read_is_named(tmp_path):
    write_images(tmp_path / "pass1" / "1.png")
    (tmp_path / "pass1").chmod(0)
    with pytest.raises(InputError, match="pass1 cannot be read"):
        image_files(tmp_path)


def test_files_that_are_not_read_are_counted_by_suffix(tmp_path):
    write_images(*(tmp_path / "ID_1" / f"{i}.png" for i in range(3)))
    assert describe_ignored(ignored_files(tmp_path, ["ID_1"])) == ""
    for i in range(4):
        (tmp_path / "ID_1" / f"{i}.HEIC").write_text("x")
    (tmp_path / "ID_1" / "pass1").mkdir()
    for name in ("ID_1/pass1/a.mat", "ID_1/README", "ID_1/.DS_Store", "other.txt"):
        (tmp_path / name).write_text("x")
    counts = ignored_files(tmp_path, ["ID_1"])
    assert counts == {".heic": 4, ".mat": 1, "": 1}
    line = describe_ignored(counts)
    assert line.startswith("4 .heic, 1 without a suffix, 1 .mat ignored (only .bmp, .gif, ")
    assert line.endswith("convert radar recordings with python -m microdoppler.convert)")


# ---------------------------------------------------------------------------------------------------- own outputs

@pytest.mark.parametrize("files", [["model-3.pt", "sample-3.png"], ["metrics.jsonl"], ["data_split.json"],
                                   ["latents.npy", "latents.json"], ["overlaps.npz"], ["classify/runs.csv"],
                                   [".git/config"], ["__init__.cpython-312.pyc"], ["simulation.json", "ID_1/1.png"],
                                   ["axes.json", "a/1.png"],
                                   ["results/metrics.jsonl", "data/ID_1/1.png"]])
def test_folders_of_the_project_are_known_by_their_files(tmp_path, files):
    folder = tmp_path / "any name"
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    assert is_own_output(folder)


def test_a_synthetic_set_is_known_and_so_is_the_folder_above_it(demo):
    folder, _ = demo
    assert is_own_output(folder / "synthetic") and is_own_output(folder / "results")
    assert is_own_output(folder / "latents_cache") and is_own_output(folder)
    assert not is_own_output(folder / "data" / "ID_1") and not is_own_output(folder / "synthetic" / "ID_1")


def test_classes_are_no_outputs_whatever_their_names(tmp_path):
    for name in ("results", "synthetic_data", "demo", "ID_1"):
        write_images(tmp_path / name / "pass1" / "1.png", tmp_path / name / "1.png")
        (tmp_path / name / "manifest.json").write_text('{"files": ["1.png"]}')
        (tmp_path / name / "config.json").write_text("[]")
        assert not is_own_output(tmp_path / name)
    (tmp_path / "ID_1" / "manifest.json").write_text("no JSON")
    (tmp_path / "ID_1" / "results").mkdir()
    (tmp_path / "ID_1" / "results" / "metrics.jsonl").write_text("x")
    assert not is_own_output(tmp_path / "ID_1") and not is_own_output(tmp_path / "absent")


# ---------------------------------------------------------------------------------------------------- the folder meant

@pytest.fixture
def classes(tmp_path):
    """A data folder two levels below tmp_path / "input"."""
    data = tmp_path / "input" / "gait" / "Normal_line"
    write_images(data / "ID_1" / "1.png", data / "ID_2" / "pass1" / "1.png", data / "ID_2" / "pass2" / "1.png")
    return data


def test_a_path_too_high_or_too_low_names_the_right_folder(classes):
    assert suggest_data_path(classes.parent) == classes
    assert suggest_data_path(classes.parent.parent) == classes
    assert suggest_data_path(classes / "ID_1") == classes
    assert suggest_data_path(classes / "ID_2") == classes
    assert suggest_data_path(classes) is None


def test_from_the_working_directory(classes, monkeypatch):
    monkeypatch.chdir(classes.parent)
    assert suggest_data_path(type(classes)(".")).resolve() == classes
    monkeypatch.chdir(classes / "ID_1")
    assert suggest_data_path(type(classes)(".")).resolve() == classes


def test_nothing_is_suggested_where_it_is_unclear(classes, tmp_path):
    shutil.copytree(classes, classes.parent / "Normal_circle")
    assert suggest_data_path(classes.parent) is None and suggest_data_path(classes.parent.parent) is None
    write_images(tmp_path / "flat" / "1.png")
    assert suggest_data_path(tmp_path / "flat") is None and suggest_data_path(tmp_path / "absent") is None


def test_several_folders_with_users_are_no_users_themselves(tmp_path):
    """Such as two conditions of the same persons."""
    for condition in ("Normal", "Bag"):
        for user in (1, 2):
            (tmp_path / condition / f"ID_{user}").mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / condition / f"ID_{user}" / "1.png")
    with pytest.raises(InputError, match="its folders Bag, Normal do: give one of them"):
        find_classes(tmp_path)
