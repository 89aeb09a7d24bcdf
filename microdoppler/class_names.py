"""What the classes are called in tables and figures; in files and folders they keep the names of their folders."""
import re
from pathlib import Path

from groundwork.errors import InputError, printable, shortened
from groundwork.files import read_json

LONGEST = 40        # characters; a table's column, a figure's label


def default_name(class_: str) -> str:
    """'user 3' for the folder ID_3, else the folder's own name."""
    match = re.fullmatch(r"ID_([0-9]+)", class_)
    return f"user {match[1]}" if match else class_


def read_names(path: str | Path, classes: dict[int, str]) -> dict[int, str]:
    """{number: name} of all classes {number: folder}, from a JSON file {folder: name} that may leave some out.

    Raises InputError when the file is no such thing, names a folder that is no class, or two classes alike.
    """
    given = read_json(path)
    if not (isinstance(given, dict) and all(isinstance(name, str) and name.strip() for name in given.values())):
        raise InputError(f'{path} is no class-to-name file; expected JSON like {{"ID_1": "Anna", "ID_2": "Ben"}}')
    if unknown := given.keys() - set(classes.values()):
        raise InputError(f"{path} names {shortened(sorted(unknown))}, which is no class; the classes are "
                         f"{shortened(list(classes.values()))}")
    names = {user: printable(given.get(class_, default_name(class_)).strip())[:LONGEST]
             for user, class_ in classes.items()}
    if alike := sorted({name for name in names.values() if list(names.values()).count(name) > 1}):
        raise InputError(f"{path} calls more than one class {shortened(alike)}; give each a name of its own")
    return names
