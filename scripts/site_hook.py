"""A hook of mkdocs: the site also has the pages of the repository's root, and the files that pages link to.

On GitHub and in an editor, pages link each other by their places in the repository (docs/kaggle.md, ../README.md). On
the site, all stand beside each other.
"""
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path in sorted(ROOT.glob("*.md")):
        files.append(File.generated(config, path.name, abs_src_path=str(path)))
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            path = (page.parent / target).resolve()
            name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else ""
            if name and path.is_file() and not name.startswith("docs/") and not files.get_file_from_path(name):
                files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    return re.sub(r"\]\((?:\.\./|docs/)", "](", markdown)
