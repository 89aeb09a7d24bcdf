"""Names in any script: figures use an installed font that has them, or show something else and say so once."""
import json
import warnings

import matplotlib
import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager
from PIL import Image

from microdoppler.figures import fonts
from microdoppler.figures.film import Frame, draw_frames
from microdoppler.figures.legend import Legend
from microdoppler.figures.pictures import image_grid
from microdoppler.figures.report import Table, save_figure

CLASSES = {1: "ID_1", 2: "ID_2", 3: "步态"}
NAMES = {1: "张三", 2: "Юля", 3: "步态"}


def build_font(path, characters, name):
    """A font that shows each of these characters as a full black square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 800), (1000, 800), (1000, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square, glyphs = pen.glyph(), [".notdef", *(f"u{ord(char):X}" for char in characters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(glyphs)
    builder.setupCharacterMap({ord(char): f"u{ord(char):X}" for char in characters})
    builder.setupGlyf(dict.fromkeys(glyphs, square))
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": name, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture
def installed(monkeypatch):
    """Fonts that are installed after matplotlib made its list: a list of paths, empty; and matplotlib's own fonts."""
    found: list = []
    own = [font for font in fontManager.ttflist if font.fname.startswith(matplotlib.get_data_path())]
    monkeypatch.setattr(fontManager, "ttflist", own)
    monkeypatch.setattr(fonts, "findSystemFonts", lambda: found)
    caches = [value for value in vars(fonts).values() if hasattr(value, "cache_clear")]
    with matplotlib.rc_context():
        for cached in caches:
            cached.cache_clear()
        yield found
    for cached in caches:
        cached.cache_clear()
    fontManager._findfont_cached.cache_clear()


def grid(legend, path):
    """Write a figure with the names of all users, in which a missing glyph is an error."""
    image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(image_grid([(legend.figure_names[user], [image]) for user in legend.users], ["步 $x$"]), path)
        draw_frames([Frame(image.permute(1, 2, 0), legend.figure_names[1], 1.0)], None)


def test_an_installed_font_with_the_characters_is_used(installed, tmp_path, capsys):
    installed += [tmp_path / "broken.ttf", build_font(tmp_path / "some.ttf", "张三步态", "Some Font"),
                  build_font(tmp_path / "other.ttf", "张步态", "Noto Sans Imagined")]
    installed[0].write_bytes(b"no font")
    legend = Legend(CLASSES, NAMES, None)
    assert legend.figure_names == NAMES
    grid(legend, tmp_path / "grid.png")
    assert capsys.readouterr().out == ""
    assert {"Noto Sans Imagined", "Some Font"} <= set(matplotlib.rcParams["font.family"])     # the preferred one first
    black = np.asarray(Image.open(tmp_path / "grid.png").convert("L")) < 30
    assert black[:, :30].sum() > 60     # the squares of 张三, beside the image


def test_without_such_a_font_folders_or_numbers_are_shown_and_one_line_says_so(installed, tmp_path, capsys):
    legend = Legend(CLASSES, NAMES, None)
    assert legend.figure_names == {1: "ID_1", 2: "Юля", 3: "user 3"}
    grid(legend, tmp_path / "grid.png")
    assert fonts.figure_names(NAMES) == {1: "user 1", 2: "Юля", 3: "user 3"}
    assert fonts.plain_text("步态/ID $1\n2") == "??/ID \\$1\n2"
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "Install Noto Sans CJK" in out


def test_the_names_stay_as_they_are_outside_figures(installed):
    legend = Legend(CLASSES, NAMES, None)
    assert legend.figure_names != NAMES
    assert Legend.of(json.loads(json.dumps(legend.to_plain())), 3, "a checkpoint").names == NAMES
    lines = Table(["", "images"], [["张三", "5"], ["Юля", "5"]]).as_text().splitlines()
    assert lines[2] == "张三       5" and lines[3] == "Юля        5"      # Chinese letters are as wide as two
