"""The one exception that is addressed to the user, and how its messages put things."""
from typing import Any, Mapping, Sequence


class InputError(Exception):
    """Something given to the program is wrong: a path, a file, a constant.

    The message says in one line what was found, what was expected and what to do. `command_line.run` prints it
    without a traceback and exits with status 2; any other exception is a bug of ours and keeps its traceback.
    """

    def _render_traceback_(self) -> list[str]:
        """IPython asks for this: in a notebook, too, the message is all that is shown."""
        return [f"error: {printable(str(self))}"]


def shortened(names: Sequence[str], most: int = 8) -> str:
    """The first few of many names."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """'dim 48 (now 64), seed 1 (now 2)' for the keys of `now` whose values differ; empty when none does."""
    return ", ".join(f"{key} {was.get(key)} (now {value})" for key, value in now.items() if was.get(key) != value)


def printable(text: str) -> str:
    """Control characters, which file names may hold and a terminal would obey, as their escapes."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
