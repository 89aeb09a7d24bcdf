"""Copies of image files, and files that are unlike the rest by their kind."""
import shutil

import numpy as np
import pytest
from PIL import Image

from microdoppler.data.duplicates import describe_duplicates, find_duplicates
from microdoppler.data.inspection import inspect
from microdoppler.data.spectrograms import find_classes, find_images


@pytest.fixture
def data(tmp_path):
    """Two users with six noise images each."""
    for user in (1, 2):
        (tmp_path / f"ID_{user}").mkdir()
        for number in range(6):
            noise = np.random.default_rng([user, number]).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / f"ID_{user}" / f"{number}.png")
    return tmp_path


def images(data):
    return find_images(data, find_classes(data))


def test_copies_are_named_within_and_between_users(data):
    assert describe_duplicates(find_duplicates(data, images(data))) == []
    shutil.copy(data / "ID_1" / "0.png", data / "ID_1" / "9.png")
    (line,) = describe_duplicates(find_duplicates(data, images(data)))
    assert line.startswith("warning: 1 files repeat") and "ID_1/0.png = ID_1/9.png" in line
    shutil.copy(data / "ID_1" / "3.png", data / "ID_2" / "8.png")
    first, second = describe_duplicates(find_duplicates(data, images(data)))
    assert first.startswith("warning: 2 files repeat")
    assert second.startswith("warning: 1 images are in the folders of several users (ID_1/3.png = ID_2/8.png)")


def test_a_class_of_equal_black_images_is_named(data):
    for path in (data / "ID_2").iterdir():
        Image.new("RGB", (16, 16)).save(path)
    assert "5 files repeat" in describe_duplicates(find_duplicates(data, images(data)))[0]


def test_grey_images_among_coloured_ones_are_counted(data):
    assert not any("grey" in line for line in inspect(data, images(data)).lines)
    Image.open(data / "ID_1" / "2.png").convert("L").save(data / "ID_1" / "2.png")
    assert any("1 of 12 images are grey" in line for line in inspect(data, images(data)).lines)


def test_folders_that_other_programs_write_are_no_users(data):
    (data / "__MACOSX").mkdir()
    assert find_classes(data, class_folders=True) == {1: "ID_1", 2: "ID_2"}
