"""What a model has to know of its data to put its pictures in folders and to label them."""
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from groundwork.errors import InputError
from microdoppler.figures.axes import PictureAxes


@dataclass(frozen=True)
class Legend:
    """classes, names: of the users {number: folder} and {number: what tables and figures call them}; axes: of the
    pictures, where they are known."""
    classes: dict[int, str]
    names: dict[int, str]
    axes: PictureAxes | None

    @property
    def users(self) -> list[int]:
        return list(self.classes)

    def to_plain(self) -> dict[str, Any]:
        """As JSON's types, for a checkpoint."""
        return {"classes": list(self.classes.values()), "names": list(self.names.values()),
                "axes": asdict(self.axes) if self.axes else None}

    @staticmethod
    def of(plain: dict[str, Any] | None, num_users: int, source: Path) -> "Legend":
        """That of a checkpoint; of one from before there were legends, ID_1 … ID_<num_users>, without axes."""
        if plain is None:
            users = range(1, num_users + 1)
            plain = {"classes": [f"ID_{user}" for user in users], "names": [f"user {user}" for user in users],
                     "axes": None}
        try:
            classes, names = (dict(enumerate(map(str, plain[part]), start=1)) for part in ("classes", "names"))
            axes = PictureAxes(**plain["axes"]) if plain["axes"] else None
        except (KeyError, TypeError) as error:
            raise InputError(f"{source}'s legend is none of ours ({type(error).__name__}: {error})") from None
        if not len(classes) == len(names) == num_users or not all(map(_is_folder_name, classes.values())):
            raise InputError(f"{source}'s legend is none of ours: expected {num_users} names of folders and of users")
        return Legend(classes, names, axes)


def _is_folder_name(name: str) -> bool:
    return Path(name).name == name and not name.startswith(".")
