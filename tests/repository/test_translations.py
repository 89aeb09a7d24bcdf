"""What the English pages say, the Chinese ones say too: same structure, code, commands, figures and links, in order."""
import os
import re
from collections import Counter
from itertools import zip_longest
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ["README", "TRAINING_CHECKLIST",
         *(f"docs/{page}" for page in ("kaggle", "several_gpus", "data", "convert", "study", "choosing", "more_studies",
                                          "app", "own_vae", "configuration", "errors", "comparison"))]

BETWEEN_PIECES = re.compile(r"(^ *```.*?^ *```$)|\n\s*\n|\n(?= *(?:- |\||#))", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`]+`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
NUMBER = re.compile(r"(?:± ?|(?<![A-Za-z\d])[-+])?(?:\d{1,3}(?: \d{3})+(?!\d)|\d+(?:\.\d+)*)(?:e-?\d+)?")
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def read(page):
    return (ROOT / f"{page}.md").read_text(encoding="utf-8")


def pieces(page):
    """[(section, kind, text)] of the headings, code blocks, table cells, list items and paragraphs, in order."""
    found, section = [], ""
    for piece in filter(None, map(str.strip, filter(None, BETWEEN_PIECES.split(read(page))))):
        if piece.startswith("#"):
            section = piece
            found.append((section, f"heading of level {piece.index(' ')}", piece))
        elif piece.startswith("|"):
            found += [(section, "table cell", cell) for cell in piece[1:-1].split("|")] + [(section, "end of row", "")]
        else:
            kind = "code block" if piece.startswith("```") else "list item" if piece.startswith("- ") else "paragraph"
            found.append((section, kind, piece))
    return found


def untranslated(kind, text):
    """How often the text has each thing that a translation leaves as it is. Words move within a sentence: no order.

    These are pieces of `code`, however their lines are broken, link targets, stars of emphasis, and numbers with their
    signs, where a space parts thousands and English number words are no numbers. A block of code is one such thing.
    """
    if kind == "code block":
        return Counter([text])
    code = [" ".join(span.split()) for span in CODE.findall(text)]
    links = [re.sub(r"_zh\.md$", ".md", target) for target in LINK.findall(text)]
    prose = CODE.sub("", LINK.sub("]", text))
    return Counter(code + links + re.findall(r"\*", prose) + [sign.replace(" ", "") for sign in NUMBER.findall(prose)])


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_say_the_same(page):
    end = ("the end", "no more", "")
    for english, chinese in zip_longest(pieces(page), pieces(f"{page}_zh"), fillvalue=end):
        where = f"{page}_zh.md, {chinese[0]!r} ({english[0]!r}): {chinese[1]} {chinese[2][:60]!r} "
        assert chinese[1] == english[1], where + f"stands for {english[1]} {english[2][:60]!r}"
        expected, found = untranslated(*english[1:]), untranslated(*chinese[1:])
        assert found == expected, where + f"lacks {list((expected - found).elements())}, " \
            f"and has {list((found - expected).elements())}, which the English has not"


@pytest.mark.parametrize("page", PAGES)
def test_readers_are_led_to_pages_in_their_language(page):
    """Each page links its counterpart in the other language, and of the other pages the one in its own."""
    for language, other in (("", "_zh"), ("_zh", "")):
        folder = os.path.dirname(page)
        linked = {os.path.normpath(os.path.join(folder, target.partition("#")[0]))
                  for target in LINK.findall(read(page + language))}
        assert f"{page}{other}.md" in linked, f"{page}{language}.md does not link {page}{other}.md"
        wrong = linked & {f"{name}{other}.md" for name in PAGES if name != page}
        assert not wrong, f"{page}{language}.md links {wrong}"


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_left_in_english(page):
    for section, kind, text in pieces(f"{page}_zh"):
        words = re.findall(r"[A-Za-z]{2,}", CODE.sub("", LINK.sub("]", text)))
        assert kind == "code block" or len(words) < 5 or CHINESE.search(text), f"{page}_zh.md, {section!r}: {text!r}"
