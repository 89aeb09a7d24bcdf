"""Turns functions into command lines, and shows the user errors without a traceback."""
import argparse
import functools
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

import tyro

from groundwork.errors import InputError, printable


ROOT = Path(__file__).parents[1]        # the scripts are here


def run(main: Callable, presets: Mapping[str, Any] | None = None, default_preset: str | None = None) -> Any:
    """Call `main` with the arguments of the command line, and return its result. A script's `__main__` does only this.

    Every parameter of `main` becomes an option of the same name, `--with_underscores` or `--with-hyphens`. A parameter
    `config` whose type is a dataclass becomes one option for each field.

    With `presets`, `--preset NAME` chooses the `config` to start from, and the other options change its fields.
    `default_preset` is the preset without `--preset`.

    An InputError, or an OSError about a path, ends the program with one line on standard error and status 2. Ctrl-C
    ends it with status 130. Other exceptions keep their traceback. Characters that the terminal cannot show become "?".
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):        # not so in a notebook, which shows all characters
            stream.reconfigure(errors="replace")
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


def command(script: str, *words: object) -> str:
    """A command line to show: python, the script's path from the working directory, and these words, quoted."""
    path = ROOT / script
    if path.exists():       # else the package is installed without its scripts
        script = min(str(path), os.path.relpath(path), key=len) if path.drive == Path.cwd().drive else str(path)
    return quoted(["python", script, *map(str, words)])


def quoted(words: Sequence[str]) -> str:
    """The words as one command line, in the quotes that the system's shell reads."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


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
