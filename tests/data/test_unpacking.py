"""Data sets of Hugging Face, written by its own library, become the folders that the other steps read."""
import csv
import io
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from groundwork.errors import InputError
from microdoppler.data import unpacking
from microdoppler.data.recordings import by_names, find_recordings
from microdoppler.data.spectrograms import find_classes, find_images
from microdoppler.data.split_file import locate_data
from microdoppler.data.unpacking import letters, main, names_below_class

# of each image: its file, person, run and frame
IMAGES = [("b_9.png", "anna", "b", 9), ("b_10.png", "anna", "b", 10), ("a_1.jpg", "anna", "a", 1),
          ("a_2.jpg", "anna", "a", 2), ("b_9.png", "ben", "b", 9)]


def encoded(number, suffix):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 20 * number, np.uint8)).save(file, Image.registered_extensions()[suffix])
    return file.getvalue()


CONTENTS = [encoded(number, Path(name).suffix) for number, (name, *_) in enumerate(IMAGES)]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        yield pytest.importorskip("datasets")


def packed(datasets, images=None, **columns):
    """A data set that holds the bytes of the images. columns: that replace those of IMAGES."""
    names, persons, runs, frames = map(list, zip(*IMAGES))
    images = images or [{"bytes": content, "path": name} for content, name in zip(CONTENTS, names)]
    table = datasets.Dataset.from_dict({"image": images, "label": persons, "run": runs, "frame": frames} | columns)
    return table.cast_column("image", datasets.Image())


def with_label_names(datasets, table):
    return table.cast_column("label", datasets.ClassLabel(names=["zoe", "anna", "ben"]))


def in_memory(datasets, folder):
    """As on the Hub: parquet files of splits, and numbers with names for the classes."""
    for split in ("train", "test"):
        with_label_names(datasets, packed(datasets)).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def saved_to_disk(datasets, folder):
    datasets.DatasetDict(train=packed(datasets), test=packed(datasets)).save_to_disk(folder)
    return folder


def image_files(datasets, folder):
    """As the library's page on image data sets shows it: files beside a table."""
    for split in ("train", "test"):
        rows = [("file_name", "label", "run", "frame")]
        for content, (name, person, run, frame) in zip(CONTENTS, IMAGES):
            path = folder / split / person / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            rows.append((f"{person}/{name}", person, run, frame))
        with open(folder / split / "metadata.csv", "w", newline="") as file:
            csv.writer(file).writerows(rows)
    return folder


def files_in(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


EXPECTED = {f"{person}/{name}": content for content, (name, person, *_) in zip(CONTENTS, IMAGES)}


@pytest.mark.parametrize("write", [in_memory, saved_to_disk, image_files])
def test_every_form_becomes_the_same_folders_to_the_byte(datasets, tmp_path, capsys, write):
    main(write(datasets, tmp_path / "packed"), output_dir=tmp_path / "data")
    assert files_in(tmp_path / "data") == {f"{split}/{name}": content for split in ("train", "test")
                                           for name, content in EXPECTED.items()}
    assert "train: 5 images of 2 classes\ntest: 5 images of 2 classes\nwritten" in capsys.readouterr().out
    data_path, test_data = locate_data(tmp_path / "data", None)
    classes = find_classes(data_path)
    assert test_data.name == "test" and classes == {1: "anna", 2: "ben"}
    recordings, source = find_recordings(data_path, find_images(data_path, classes))
    assert source == "the file names" and [(own.name, own.numbers) for own in recordings[1]] == [
        ("a_*", [1, 2]), ("b_*", [9, 10])]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "packed"]       # nothing temporary is left


def test_a_column_tells_the_recordings_and_another_one_the_order(datasets, tmp_path, capsys):
    packed(datasets).to_parquet(tmp_path / "one.parquet")
    main(tmp_path / "one.parquet", output_dir=tmp_path / "ordered", recording_column="run", number_column="frame")
    main(tmp_path / "one.parquet", output_dir=tmp_path / "by rows", recording_column="run")
    out = capsys.readouterr().out
    assert out.count("in the order of the rows") == 1 and shlex.split(out.splitlines()[-1])[-1].endswith("by rows")
    for name, frames in (("ordered", [[1, 2], [9, 10]]), ("by rows", [[2, 3], [0, 1]])):
        images = find_images(tmp_path / name, find_classes(tmp_path / name))
        recordings, source = find_recordings(tmp_path / name, images)
        assert source == "recordings.csv" and [own.numbers for own in recordings[1]] == frames
        assert [Path(image).name for image in recordings[1][1].images] == ["b_9.png", "b_10.png"]


@pytest.mark.parametrize("names", [[None] * 5, ["same.png"] * 5, ["1.png", "2.png", ".hidden.png", "3.png", "4.png"],
                                   ["1.png", "/tmp/2.png", "3.png", "4.png", "5.png"]])
def test_without_useful_file_names_no_order_is_invented(datasets, tmp_path, capsys, names):
    images = [{"bytes": content, "path": name} for content, name in zip(CONTENTS, names)]
    packed(datasets, images).to_parquet(tmp_path / "one.parquet")
    main(tmp_path / "one.parquet", output_dir=tmp_path / "data")
    assert "recordings: unknown" in capsys.readouterr().out
    assert files_in(tmp_path / "data") == {"anna/a.png": CONTENTS[0], "anna/b.png": CONTENTS[1],
                                           "anna/c.jpg": CONTENTS[2], "anna/d.jpg": CONTENTS[3],
                                           "ben/e.png": CONTENTS[4]}
    assert not by_names(["anna/a.png", "anna/b.png", "anna/c.jpg"])[0].is_known


def test_letters_sort_as_the_rows_and_are_all_different():
    for count in (1, 26, 27, 677):
        names = list(letters(count))
        assert names == sorted(names) and len(set(names)) == count and all(name.isalpha() for name in names)


@pytest.mark.parametrize("paths, expected", [
    (["/x/train/anna/1.png", "/x/train/ben/1.png"], ["1", "1"]),
    (["p/run1/1.png", "p/run2/1.png"], ["run1/1", "run2/1"]),
    (["walk.2", r"night\walk.3.tif"], ["walk.2", "night/walk.3"]),
    (["../../a.png", "b.png"], None), (["a.png", ""], None)])
def test_names_are_kept_below_the_folder_of_the_class(paths, expected):
    assert names_below_class(paths, ["anna", "ben"]) == expected


def test_the_same_name_in_two_classes_is_no_repetition_and_in_one_it_is():
    assert names_below_class(["1.png", "1.jpg"], ["a", "b"]) == ["1", "1"]
    assert names_below_class(["1.png", "1.jpg"], ["a", "a"]) is None


def test_missing_and_broken_images_are_left_out_and_counted(datasets, tmp_path, capsys):
    (tmp_path / "gone.png").write_bytes(CONTENTS[0])
    broken = [{"bytes": b"junk", "path": "2.png"}, None, {"bytes": None, "path": str(tmp_path / "gone.png")}]
    for name, images in (("one", [{"bytes": CONTENTS[0], "path": "1.png"}, *broken, None]),
                         ("two", [*broken, None, None])):
        packed(datasets, images).to_parquet(tmp_path / f"{name}.parquet")
    (tmp_path / "gone.png").unlink()
    main(tmp_path / "one.parquet", output_dir=tmp_path / "data")
    assert list(files_in(tmp_path / "data").values()) == [CONTENTS[0]]
    assert "warning: 4 images are left out: row 1, UnidentifiedImageError" in capsys.readouterr().out
    with pytest.raises(InputError, match="train has no image that can be read: row 0, UnidentifiedImageError"):
        main(tmp_path / "two.parquet", output_dir=tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("change, options, named", [
    ({}, {"label_column": "person"}, "train has no column person, but image, label, run, frame; .*--label_column"),
    ({}, {"image_column": "run"}, "train has no image that can be read: row 0, FileNotFoundError"),
    ({}, {"image_column": "frame"}, "the column frame of train holds no image files"),
    ({"label": ["a", "b", None, "a", "a"]}, {}, "train, row 2 has no class in the column label"),
    ({"label": ["a", "../b", "a", "a", "a"]}, {}, r"row 1 has the class '../b', which cannot be the name"),
    ({"label": ["a", "a" * 101, "a", "a", "a"]}, {}, "row 1 has the class 'aaa.*', which cannot be the name"),
    ({"label": [[1, 2], [1], [2], [1], [3]]}, {}, r"row 0 has \[1, 2\] in the column label; expected"),
    ({"label": [0.5, 0.1, 0.2, 0.3, 0.4]}, {}, "row 0 has 0.5 in the column label; expected the name or number"),
    ({"frame": ["1", "2", "later", "3", "4"]}, {"recording_column": "run", "number_column": "frame"},
     "row 2 has recording 'a' and number later; expected a name and a whole number"),
    ({"frame": [1, 2, -3, 3, 4]}, {"recording_column": "run", "number_column": "frame"}, "number -3"),
    ({}, {"number_column": "frame"}, "--number_column needs --recording_column")])
def test_what_cannot_be_unpacked_is_named_and_nothing_is_written(datasets, tmp_path, change, options, named):
    packed(datasets, **change).to_parquet(tmp_path / "one.parquet")
    with pytest.raises(InputError, match=named):
        main(tmp_path / "one.parquet", output_dir=tmp_path / "data", **options)
    assert os.listdir(tmp_path) == ["one.parquet"]


def test_hidden_labels_and_places_that_are_no_data_sets_are_named(datasets, tmp_path):
    with_label_names(datasets, packed(datasets, label=[1, 2, -1, 1, 2])).to_parquet(tmp_path / "one.parquet")
    with pytest.raises(InputError, match="train, row 2 has no class in the column label; remove this split"):
        main(tmp_path / "one.parquet", output_dir=tmp_path / "data")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.py").write_text("raise SystemExit('run')")
    (tmp_path / "text.parquet").write_text("x")
    for source, reason in (("none", "does not exist"), ("notes", "cannot be read as a data set"),
                           ("text.parquet", "cannot be read as a data set")):
        with pytest.raises(InputError, match=reason):
            main(tmp_path / source, output_dir=tmp_path / "data")
    with pytest.raises(InputError, match="exists and is not empty"):
        main(tmp_path / "one.parquet", output_dir=tmp_path / "notes")


def test_an_interrupted_unpacking_leaves_nothing(datasets, tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt
    packed(datasets).to_parquet(tmp_path / "one.parquet")
    monkeypatch.setattr(unpacking, "write_recordings", stop)
    with pytest.raises(KeyboardInterrupt):
        main(tmp_path / "one.parquet", output_dir=tmp_path / "data", recording_column="run")
    assert os.listdir(tmp_path) == ["one.parquet"]
