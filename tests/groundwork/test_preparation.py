"""From files of any shape and depth to square arrays, and where these lie in the files."""
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toys import RAMP, RGB

from groundwork.errors import InputError
from groundwork.images import load_image, load_images, read_as_shown, size_as_shown, to_picture
from groundwork.preparation import FITS, Preparation

SIDES = st.integers(16, 200)
FIT = st.sampled_from(FITS)


@st.composite
def boxes(draw):
    """The size of an image, and a box of at least 16 pixels each way in it, or None."""
    size = draw(st.tuples(SIDES, SIDES))
    if draw(st.booleans()):
        return size, None
    left, top = (draw(st.integers(0, side - 16)) for side in size)
    return size, (left, top, draw(st.integers(left + 16, size[0])), draw(st.integers(top + 16, size[1])))


def positions(size):
    """An RGB image whose red rises from 0 to 255 along the width, and its green along the height."""
    x, y = (255 * (np.arange(side) + 0.5) / side for side in size)
    return Image.fromarray(np.dstack([*np.broadcast_arrays(x[None, :], y[:, None]), np.zeros(size[::-1])])
                           .round().astype(np.uint8))


@given(boxes(), FIT)
@settings(max_examples=150, deadline=None)
def test_every_pixel_shows_the_place_that_the_region_says(sized, fit):
    size, crop = sized
    preparation, side = Preparation(fit, crop), 64
    with tempfile.TemporaryDirectory() as folder:
        positions(size).save(Path(folder) / "a.png")
        shown = load_image(Path(folder) / "a.png", side, preparation=preparation).astype(float)
    region = preparation.region_of_file(size)
    x, y = ((start + (np.arange(side) + 0.5) / side * length)
            for start, length in ((region.left, region.width), (region.top, region.height)))
    box = preparation.box(size)
    sharp = 2 * max(region.width, region.height) / side + 2 / min(size)     # the resampling looks two pixels around
    inside_x, inside_y = ((box[i] / size[i] + sharp < at) & (at < box[i + 2] / size[i] - sharp)
                          for i, at in enumerate((x, y)))
    inside = inside_y[:, None] & inside_x
    assert abs(shown[..., 0] - 255 * x)[inside].max(initial=0) < 4 + 255 / side * region.width
    assert abs(shown[..., 1] - 255 * y[:, None])[inside].max(initial=0) < 4 + 255 / side * region.height
    outside_x, outside_y = ((at < box[i] / size[i] - sharp) | (at > box[i + 2] / size[i] + sharp)
                            for i, at in enumerate((x, y)))
    assert not shown[outside_y[:, None] | outside_x].any()


@given(boxes(), FIT)
def test_what_is_lost_and_what_is_added(sized, fit):
    size, crop = sized
    preparation = Preparation(fit, crop)
    left, top, right, bottom = preparation.box(size)
    inner, whole = preparation.region_of_box(size), preparation.region_of_file(size)
    assert inner.left + inner.right == pytest.approx(1) == inner.top + inner.bottom       # in the middle
    extent = inner.width * (right - left), inner.height * (bottom - top)                  # in pixels of the file
    assert (whole.width * size[0], whole.height * size[1]) == pytest.approx(extent)
    if fit == "stretch":
        assert inner == (0, 0, 1, 1)
    else:
        assert extent[0] == pytest.approx(extent[1])
        shorter = min if fit == "crop" else max
        assert extent[0] == pytest.approx(shorter(right - left, bottom - top))


@given(st.tuples(SIDES, SIDES), st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_shares_are_pixels_of_each_image(size, shares):
    left, right = sorted(shares[:2])
    top, bottom = sorted(shares[2:])
    pixels = [round(share * side) for share, side in zip((left, top, right, bottom), size * 2)]
    if min(pixels[2] - pixels[0], pixels[3] - pixels[1]) >= 8:
        assert Preparation(crop=(left, top, right, bottom)).box(size) == tuple(pixels)


@pytest.mark.parametrize("fit", FITS)
def test_square_images_are_as_they_were_with_every_fit(tmp_path, fit):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    assert np.array_equal(load_image(tmp_path / "a.png", 64, preparation=Preparation(fit)), RGB)
    resized = Image.fromarray(RGB).resize((24, 24), Image.Resampling.BICUBIC)
    assert np.array_equal(load_image(tmp_path / "a.png", 24, preparation=Preparation(fit)), resized)


def test_nothing_of_a_wide_image_is_lost_by_default(tmp_path):
    Image.fromarray(np.repeat(RGB, 4, axis=1)).save(tmp_path / "wide.png")
    assert abs(load_image(tmp_path / "wide.png", 64).astype(int) - RGB).max() <= 4


def test_the_box_to_keep_is_that_of_the_image_as_it_is_shown(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6        # to be shown a quarter turn clockwise
    Image.fromarray(np.rot90(RGB[:32])).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        assert (image.size, size_as_shown(image)) == ((32, 64), (64, 32))
    kept = to_picture(read_as_shown(tmp_path / "turned.png"), Preparation(crop=(16, 0, 48, 32)))
    assert np.array_equal(kept, RGB[:32, 16:48])


# ---------------------------------------------------------------------------------------------------- levels

TWELVE_BITS = RAMP.astype(np.uint16) * 16       # up to 4080


@pytest.mark.parametrize("name, values, levels", [
    ("12 bits.png", TWELVE_BITS, (0, 4080)), ("12 bits.tif", TWELVE_BITS, (0, 4080)),
    ("float.tiff", RAMP.astype(np.float32) / 8 - 20, (-20, 255 / 8 - 20)),
    ("32 bits.tif", RAMP.astype(np.int32) - 1000, (-1000, -745)), ("8 bits.png", RAMP // 8, (0, 255 / 8)),
    ("colours.png", RGB // 8, (0, 255 / 8)), ("big endian.tif", TWELVE_BITS.astype(">u2"), (0, 4080))])
def test_levels_say_what_is_black_and_what_is_white(tmp_path, name, values, levels):
    Image.fromarray(values).save(tmp_path / name)
    found = load_images(tmp_path, [name], 64, preparation=Preparation(levels=levels))[0]
    rounding = 8 if "8 bits" in name or "colours" in name else 1
    assert abs(found.permute(1, 2, 0).numpy().astype(int) - RGB).max() <= rounding


def test_values_beyond_the_levels_are_clipped_and_no_number_is_black(tmp_path):
    values = np.full((16, 16), 5, np.float32)
    values[:, 0], values[:, 1], values[:, 2] = np.nan, -1e30, np.inf
    Image.fromarray(values).save(tmp_path / "a.tif")
    found = load_image(tmp_path / "a.tif", 16, 1, Preparation(levels=(0, 10)))[0, :, 0]
    assert found[:4].tolist() == [0, 0, 255, 128]


def test_without_levels_16_bits_are_scaled_and_floats_are_refused_with_advice(tmp_path):
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "a.tif")
    assert np.array_equal(load_image(tmp_path / "a.tif", 64), RGB)
    Image.fromarray(RAMP.astype(np.float32) - 100).save(tmp_path / "b.tif")
    with pytest.raises(InputError, match="b.tif: it holds 32-bit values, from -100 to 155; .*--levels low high"):
        load_images(tmp_path, ["b.tif"], 64)


def test_of_several_pages_the_first_is_read(tmp_path):
    pages = [Image.fromarray(page) for page in (RGB, 255 - RGB, RGB // 2)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    assert np.array_equal(load_image(tmp_path / "pages.tif", 64), RGB)


# ---------------------------------------------------------------------------------------------------- what is refused

@pytest.mark.parametrize("values, words", [
    ({"fit": "squeeze"}, "--fit is 'squeeze'; expected stretch, crop or pad"),
    ({"crop": (10, 0, 10, 20)}, "--crop is 10 0 10 20; expected left top right bottom"),
    ({"crop": (-1, 0, 10, 20)}, "--crop is -1 0"), ({"crop": (0.1, 0, 200, 200)}, "whole pixels, or four shares"),
    ({"crop": (0, 0, 1)}, "--crop .* 4 numbers"), ({"crop": 3}, "--crop is 3; expected 4 numbers"),
    ({"crop": (0, 0, "1", 1)}, "4 numbers"), ({"crop": (0, 0, float("nan"), 1)}, "4 numbers"),
    ({"levels": (5, 5)}, "--levels is 5 5; .* lower one first"), ({"levels": (0, float("inf"))}, "2 numbers"),
    ({"levels": (0, 10 ** 400)}, "--levels .* 2 numbers")])
def test_other_settings_are_refused_by_name(values, words):
    with pytest.raises(InputError, match=words):
        Preparation(**values)


@pytest.mark.parametrize("crop", [(0, 0, 65, 64), (0, 0, 64, 65), (60, 0, 64, 64), (0, 0, 0.05, 1)])
def test_a_box_that_does_not_lie_in_the_image_is_refused_with_its_size(tmp_path, crop):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="a.png: --crop .* image of 64 x 64 pixels"):
        load_images(tmp_path, ["a.png"], 64, preparation=Preparation(crop=crop))


@pytest.mark.parametrize("preparation", [Preparation(), Preparation("pad", (1, 2, 30, 40), (0, 4095)),
                                         Preparation("crop", [0.1, 0, 0.9, 1.0], [-20.5, 0])])
def test_settings_to_json_and_back(preparation):
    assert Preparation.from_json(json.loads(json.dumps(preparation.to_json()))) == preparation
    assert isinstance(hash(preparation), int)


@pytest.mark.parametrize("value", [None, [], {}, {"fit": "crop"}, {"fit": [], "crop": None, "levels": None},
                                   {"fit": "crop", "crop": {"a": 1}, "levels": None}, {"fit": "pad", "colour": 1}])
def test_other_json_is_refused(value):
    with pytest.raises(InputError):
        Preparation.from_json(value)
