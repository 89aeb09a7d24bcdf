"""What a model needs to know of its data to name folders of images and to label them."""
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from groundwork.errors import InputError
from microdoppler.figures.axes import PictureAxes
from microdoppler.figures.fonts import figure_names


@dataclass(frozen=True)
class Legend:
    """The names of users, and the axes of images.

    classes: user number → name of the folder, in the order of the labels 0, 1, …
    names: user number → name in tables and figures.
    axes: of the images; None if unknown.
    """
    classes: dict[int, str]
    names: dict[int, str]
    axes: PictureAxes | None

    @property
    def users(self) -> list[int]:
        """The user numbers."""
        return list(self.classes)

    @property
    def labels(self) -> dict[int, int]:
        """{user number: label}."""
        return {user: label for label, user in enumerate(self.classes)}

    @cached_property
    def figure_names(self) -> dict[int, str]:
        """The names as figures can show them: {user number: name}."""
        return figure_names(self.names, self.classes)

    def to_plain(self) -> dict[str, Any]:
        """The legend as plain values, for a checkpoint."""
        return {"users": self.users, "classes": list(self.classes.values()), "names": list(self.names.values()),
                "axes": asdict(self.axes) if self.axes else None}

    @staticmethod
    def of(plain: dict[str, Any] | None, num_users: int, source: Path) -> "Legend":
        """The legend stored in a checkpoint. Older checkpoints have none: then users are ID_1 … ID_<num_users>, without
        axes.

        source: the checkpoint, for messages. Raises InputError if the stored legend is not valid for num_users users.
        """
        if plain is None:
            numbers = range(1, num_users + 1)
            plain = {"classes": [f"ID_{user}" for user in numbers], "names": [f"user {user}" for user in numbers],
                     "axes": None}
        try:
            users = list(map(int, plain.get("users", range(1, len(plain["classes"]) + 1))))     # older ones lack them
            classes, names = (dict(zip(users, map(str, plain[part]))) for part in ("classes", "names"))
            axes = PictureAxes(**plain["axes"]) if plain["axes"] else None
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{source}'s legend is none of ours ({type(error).__name__}: {error})") from None
        if not len(classes) == len(names) == num_users or not all(map(_is_folder_name, classes.values())):
            raise InputError(f"{source}'s legend is none of ours: expected {num_users} names of folders and of users")
        return Legend(classes, names, axes)


def _is_folder_name(name: str) -> bool:
    return Path(name).name == name and not name.startswith(".")
