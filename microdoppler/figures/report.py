"""Parts of a report (tables and pictures), and one HTML file that contains all of them."""
import base64
import html
import mimetypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

import jinja2
from matplotlib.figure import Figure

from groundwork.files import atomic_path, write_text
from microdoppler.figures.fonts import text_width

FIGURE_DPI = 120        # dots per inch; large images get more


@dataclass(frozen=True)
class Table:
    """A table of text. The first column is aligned left, the others right. `caption` explains it, below."""
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def as_text(self) -> str:
        """The table without its caption, as lines of text."""
        lines = [self.header, *self.rows]
        widths = [max(text_width(line[i]) for line in lines) for i in range(len(self.header))]
        padded = [[_padded(cell, width, align_right=i > 0) for i, (cell, width) in enumerate(zip(line, widths))]
                  for line in lines]
        padded.insert(1, ["-" * width for width in widths])
        return "\n".join("  ".join(line).rstrip() for line in padded)

    def as_markdown(self) -> str:
        """The table with its caption below. Cells are escaped: they can neither break the table nor contain HTML."""
        lines = [self.header, *self.rows]
        cells = ["| " + " | ".join(html.escape(cell, quote=False).replace("|", "\\|") for cell in line) + " |"
                 for line in lines]
        cells.insert(1, "|" + "---|" + "---:|" * (len(self.header) - 1))
        return "\n".join(cells) + (f"\n\n{self.caption}" if self.caption else "")


def _padded(cell: str, width: int, align_right: bool) -> str:
    spaces = " " * (width - text_width(cell))
    return spaces + cell if align_right else cell + spaces


@dataclass(frozen=True)
class Picture:
    """An image file, embedded when the report is rendered. `caption` is below it, and is its alternative text."""
    path: Path
    caption: str = ""

    @property
    def data_uri(self) -> str:
        """The file as a data URI."""
        kind = mimetypes.guess_type(self.path.name)[0] or "image/png"
        return f"data:{kind};base64,{base64.b64encode(Path(self.path).read_bytes()).decode('ascii')}"


@dataclass(frozen=True)
class Verdict:
    """What a report answers: one line, and sentences that explain it. All texts are plain text, not HTML.

    mood: "good", "bad", or "open" where the answer is neither; it decides the colour. picture: stands beside the
    sentences.
    """
    line: str
    mood: str
    details: Sequence[str] = ()
    picture: Picture | None = None

    def as_text(self) -> str:
        """The line and the sentences as lines of text."""
        return "\n".join([self.line, *(f"  {sentence}" for sentence in self.details)])


@dataclass(frozen=True)
class Section:
    """A heading, then paragraphs, tables and pictures, in this order. All texts are plain text, not HTML."""
    heading: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as an image file, completely or not at all. The figure must be made by matplotlib.figure.Figure(),
    not by pyplot.
    """
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=max(FIGURE_DPI, figure.dpi), bbox_inches="tight")


def render_report(path: str | Path, title: str, verdict: Verdict, sections: Sequence[Section]) -> None:
    """Write an HTML file that needs no other file: pictures become data URIs. All texts are escaped."""
    write_text(path, render(TEMPLATE, title=title, verdict=verdict, sections=sections))


def render(template: str, **values: Any) -> str:
    """Fill in a Jinja template of HTML. All values are escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True)
    return environment.from_string(template).render(values)


# Text and tables are equally wide. A row of 115 letters, in columns, fits a window of 1000 pixels.
TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 58rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.1rem; font-weight: 600; color: #555; margin: 0 0 .7rem; }
  h2 { font-size: 1.3rem; margin: 3rem 0 1rem; border-bottom: 1px solid #ddd; }
  .verdict { border-left: .4rem solid var(--mood); padding-left: 1.1rem; }
  .verdict > p { font-size: 1.3rem; line-height: 1.25; font-weight: 700; color: var(--mood); margin: 0 0 .8rem; }
  .verdict > div { display: grid; grid-template-columns: 2fr 3fr; gap: 1rem 2rem; align-items: center; }
  .verdict ul { margin: 0; padding-left: 1.1rem; }
  .verdict li { margin-bottom: .5rem; }
  .verdict figure { margin: 0; }
  .good { --mood: #18794e; } .bad { --mood: #b42318; } .open { --mood: #444; }
  @media (max-width: 45rem) { .verdict > div { grid-template-columns: 1fr; } }
  .scroll { overflow-x: auto; margin: 1.2rem 0; }
  table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
  caption { caption-side: bottom; text-align: left; color: #555; padding-top: .4rem; line-height: 1.4; }
  th, td { padding: .3rem .5rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: bottom; }
  th:first-child, td:first-child { text-align: left; padding-left: 0; }
  td { white-space: nowrap; }
  td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 7rem; }
  figure { margin: 1.5rem 0; }
  figure img { max-width: 100%; height: auto; }
  figcaption { color: #555; font-size: .9rem; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<section class="verdict {{ verdict.mood }}">
<p>{{ verdict.line }}</p>
<div>
<ul>
{% for sentence in verdict.details %}
<li>{{ sentence }}</li>
{% endfor %}
</ul>
{% if verdict.picture %}
<figure><img src="{{ verdict.picture.data_uri }}" alt="{{ verdict.picture.caption }}">
<figcaption>{{ verdict.picture.caption }}</figcaption></figure>
{% endif %}
</div>
</section>
{% for section in sections %}
<section>
<h2>{{ section.heading }}</h2>
{% for paragraph in section.paragraphs %}
<p>{{ paragraph }}</p>
{% endfor %}
{% for table in section.tables %}
<div class="scroll"><table>
{% if table.caption %}
<caption>{{ table.caption }}</caption>
{% endif %}
<thead><tr>{% for cell in table.header %}<th scope="col">{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table></div>
{% endfor %}
{% for picture in section.pictures %}
<figure><img src="{{ picture.data_uri }}" alt="{{ picture.caption }}">
<figcaption>{{ picture.caption }}</figcaption></figure>
{% endfor %}
</section>
{% endfor %}
</body>
</html>
"""
