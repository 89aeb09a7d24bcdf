"""Parts of a report (tables and pictures), and one HTML file that contains all of them."""
import base64
import html
import mimetypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

import jinja2
from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from groundwork.files import atomic_path, write_text

FIGURE_DPI = 120        # dots per inch; large images get more
CHINESE_FONTS = ("Noto Sans CJK SC", "Noto Sans SC", "Microsoft YaHei", "PingFang SC", "SimHei")
# For characters that the first font lacks, if one of the others is installed
rcParams["font.family"] = ["DejaVu Sans", *sorted({font.name for font in fontManager.ttflist} & set(CHINESE_FONTS))]


@dataclass(frozen=True)
class Table:
    """A table of text. The first column is aligned left, the others right. In HTML, `caption` is above it."""
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def as_text(self) -> str:
        """The table without its caption, as lines of text."""
        lines = [self.header, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        padded = [[cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(line, widths))]
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
class Section:
    """A heading, then paragraphs, tables and pictures, in this order. All texts are plain text, not HTML."""
    heading: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()


def plain_text(text: str) -> str:
    """Escape text for a figure, because matplotlib reads text between dollar signs as a formula."""
    return text.replace("$", r"\$")


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as an image file, completely or not at all. The figure must be made by matplotlib.figure.Figure(),
    not by pyplot.
    """
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=max(FIGURE_DPI, figure.dpi), bbox_inches="tight")


def render_report(path: str | Path, title: str, sections: Sequence[Section]) -> None:
    """Write an HTML file that needs no other file: pictures become data URIs. All texts are escaped."""
    write_text(path, render(TEMPLATE, title=title, sections=sections))


def render(template: str, **values: Any) -> str:
    """Fill in a Jinja template of HTML. All values are escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True)
    return environment.from_string(template).render(values)


TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 78rem; margin: 2rem auto; padding: 0 1rem; }
  h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
  p { max-width: 46rem; }
  .scroll { overflow-x: auto; }
  table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
  caption { text-align: left; color: #555; padding-bottom: .3rem; }
  th, td { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: right; }
  th:first-child, td:first-child { text-align: left; }
  td { white-space: nowrap; }
  figure { margin: 1.5rem 0; }
  figure img { max-width: 100%; height: auto; }
  figcaption { color: #555; font-size: .9rem; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
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
