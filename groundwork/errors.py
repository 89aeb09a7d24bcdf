"""The exception for errors that the user can fix, and helpers for the text of messages."""
from typing import Any, Mapping, Sequence


class InputError(Exception):
    """Something given to the program is wrong: a path, a file or a constant.

    The message says in one line what was found, what was expected and what to do. `command_line.run` prints it without
    a traceback and exits with status 2. Any other exception is a bug of this project and keeps its traceback.
    """

    def _render_traceback_(self) -> list[str]:
        """Called by IPython, so that a notebook, too, shows the message only."""
        return [f"error: {printable(str(self))}"]


def shortened(names: Sequence[str], max_names: int = 8) -> str:
    """'a, b, c and 5 more': the first `max_names` names, and how many more there are."""
    return ", ".join(names[:max_names]) + (f" and {len(names) - max_names} more" if len(names) > max_names else "")


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """'dim 48 (now 64), seed 1 (now 2)' for the keys of `now` whose value differs in `was`; '' if there are none."""
    return ", ".join(f"{key} {was.get(key)} (now {value})" for key, value in now.items() if was.get(key) != value)


def printable(text: str) -> str:
    """The text with control characters escaped. File names may contain them, and a terminal would obey them."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
