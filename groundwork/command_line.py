"""Turns functions into command lines, and shows the user errors without a traceback."""
import argparse
import functools
import inspect
import io
import os
import shlex
import subprocess
import sys
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence, get_type_hints

import torch
import tyro

from groundwork.errors import InputError, printable, shortened
from groundwork.files import read_json
from groundwork.limits import from_plain, read_plain
from groundwork.processes import is_main_process, wait_to_be_ended, work_alone

CONFIG_FILE = "config.json"     # what --config reads in a folder
CONFIG_HELP = ("--config FILE takes the defaults of these options from a JSON file of constants, such as "
               f"results/{CONFIG_FILE}. A folder stands for the {CONFIG_FILE} in it.")


ROOT = Path(__file__).parents[1]        # the scripts are here


def run(main: Callable, presets: Mapping[str, Any] | None = None, default_preset: str | None = None,
        derived: Mapping[str, str | None] | None = None, shares_work: bool = False) -> Any:
    """Call `main` with the arguments of the command line, and return its result. A script's `__main__` does only this.

    Every parameter of `main` becomes an option of the same name, `--with_underscores` or `--with-hyphens`. A parameter
    whose type is a dataclass becomes one option for each field.

    With `presets`, `--preset NAME` chooses the `config` to start from, and the other options change its fields.
    `default_preset` is the preset without `--preset`.

    `--config FILE` reads the defaults of the options from a JSON file {name: value}. `derived` is for options that do
    not have the name of a constant: {option: text}, such as "{results_folder}/export", is filled in with constants of
    the file. None: the constant of that name is another thing, and is not taken.

    `shares_work` is for a `main` that several processes, launched together, can share (see init_distributed). Others
    are called in one of them, and a line says so.

    An InputError, or an OSError about a path, ends the program with one line on standard error and status 2. Ctrl-C
    ends it with status 130. Other exceptions keep their traceback. Characters that the terminal cannot show become "?".
    What several processes meet, or what follows from the end of one of them, is told once.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):        # not so in a notebook, which shows all characters
            stream.reconfigure(errors="replace")
    if not shares_work:
        work_alone(_program())
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config", type=Path)
    if presets is not None:
        early.add_argument("--preset")
    given, options = early.parse_known_args()
    try:
        file = given.config / CONFIG_FILE if given.config and given.config.is_dir() else given.config
        constants = _read_constants(file) if file else {}
        defaults: dict[str, Any] = {}
        if presets is not None:
            defaults["config"] = presets[_choose_preset(given.preset, constants, presets, default_preset)]
        if file:
            defaults |= _defaults_from(file, _as_options(constants, derived or {}), main, defaults)
        description = (inspect.getdoc(main) or "").partition("Args:")[0].strip()
        result = tyro.cli(functools.partial(main, **defaults), prog=_program(), args=options, use_underscores=True,
                          description=f"{description}\n\n{CONFIG_HELP}", config=(tyro.conf.OmitArgPrefixes,),
                          console_outputs=is_main_process())
    except InputError as error:
        sys.exit(_print_error(str(error)))
    except OSError as error:        # a path that cannot be read or written: the user can fix it
        if error.filename is None:
            wait_to_be_ended()
            raise
        sys.exit(_print_error(about_path(error)))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        wait_to_be_ended()      # it may be the connection to a process that has failed
        raise
    _leave_process_group()
    return result


def about_path(error: OSError) -> str:
    """What to say of an error about a path, which has a `filename`."""
    return f"{error.filename}: {error.strerror}; check the path, its permissions and the free space"


def _leave_process_group() -> None:
    """Leave the processes that were launched together, when all of them are done: NCCL warns if that is left to the end
    of Python.

    A program begins a group only once, because a second one finds no partners. So it is not left before the end. Nor is
    it after an error: NCCL would wait for operations that the others never join, and hide the error. The launcher ends
    the others when this process has ended.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _read_constants(file: Path) -> dict[str, Any]:
    constants = read_json(file)
    if not isinstance(constants, dict):
        raise InputError(f"--config {file} holds a {type(constants).__name__}; expected constants by name, as in "
                         f"results/{CONFIG_FILE}")
    return constants


def _choose_preset(given: str | None, constants: dict[str, Any], presets: Mapping[str, Any], default: str | None
                   ) -> str:
    """The preset to start from: the given one, that of the file's constants, or the default."""
    of_file = constants.get("preset")
    if given and of_file not in (None, given):
        raise InputError(f"--preset {given}, but the constants of --config are of preset {of_file}; leave --preset out")
    preset = given or str(of_file or default)
    if preset not in presets:
        raise InputError(f"{'--preset' if given else 'preset'} {preset} is unknown; expected one of "
                         + ", ".join(presets))
    return preset


def _as_options(constants: dict[str, Any], derived: Mapping[str, str | None]) -> dict[str, Any]:
    """The constants of a file by the names of options; derived: as in `run`."""
    values = dict(constants)
    for option, text in derived.items():
        if text is None:
            values.pop(option, None)
        elif option not in constants:
            with suppress(KeyError):        # the file lacks a constant that the text needs
                values[option] = text.format_map(constants)
    return values


def _defaults_from(file: Path, values: dict[str, Any], main: Callable, defaults: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `main` that the values of a file's constants give; defaults: those that are known without it.

    If `main` takes all constants, as `config`, a line names those of the file that it does not know. Raises InputError
    when a value is not of its option's type, and when there is no value for any option.
    """
    hints, found, known = get_type_hints(main), {}, set()
    try:
        for name, parameter in inspect.signature(main).parameters.items():
            default = defaults.get(name, parameter.default)
            names = {field.name for field in fields(default)} if is_dataclass(default) else {name}
            if names & values.keys():
                found[name] = (from_plain(values, default) if is_dataclass(default) else
                               read_plain(name, values[name], hints[name]))
            known |= names
    except InputError as error:
        raise InputError(f"--config {file}: {error}") from None
    if not found:
        raise InputError(f"--config {file} has no value for any option of this command; expected constants by name, as "
                         f"in results/{CONFIG_FILE}")
    if "config" in defaults and (unknown := sorted(values.keys() - known)) and is_main_process():
        print(printable(f"note: {file} names constants that this version does not have, and they are ignored: "
                        + shortened(unknown)))
    return found


def command(script: str, *words: object) -> str:
    """A command line to show: python, the script's path from the working directory, and these words, quoted."""
    path = ROOT / script
    if path.exists():       # else the package is installed without its scripts
        script = min(str(path), os.path.relpath(path), key=len) if path.drive == Path.cwd().drive else str(path)
    return quoted(["python", script, *map(str, words)])


def quoted(words: Sequence[str]) -> str:
    """The words as one command line, in the quotes that the system's shell reads."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def _program() -> str:
    """How messages call this program: as it is started, with -m or by the script's name."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)       # of what is run with -m; argv has the path instead
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec else Path(sys.argv[0]).name


def _print_error(message: str) -> int:
    """Print the message, and return the exit status. When several processes meet the same error, the main one prints
    it."""
    if not is_main_process():
        wait_to_be_ended()
    print("error: " + printable(" ".join(message.split())), file=sys.stderr)
    return 2
