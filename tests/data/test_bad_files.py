"""Files and folders as they come: each gets the right result or one clear line, and nothing that was there changes."""
import json
import os
import pickle
import shutil
import stat
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from toys import RAMP, RGB, edited, find_users, split_of

from groundwork.errors import InputError, printable
from groundwork.files import check_inside
from groundwork.images import load_image, load_images
from microdoppler.data.spectrograms import drop_broken
from microdoppler.data.split_settings import SplitSettings
from microdoppler.data.split_file import SplitOptions, open_split
from vae.train import read_split


def saved(mode, **options):
    return lambda path: Image.fromarray(RGB).convert(mode).save(path, **options)


def sixteen_bits(path):
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(path)


def half_transparent(path):
    """Bright all over, visible on the right."""
    Image.fromarray(np.dstack([np.full((64, 64, 3), 255, np.uint8), RAMP])).save(path)


def palette(path, **options):
    Image.fromarray(RGB).quantize(256).save(path, **options)


def palette_with_transparency(path):
    darkest = int(np.argmin(np.asarray(Image.fromarray(RGB).quantize(256).getpalette()).reshape(-1, 3)[:64].sum(1)))
    palette(path, transparency=darkest)


def turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6        # to be shown a quarter turn clockwise
    Image.fromarray(np.rot90(RGB)).save(path, exif=exif, quality=95)


def another_format(path):
    Image.fromarray(RGB).save(path, format="BMP")


def wide(path):
    Image.fromarray(np.repeat(RGB, 2, axis=1)).save(path)


WHOLE = {       # each is the ramp, however it is stored
    "a.jpg": saved("RGB", quality=95), "a.JPG": saved("L", quality=95), "a.JPEG": saved("RGB", quality=95),
    "cmyk.jpg": saved("CMYK", quality=95), "progressive.jpg": saved("RGB", progressive=True, quality=95),
    "grey.png": saved("L"), "palette.png": palette, "A.PNG": saved("RGB"), "16 bits.png": sixteen_bits,
    "alpha.png": saved("RGBA"), "grey and alpha.png": saved("LA"), "half transparent.png": half_transparent,
    "palette transparent.png": palette_with_transparency, "turned.jpg": turned, "bmp within.png": another_format,
    "interlaced.png": saved("RGB"), "wide.png": wide, "步态 9.png": saved("RGB"), "name with  spaces.png": saved("RGB"),
    "a.tif": saved("RGB"), "a.TIFF": saved("L"), "packed.tif": saved("RGB", compression="tiff_lzw"),
    "a.webp": saved("RGB"), "a.bmp": saved("RGB"), "a.gif": palette,
    "line\nbreak.png": saved("RGB"), "\x1b[31mred.png": saved("RGB"), "emoji 🚶.png": saved("RGB"),
    "quote\"'.png": saved("RGB"), "a,b;c.png": saved("RGB"), "x" * 200 + ".png": saved("RGB"),
}


def png_of(width, height):
    """A whole PNG file of so many pixels, all black and a few kilobytes in size."""
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    packer = zlib.compressobj()
    rows = b"".join([packer.compress(bytes(1 + width)) for _ in range(height)] + [packer.flush()])
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def content(bytes_):
    return lambda path: path.write_bytes(bytes_)


def cut(share, format_):
    def write(path):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path, format_)
        path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)])
    return write


def flipped(path):
    saved("RGB")(path)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 255
    path.write_bytes(damaged)


def circle(path):
    path.symlink_to(path.name)


BROKEN = {      # name: (how it is made, a word of what is said of it)
    "empty.png": (content(b""), "UnidentifiedImageError"), "text.png": (content(b"not an image"), "Unidentified"),
    "html.jpg": (content(b"<!doctype html><title>404</title>"), "Unidentified"),
    "half.png": (cut(0.5, "PNG"), "Error"), "half.jpg": (cut(0.5, "JPEG"), "truncated"),
    "header.png": (content(b"\x89PNG\r\n\x1a\n"), "Error"), "flipped.png": (flipped, "Error"),
    "pickle.png": (content(pickle.dumps({"a": 1})), "Unidentified"),
    "one pixel.png": (lambda path: Image.new("RGB", (1, 1)).save(path), "1 x 1 pixels"),
    "a line.png": (lambda path: Image.new("RGB", (500, 1)).save(path), "500 x 1 pixels"),
    "bomb.png": (content(png_of(20_000, 20_000)), "DecompressionBomb"),
    "small bomb.png": (content(png_of(10_000, 10_000)), "DecompressionBomb"),
    "pipe.png": (os.mkfifo, "no regular file"),
    "circle.png": (circle, "symbolic links"), "dangling.png": (lambda path: path.symlink_to("nowhere"), "No such file"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_an_image_is_read_as_a_viewer_shows_it(tmp_path, name):
    WHOLE[name](tmp_path / name)
    found = load_image(tmp_path / name, 64)
    assert found.shape == (64, 64, 3) and found.dtype == np.uint8
    assert abs(found.astype(int) - RGB).mean() < 4, abs(found.astype(int) - RGB).mean()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_image_is_named_and_left_out(data, name):
    make, words = BROKEN[name]
    make(data / "ID_1" / name)
    whole, warnings = drop_broken(data, find_users(data))
    assert len(whole[1]) == 50 and len(warnings) == 1
    assert name in warnings[0] and words in warnings[0] and "\n" not in warnings[0]
    opened = open_split(data.parent / "data_split.json", data, OPTIONS)
    assert len(opened.overlaps.names[1]) == 50 and opened.lines[0] == warnings[0]
    with pytest.raises(InputError, match="cannot be decoded"):     # as when it breaks after the split was made
        load_images(data, [f"ID_1/{name}"], 64)


def test_of_an_image_that_is_too_large_nothing_else_is_said(data, script):
    """PIL would print a warning of its own, with a line of source code."""
    BROKEN["small bomb.png"][0](data / "ID_1" / "small bomb.png")
    out, err = script("-m", "microdoppler.split", "--data_path", data, "--output", data.parent / "split.json",
                      "--images_per_user_train", "20")
    assert "small bomb.png" in out and err == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_image_is_named_and_left_out(data):
    (data / "ID_1" / "Doppler7.png").chmod(0)
    whole, warnings = drop_broken(data, find_users(data))
    assert len(whole[1]) == 49 and "Permission" in warnings[0]


def test_an_image_that_vanishes_between_listing_and_reading(data):
    found = find_users(data)
    (data / "ID_1" / "Doppler7.png").unlink()
    assert "Doppler7.png" in drop_broken(data, found)[1][0]
    with pytest.raises(InputError, match="Doppler7.png cannot be decoded"):
        load_images(data, found[1], 64)


def test_hidden_and_other_files_are_no_images_and_those_in_subfolders_are(data):
    for name in (".hidden.png", "Thumbs.db", "notes.txt", "Doppler1.png.tmp"):
        (data / "ID_1" / name).write_bytes(b"x")
    (data / "ID_1" / "a folder.png").mkdir()
    assert len(find_users(data)[1]) == 50
    shutil.copytree(data / "ID_1", data / "ID_1" / "nested")
    assert len(find_users(data)[1]) == 100


def test_numbers_with_zeros_and_other_cases_are_users(tmp_path):
    for name in ("ID_007", "id_2", "Id_01", "ID_3 copy", "ID_x", "ID_٤"):
        (tmp_path / name).mkdir()
        Image.fromarray(RGB).save(tmp_path / name / "1.png")
    assert {user: names[0] for user, names in find_users(tmp_path).items()} == {
        1: "Id_01/1.png", 2: "id_2/1.png", 7: "ID_007/1.png"}
    with pytest.raises(InputError, match="num_users is 4, but .* holds 3: ID_007, Id_01, id_2;"):
        find_users(tmp_path, 4)


def test_two_folders_of_one_number_are_refused(tmp_path):
    for name in ("ID_7", "ID_007"):
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="ID_007 and ID_7 .* same number"):
        find_users(tmp_path)


def test_folders_that_link_in_a_circle(tmp_path, data):
    (data / "ID_1" / "up").symlink_to(data)
    (data / "ID_2").symlink_to("ID_2")
    (data / "loop").symlink_to(data)
    assert len(find_users(data)[1]) == 50
    with pytest.raises(InputError, match="num_users is 2, but .* holds 1: ID_1;"):
        find_users(data, 2)


def test_a_read_only_data_folder_is_only_read(data, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    for path in (data, data / "ID_1"):
        path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        open_split(tmp_path / "cache" / "data_split.json", data, OPTIONS)
    finally:
        for path in (data, data / "ID_1"):
            path.chmod(stat.S_IRWXU)
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before


# ---------------------------------------------------------------------------------------------------- splits

OPTIONS = SplitOptions.of(SplitSettings(1, 20, "contiguous", 0, 4, 42))

HAND_EDITS = {
    "cut short": lambda text: text[:len(text) // 2], "empty": lambda text: "", "a list": lambda text: "[]",
    "null": lambda text: "null", "binary": lambda text: "\x00\x01",
    "no users": lambda text: edited(text, lambda split: split.pop("users")),
    "users as a list": lambda text: edited(text, lambda split: split.update(users=[1])),
    "a user as text": lambda text: edited(text, lambda split: split["users"].update({"1": "x"})),
    "a user without a number": lambda text: edited(text, lambda split: split["users"].update({"one": {}})),
    "a user too many": lambda text: edited(text, lambda split: split["users"].update({"2": split["users"]["1"]})),
    "another user": lambda text: edited(text, lambda split: split.update(users={"3": split["users"]["1"]})),
    "an unknown setting": lambda text: edited(text, lambda split: split.update(colour="red")),
    "an unknown strategy": lambda text: edited(text, lambda split: split.update(strategy="odd")),
    "a negative guard": lambda text: edited(text, lambda split: split.update(guard=-1)),
    "images as numbers": lambda text: edited(text, lambda split: images(split).__setitem__(0, 7)),
    "an image that is absent": lambda text: edited(text, lambda split: images(split).__setitem__(0, "ID_1/none.png")),
    "a path out of the folder": lambda text: edited(text, lambda split: images(split).__setitem__(0, "../secret.png")),
    "an absolute path": lambda text: edited(text, lambda split: images(split).__setitem__(0, "/etc/hostname")),
    "an image on both sides": lambda text: edited(
        text, lambda split: split["users"]["1"]["test_images"].append(images(split)[0])),
    "an image twice": lambda text: edited(text, lambda split: images(split).append(images(split)[0])),
    "a folder that leads out": lambda text: edited(
        text, lambda split: split["users"]["1"].update(folder="../data/ID_1")),
    "an absent folder": lambda text: edited(text, lambda split: split["users"]["1"].update(folder="ID_5")),
    "recordings as text": lambda text: edited(text, lambda split: split["users"]["1"].update(recordings="walk")),
    "a recording without numbers": lambda text: edited(text, lambda split: recording(split).pop("numbers")),
    "a recording with too few numbers": lambda text: edited(text, lambda split: recording(split)["numbers"].pop()),
    "numbers as text": lambda text: edited(text, lambda split: recording(split).update(numbers=["one"] * 50)),
    "a recording that leads out": lambda text: edited(
        text, lambda split: recording(split)["images"].__setitem__(49, "../secret.png")),
    "a recording of an absent image": lambda text: edited(
        text, lambda split: recording(split)["images"].__setitem__(49, "ID_1/none.png")),
    "an odd preparation": lambda text: edited(text, lambda split: split.update(preparation={"fit": "odd"})),
    "no share to train on": lambda text: edited(text, lambda split: split.update(images_per_user_train=1.5)),
}


def images(split):
    return split["users"]["1"]["train_images"]


def recording(split):
    return split["users"]["1"]["recordings"][0]


@pytest.mark.parametrize("what", HAND_EDITS)
def test_a_split_that_was_edited_by_hand_is_refused_in_one_line(data, tmp_path, what):
    (data.parent / "secret.png").write_bytes((data / "ID_1" / "Doppler1.png").read_bytes())
    path = tmp_path / "data_split.json"
    open_split(path, data, OPTIONS)
    path.write_text(HAND_EDITS[what](path.read_text()))
    before = path.read_bytes()
    with pytest.raises(InputError) as refused:
        open_split(path, data, OPTIONS)
    assert "data_split.json" in str(refused.value) and path.read_bytes() == before


@pytest.mark.parametrize("name", ["../x.png", "/etc/passwd", "a/../../x", 7, None])
def test_vae_training_and_manifests_read_no_path_that_leads_out(tmp_path, name):
    with pytest.raises(InputError, match="no path below"):
        check_inside(["ID_1/a.png", name], "manifest.json")
    names = [f"ID_1/{i}.png" for i in range(20)]
    (tmp_path / "split.json").write_text(json.dumps(
        {"strategy": "contiguous", "guard": 3, "users": {"1": {"train_images": [*names, str(name)]}}}))
    if isinstance(name, str):
        with pytest.raises(InputError, match="no path below"):
            read_split(tmp_path / "split.json")


@given(st.dictionaries(st.integers(1, 5), st.integers(1, 60), min_size=1), st.integers(1, 40), st.integers(0, 2),
       st.integers(0, 5), st.sampled_from(["contiguous", "random"]))
def test_a_split_is_fair_or_refused(counts, wanted, fold, guard, strategy):
    """No image on both sides, as many to train as asked for, and in a contiguous split none within the guard."""
    names = {user: [f"ID_{user}/{i}.png" for i in range(count)] for user, count in counts.items()}
    settings = SplitSettings(len(counts), wanted, strategy, fold, guard, 0)
    try:
        split = split_of(names, settings)
    except InputError:
        assert min(counts.values()) <= wanted + 2 * guard
        return
    for user, own in names.items():
        train, test = split.train_images[user], split.test_images[user]
        assert len(train) == wanted and test and not set(train) & set(test) and set(train) | set(test) <= set(own)
        if strategy == "contiguous":
            distance = min(abs(own.index(a) - own.index(b)) for a in train for b in test)
            assert distance > guard and train == own[own.index(train[0]):][:wanted]


@given(st.text())
def test_what_is_printed_cannot_command_a_terminal(text):
    assert printable(text).isprintable()
