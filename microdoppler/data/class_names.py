"""What the classes are called in tables and figures; in files and folders they keep the names of their folders."""
from pathlib import Path

from groundwork.errors import InputError, printable, shortened
from groundwork.files import read_json

LONGEST = 40        # characters; a table's column, a figure's label


def default_names(classes: dict[int, str], class_folders: bool) -> dict[int, str]:
    """{number: 'user <number>'} for ID_<number>; with class_folders {number: the folder's own name}."""
    return dict(classes) if class_folders else {user: f"user {user}" for user in classes}


def read_names(path: str | Path, classes: dict[int, str], defaults: dict[int, str]) -> dict[int, str]:
    """{number: name} of all classes {number: folder}, from a JSON file {folder: name}; those that it
    leaves out are called as in `defaults`.

    Raises InputError when the file is no such thing, names a folder that is no class, or two classes alike.
    """
    given = read_json(path)
    if not (isinstance(given, dict) and all(isinstance(name, str) and name.strip() for name in given.values())):
        raise InputError(f'{path} is no class-to-name file; expected JSON like {{"ID_1": "Anna", "ID_2": "Ben"}}')
    if unknown := given.keys() - set(classes.values()):
        raise InputError(f"{path} names {shortened(sorted(unknown))}, which is no class; the classes are "
                         f"{shortened(list(classes.values()))}")
    names = {user: printable(given.get(class_, defaults[user]).strip())[:LONGEST]
             for user, class_ in classes.items()}
    if alike := sorted({name for name in names.values() if list(names.values()).count(name) > 1}):
        raise InputError(f"{path} calls more than one class {shortened(alike)}; give each a name of its own")
    return names
