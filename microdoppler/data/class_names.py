"""Names of the classes in tables and figures. Folders and files keep the names of the class folders."""
from pathlib import Path

from groundwork.errors import InputError, printable, shortened
from groundwork.files import read_json
from microdoppler.data.spectrograms import class_of

MAX_LENGTH = 40     # characters of a name: it must fit in a table's column and a figure's label


def default_names(classes: dict[int, str], class_folders: bool) -> dict[int, str]:
    """Names where no file gives them. classes: {user number: class folder}.

    Returns {user number: "user <number>"}, or with class_folders {user number: name of the folder}.
    """
    return dict(classes) if class_folders else {user: f"user {user}" for user in classes}


def read_names(path: str | Path, classes: dict[int, str], defaults: dict[int, str]) -> dict[int, str]:
    """The names {user number: name} of all classes, from a JSON file {class folder: name}.

    classes: {user number: class folder}; defaults: {user number: name} for classes that the file leaves out. Control
    characters in a name are escaped, and a name is cut off after MAX_LENGTH characters.

    Raises InputError when the file has another form or an empty name, names a folder that is no class, or when two
    classes get the same name.
    """
    given = read_json(path)
    if not (isinstance(given, dict) and all(isinstance(name, str) and name.strip() for name in given.values())):
        raise InputError(f'{path} is no class-to-name file; expected JSON like {{"ID_1": "Anna", "ID_2": "Ben"}}')
    known = set(map(class_of, classes.values()))
    if unknown := [folder for folder in given if class_of(folder) not in known]:
        raise InputError(f"{path} names {shortened(sorted(unknown))}, which is no class; the classes are "
                         f"{shortened(list(classes.values()))}")
    name_of = {class_of(folder): name for folder, name in given.items()}
    names = {user: printable(name_of.get(class_of(folder), defaults[user]).strip())[:MAX_LENGTH]
             for user, folder in classes.items()}
    if repeated := sorted({name for name in names.values() if list(names.values()).count(name) > 1}):
        raise InputError(f"{path} calls more than one class {shortened(repeated)}; give each a name of its own")
    return names
