"""Fonts for text in figures. Names of persons and folders may be in any script; matplotlib's own font has no Chinese.

An installed font that has the characters is used. Where there is none, a name is replaced by one that can be shown.
"""
from functools import cache
from pathlib import Path
from typing import Iterator, Mapping
from unicodedata import east_asian_width

from matplotlib import rcParams
from matplotlib.font_manager import FontProperties, findSystemFonts, fontManager
from matplotlib.ft2font import FT2Font

# Beginnings of the names of fonts that are looked at first: these have Chinese, and no serifs
PREFERRED = ("Noto Sans", "Microsoft YaHei", "PingFang", "Hiragino Sans", "Source Han Sans", "WenQuanYi", "SimHei",
             "Droid Sans Fallback")
PLACEHOLDERS = ("Last Resort", "Adobe Blank")      # these "have" every character, and show all as the same box
UNKNOWN = "?"       # stands for a character that no installed font has


def plain_text(text: str) -> str:
    """The text for a figure. A dollar sign is escaped, because matplotlib reads text between two of them as a formula.
    A character that no installed font has becomes "?".
    """
    return "".join(char if can_show(char) else UNKNOWN for char in text).replace("$", r"\$")


def text_width(text: str) -> int:
    """The width of the text in letters. Chinese characters are as wide as two letters, in figures and terminals."""
    return sum(1 + (east_asian_width(char) in "WF") for char in text)


def figure_names(names: Mapping[int, str], classes: Mapping[int, str] | None = None) -> dict[int, str]:
    """The names of users as figures can show them.

    names: {user number: name}; classes: {user number: name of the folder}. A name that no installed font can show is
    replaced by that of the folder, or else by "user <number>".
    """
    return {user: next((text for text in (name, (classes or {}).get(user, name)) if can_show(text)), f"user {user}")
            for user, name in names.items()}


def can_show(text: str) -> bool:
    """Whether installed fonts have all characters of the text. From then on, all figures use these fonts.

    Where a character is in no font, one line says so, once per process.
    """
    missing = sorted({char for char in text if char.isprintable() and not _find_font(char)})
    if missing:
        _tell_missing()
    return not missing


@cache
def _find_font(char: str) -> bool:
    """Whether a font has this character. If matplotlib would not use that font by itself, it is added to its list."""
    families = rcParams["font.family"]
    if any(ord(char) in _characters(fontManager.findfont(FontProperties(family=[name]))) for name in families):
        return True
    for name, path in _installed_fonts():
        if ord(char) in _characters(path):
            rcParams["font.family"] = [*families, name]
            return True
    return False


def _installed_fonts() -> Iterator[tuple[str, str]]:
    """(family, path) of all upright fonts, the preferred ones first."""
    _add_new_fonts()
    rank = {name: next((i for i, start in enumerate(PREFERRED) if name.startswith(start)), len(PREFERRED))
            for name in {font.name for font in fontManager.ttflist}}
    for font in sorted(fontManager.ttflist, key=lambda font: (rank[font.name], font.name, font.weight != 400)):
        if font.style == "normal" and not font.name.startswith(PLACEHOLDERS):
            yield font.name, font.fname


@cache
def _add_new_fonts() -> None:
    """Add the fonts that were installed after matplotlib had made its list, which it stores and never renews."""
    known = {Path(font.fname) for font in fontManager.ttflist}
    for path in map(Path, findSystemFonts()):
        if path not in known:
            try:
                fontManager.addfont(path)
            except Exception:       # a broken font file; FreeType raises several kinds of errors
                continue


@cache
def _characters(path: str) -> frozenset[int]:
    """The code points of a font file; none if it cannot be read."""
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


@cache
def _tell_missing() -> None:
    print("note: no installed font has all characters of the names; figures show folders, user numbers or "
          f"{UNKNOWN} instead. Install Noto Sans CJK for Chinese (Debian, Ubuntu, Kaggle: apt-get install "
          "fonts-noto-cjk), then run this again")
