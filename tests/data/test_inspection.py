"""What is said about a folder of images before anything is made of them, and that nothing is said about good ones."""
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from groundwork.errors import InputError
from groundwork.preparation import Preparation
from microdoppler.data.inspection import inspect
from microdoppler.data.spectrograms import find_classes, find_images
from microdoppler.figures.report import save_figure

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "real_gait" / "Normal_line"     # as test_real_data.py
ROWS, TIMES = np.mgrid[0:64, 0:64] / 64


def spectrogram(seed):
    """A bright line that swings, with noise, on a dark ground: (64, 64) uint8."""
    rng = np.random.default_rng(seed)
    line = 0.5 + 0.15 * np.sin(2 * np.pi * (2 * TIMES + rng.random()))
    echo = np.exp(-((ROWS - line) / 0.1) ** 2) * rng.uniform(0.6, 1, ROWS.shape)
    return (255 * np.clip(echo + 0.05 * rng.random(ROWS.shape), 0, 1)).astype(np.uint8)


def write(root, draw=lambda values, user, number: Image.fromarray(values), users=3, per_user=20, suffix=".png"):
    """{user: names} of images that draw(values (64, 64) uint8, user, number) returns or saves."""
    images = {}
    for user in range(1, users + 1):
        images[user] = [f"ID_{user}/{number}{suffix}" for number in range(per_user)]
        (root / f"ID_{user}").mkdir(parents=True)
        for number, name in enumerate(images[user]):
            drawn = draw(spectrogram(100 * user + number), user, number)
            drawn.savefig(root / name) if isinstance(drawn, Figure) else drawn.save(root / name)
    return images


def plot(values, title="", cmap="jet", bar=False):
    """A figure of 240 x 180 pixels with axes, whose plot is the box of PLOT."""
    figure = Figure(figsize=(2.4, 1.8), dpi=100)
    axes = figure.add_axes((0.2, 0.2, 0.6, 0.65))
    axes.set_title(title)
    drawn = axes.imshow(values, cmap=cmap, aspect="auto", extent=(0, 2, -3, 3), vmin=0, vmax=255)
    if bar:
        figure.colorbar(drawn, cax=figure.add_axes((0.85, 0.2, 0.04, 0.65)))
    return figure


PLOT = (48, 27, 192, 144)


def proposed_crop(inspection):
    line = next(line for line in inspection.lines if "--crop" in line)
    return [float(value) for value in re.search(r"--crop ([\d.]+(?: [\d.]+){3})", line)[1].split()]


# ---------------------------------------------------------------------------------------------------- nothing to say

@pytest.mark.parametrize("draw", [lambda values, *_: Image.fromarray(values),
                                  lambda values, *_: Image.fromarray(255 - values),
                                  lambda values, *_: Image.fromarray(values.astype(np.uint16) * 257)])
def test_nothing_is_said_about_good_images(tmp_path, draw):
    assert inspect(tmp_path, write(tmp_path, draw)).lines == []


def test_images_that_cannot_be_read_are_left_to_others_to_name(tmp_path):
    images = write(tmp_path)
    (tmp_path / images[1][0]).write_text("no image")
    whole = tmp_path / images[2][3]
    whole.write_bytes(whole.read_bytes()[:-30])
    assert inspect(tmp_path, images).lines == []
    for name in sum(images.values(), []):
        (tmp_path / name).write_text("no image")
    with pytest.raises(InputError, match="none of the images in .* can be read"):
        inspect(tmp_path, images)


# ---------------------------------------------------------------------------------------------------- sizes

@pytest.mark.parametrize("fit, words", [
    ("stretch", "images of 128 x 64 become square: each axis is resized on its own"),
    ("crop", "warning: 50% of the width of images of 128 x 64 is cut away (--fit crop)"),
    ("pad", "images of 128 x 64 get black borders, 100% of their height")])
def test_what_happens_to_images_that_are_not_square_is_said(tmp_path, fit, words):
    images = write(tmp_path, lambda values, *_: Image.fromarray(values.repeat(2, axis=1)), per_user=6)
    (line,) = inspect(tmp_path, images, Preparation(fit)).lines
    assert words in line
    assert inspect(tmp_path, images, Preparation(fit, (0, 0, 64, 64))).lines == []


def test_a_class_of_another_size_is_a_warning(tmp_path):
    images = write(tmp_path, lambda values, user, _: Image.fromarray(values.repeat(1 + (user == 3), axis=0)))
    lines = inspect(tmp_path, images).lines
    assert any("differ in size: 40 of 64 x 64, 20 of 64 x 128" in line for line in lines)
    assert any("ID_3 has no image of the usual size: the size gives the class away" in line for line in lines)


def test_a_crop_that_does_not_lie_in_one_of_the_images_is_refused(tmp_path):
    images = write(tmp_path, lambda values, user, _: Image.fromarray(values[:32 * user]), users=2)
    with pytest.raises(InputError, match="--crop 0 0 64 64 .* 64 x 32"):
        inspect(tmp_path, images, Preparation(crop=(0, 0, 64, 64)))


def test_several_pages_are_counted(tmp_path):
    images = write(tmp_path, suffix=".tif")
    page = Image.fromarray(spectrogram(1))
    page.save(tmp_path / images[2][0], save_all=True, append_images=[page, page])
    assert inspect(tmp_path, images).lines == ["1 images have several pages; only the first page is read"]


# ---------------------------------------------------------------------------------------------------- margins

@pytest.mark.parametrize("cmap", ["jet", "Greys"])      # Greys: the plot's ground is as white as the margin
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_the_plot_in_a_figure_is_found(tmp_path, cmap, suffix):
    images = write(tmp_path, lambda values, *_: plot(values, cmap=cmap, bar=True), users=2, per_user=6, suffix=suffix)
    inspection = inspect(tmp_path, images)
    assert proposed_crop(inspection) == pytest.approx(PLOT, abs=2)
    assert not inspection.has_class_text and not inspection.has_image_text
    save_figure(inspection.figure(), tmp_path / "proposal.png")
    with Image.open(tmp_path / "proposal.png") as picture:
        assert picture.size[0] > 800
    again = inspect(tmp_path, images, inspection.proposal())
    assert not any("--crop" in line for line in again.lines)


def test_a_crop_that_leaves_margins_is_improved(tmp_path):
    images = write(tmp_path, lambda values, *_: plot(values), users=2, per_user=6)
    assert proposed_crop(inspect(tmp_path, images, Preparation(crop=(20, 0, 230, 170)))) == pytest.approx(PLOT, abs=2)


def test_figures_of_several_sizes_get_shares(tmp_path):
    def draw(values, user, number):
        figure = plot(values)
        figure.set_size_inches((3.6, 2.7) if number == 5 else (2.4, 1.8))
        return figure
    images = write(tmp_path, draw, users=2, per_user=12)
    shares = np.array(PLOT) / np.array([240, 180] * 2)
    assert proposed_crop(inspect(tmp_path, images)) == pytest.approx(shares, abs=0.02)


def test_a_title_with_the_label_is_a_warning_and_one_with_a_number_too(tmp_path):
    few = {"users": 2, "per_user": 6}
    labelled = write(tmp_path / "a", lambda values, user, _: plot(values, f"ID {user}"), **few)
    assert any("differs between classes, as a title" in line for line in inspect(tmp_path / "a", labelled).lines)
    numbered = write(tmp_path / "b", lambda values, user, number: plot(values, f"frame {number}"), **few)
    assert any("text beside the plot differs between" in line for line in inspect(tmp_path / "b", numbered).lines)
    same = write(tmp_path / "c", lambda values, *_: plot(values, "Doppler"), **few)
    assert not any("differs" in line for line in inspect(tmp_path / "c", same).lines)


def test_a_mark_in_the_picture_that_tells_the_class_is_a_warning(tmp_path):
    def draw(values, user, _):
        values[2:12, 10 * user:10 * user + 8] = 255
        return Image.fromarray(values)
    assert any("differs between classes" in line for line in inspect(tmp_path, write(tmp_path, draw)).lines)


# ---------------------------------------------------------------------------------------------------- levels

@pytest.mark.parametrize("stored, suffix, levels", [
    (lambda values: values.astype(np.uint16) * 16, ".png", (0, 4095)),
    (lambda values: values.astype(np.uint16) * 16, ".tif", (0, 4095)),
    (lambda values: values // 8, ".png", (0, 31)), (lambda values: 200 + values // 16, ".png", (200, 215))])
def test_images_that_use_a_part_of_their_range_are_a_warning(tmp_path, stored, suffix, levels):
    images = write(tmp_path, lambda values, *_: Image.fromarray(stored(values)), suffix=suffix)
    inspection = inspect(tmp_path, images)
    assert inspection.levels == pytest.approx(levels, abs=1)
    assert any(f"--levels {inspection.levels[0]:g} {inspection.levels[1]:g}" in line for line in inspection.lines)
    assert inspect(tmp_path, images, inspection.proposal()).lines == []


def test_float_images_get_levels_before_anything_else_is_said(tmp_path):
    images = write(tmp_path, lambda values, *_: Image.fromarray(values / np.float32(8) - 30), suffix=".tiff")
    inspection = inspect(tmp_path, images)
    assert inspection.levels == pytest.approx((-30, 2), abs=0.5)
    assert inspect(tmp_path, images, inspection.proposal()).lines == []
    save_figure(inspection.figure(), tmp_path / "proposal.png")


def test_levels_that_fit_badly_are_improved_in_values_of_the_file(tmp_path):
    images = write(tmp_path, lambda values, *_: Image.fromarray(values.astype(np.uint16) * 16))
    assert inspect(tmp_path, images, Preparation(levels=(0, 65535))).levels == pytest.approx((0, 4080), abs=300)


# ---------------------------------------------------------------------------------------------------- odd images

def toolbar(values):
    values[:4] = 235
    values[1:3, 40:60:3] = 90


def half(values):
    values[32:] = 128


@pytest.mark.parametrize("fault", [toolbar, half, lambda values: values.fill(0), lambda values: values.fill(255),
                                   lambda values: np.copyto(values, values.T.copy())])
def test_a_single_odd_image_is_named_and_no_other(tmp_path, fault):
    def draw(values, user, number):
        if (user, number) == (2, 7):
            fault(values)
        return Image.fromarray(values)
    (line,) = inspect(tmp_path, write(tmp_path, draw, per_user=40)).lines
    assert line.startswith("warning: unlike the rest: ID_2/7.png;")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real spectrograms are not here")
def test_of_the_real_images_the_one_with_a_toolbar_is_named():
    (line,) = inspect(REAL, find_images(REAL, find_classes(REAL))).lines
    assert "unlike the rest" in line and "ID_6/ID6_case1_1_Doppler140.jpg" in line and line.count(".jpg") <= 2
