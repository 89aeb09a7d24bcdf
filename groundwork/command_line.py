"""Turns functions into command lines, and shows the user errors without a traceback."""
import argparse
import functools
import os
import sys
from typing import Any, Callable, Mapping

import tyro

from groundwork.errors import InputError, printable


def run(main: Callable, presets: Mapping[str, Any] | None = None, default_preset: str | None = None) -> Any:
    """Call `main` with the arguments of the command line, and return its result. A script's `__main__` does only this.

    Every parameter of `main` becomes an option of the same name, `--with_underscores` or `--with-hyphens`. A parameter
    `config` whose type is a dataclass becomes one option for each field.

    With `presets`, `--preset NAME` chooses the `config` to start from, and the other options change its fields.
    `default_preset` is the preset without `--preset`.

    An InputError, or an OSError about a path, ends the program with one line on standard error and status 2. Ctrl-C
    ends it with status 130. Other exceptions keep their traceback.
    """
    if presets is not None:
        preset_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        preset_parser.add_argument("--preset", default=default_preset)
        preset = preset_parser.parse_known_args()[0].preset
        if preset not in presets:
            sys.exit(_print_error(f"--preset {preset} is unknown; expected one of {', '.join(presets)}"))
        main = functools.partial(main, config=presets[preset])
    try:
        return tyro.cli(main, prog=_program(), use_underscores=True, config=(tyro.conf.OmitArgPrefixes,))
    except InputError as error:
        sys.exit(_print_error(str(error)))
    except OSError as error:        # a path that cannot be read or written: the user can fix it
        if error.filename is None:
            raise
        sys.exit(_print_error(f"{error.filename}: {error.strerror}; check the path, its permissions and the free space",
                              in_every_process=True))
    except KeyboardInterrupt:
        sys.exit(130)


def _program() -> str | None:
    """How --help calls a package that is run with -m, as its __main__.py says little; None: the script's own name."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.parent}" if spec and spec.name.endswith(".__main__") else None


def _print_error(message: str, in_every_process: bool = False) -> int:
    """Print the message, and return the exit status.

    When several processes meet the same error, only the main one (RANK 0) prints it. With in_every_process, each one
    prints its own: an error about a path may occur in one process only.
    """
    if os.environ.get("RANK", "0") == "0" or in_every_process:
        print("error: " + printable(" ".join(message.split())), file=sys.stderr)
    return 2
