"""The one exception that is addressed to the user."""


class InputError(Exception):
    """Something given to the program is wrong: a path, a file, a constant.

    The message says in one line what was found, what was expected and what to do. `command_line.run` prints it
    without a traceback and exits with status 2; any other exception is a bug of ours and keeps its traceback.
    """
