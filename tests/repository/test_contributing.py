"""The files and names that CONTRIBUTING.md sends people to are there."""
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
QUOTED = set(re.findall(r"`([^`\n]+)`", (ROOT / "CONTRIBUTING.md").read_text()))


def test_files_and_names_in_contributing_exist():
    files = {word for word in QUOTED if re.fullmatch(r"[\w/.]+(\.\w+|/)", word) and (word.endswith("/") or "/" in word)}
    assert len(files) > 20 and not [name for name in files if not (ROOT / name).exists()]
    code = "".join(path.read_text() for path in ROOT.rglob("*.py")
                   if ".venv" not in path.as_posix() and path != Path(__file__))
    names = {word.split(".")[-1] for word in QUOTED
             if re.fullmatch(r"[A-Za-z_]\w*(\.[a-z_]\w*)?", word) and not (ROOT / word).exists()}
    assert len(names) > 20 and not [name for name in names if not re.search(rf"\b{name}\b", code)]
