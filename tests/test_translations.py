"""What the English pages say, the Chinese ones say too: headings, code, tables, figures, links, section by section."""
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ["README", "TRAINING_CHECKLIST"]

FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
ROW = re.compile(r"^ *\|.*\|$", re.MULTILINE)
NUMBER = re.compile(r"(?:± ?|(?<![A-Za-z\d])[-+])?(?:\d{1,3}(?: \d{3})+(?!\d)|\d+(?:\.\d+)*)(?:e-?\d+)?")


def sections(page):
    """[heading, text below it], in order; the first has no heading. What looks like a heading within code is none."""
    found, fenced = [["", ""]], False
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines(keepends=True):
        fenced ^= line.lstrip().startswith("```")
        if line.startswith("#") and not fenced:
            found.append([line.strip(), ""])
        else:
            found[-1][1] += line
    return found


def codes(text):
    """How often the text has each piece of `code`, however its lines are broken."""
    return Counter(" ".join(code.split()) for code in CODE.findall(text))


def numbers(text):
    """How often the text has each number, with its sign, outside of code and links; a space parts thousands."""
    return Counter(number.replace(" ", "") for number in NUMBER.findall(LINK.sub("]", CODE.sub("", text))))


def content(heading, text):
    """What a translation leaves as it is. Within a sentence words move, so there only the counts are compared."""
    without_code = FENCED.sub("", text)
    prose = ROW.sub("|", without_code)
    return {
        "heading level": len(heading) - len(heading.lstrip("#")),
        "code in the heading": codes(heading),
        "code blocks": FENCED.findall(text),
        "table rows": [[(codes(cell), numbers(cell), cell.count("**")) for cell in row.split("|")]
                       for row in ROW.findall(without_code)],
        "list items of each paragraph": [len(re.findall(r"^ *- ", paragraph, re.MULTILINE))
                                         for paragraph in re.split(r"\n\s*\n", prose.strip())],
        "code in the text": codes(prose),
        "numbers in the text": numbers(prose),
        "emphasis": CODE.sub("", prose).count("*"),
        "links": Counter(re.sub(r"_zh(?=\.md$)", "", target) for target in LINK.findall(text)),
    }


def difference(english, chinese):
    """Both sides, cut down to what differs."""
    if isinstance(english, Counter):
        return f"only in English {dict(english - chinese)}, only in Chinese {dict(chinese - english)}"
    if isinstance(english, list) and len(english) == len(chinese):
        number, pair = next((number, pair) for number, pair in enumerate(zip(english, chinese)) if pair[0] != pair[1])
        return f"number {number + 1} is {pair[0]} in English, {pair[1]} in Chinese"
    return f"{english} in English, {chinese} in Chinese"


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_say_the_same(page):
    english, chinese = sections(f"{page}.md"), sections(f"{page}_zh.md")
    for (heading, text), (translated_heading, translated_text) in zip(english, chinese):
        translated = content(translated_heading, translated_text)
        for kind, expected in content(heading, text).items():
            assert translated[kind] == expected, f"{page}_zh.md, {translated_heading!r} ({heading!r}), {kind}: " \
                + difference(expected, translated[kind])
    assert len(english) == len(chinese), f"{page}.md has {len(english)} sections, {page}_zh.md {len(chinese)}"


@pytest.mark.parametrize("page", PAGES)
def test_a_reader_is_led_to_pages_in_his_language(page):
    """Each page links its counterpart in the other language, and of the other pages the one in its own."""
    for language, other in (("", "_zh"), ("_zh", "")):
        linked = set(LINK.findall((ROOT / f"{page}{language}.md").read_text(encoding="utf-8")))
        assert f"{page}{other}.md" in linked, f"{page}{language}.md does not link {page}{other}.md"
        wrong = linked & {f"{name}{other}.md" for name in PAGES if name != page}
        assert not wrong, f"{page}{language}.md links {wrong}"


@pytest.mark.parametrize("page", PAGES)
def test_the_chinese_page_is_chinese(page):
    """No paragraph, list item, cell of words or heading was left in English."""
    for heading, text in sections(f"{page}_zh.md"):
        for line in [heading, *FENCED.sub("", text).splitlines()]:
            for piece in line.split("|"):
                words = re.findall(r"[A-Za-z]{2,}", LINK.sub("]", CODE.sub("", piece)))
                assert len(words) < 5 or re.search(r"[\u4e00-\u9fff]", piece), f"{heading!r}: {piece.strip()!r}"
