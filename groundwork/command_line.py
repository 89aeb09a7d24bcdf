"""Command lines out of functions, and errors that a user can read."""
import argparse
import functools
import os
import sys
from typing import Any, Callable, Mapping

import tyro

from groundwork.errors import InputError, printable


def run(main: Callable, presets: Mapping[str, Any] | None = None, default_preset: str | None = None) -> Any:
    """Call `main` with arguments from the command line; the whole body of a script's `__main__`.

    Every parameter of `main` is an option named after it, `--with_underscores` or `--with-hyphens`; a parameter
    `config` whose type is a dataclass gives an option for each field. With `presets`, `--preset NAME` chooses the
    instance that the other options then override. InputError, and an OSError about a path, end the
    program with one line and status 2.
    """
    if presets is not None:
        chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        chooser.add_argument("--preset", default=default_preset)
        name = chooser.parse_known_args()[0].preset
        if name not in presets:
            sys.exit(_complain(f"--preset {name} is unknown; expected one of {', '.join(presets)}"))
        main = functools.partial(main, config=presets[name])
    try:
        return tyro.cli(main, use_underscores=True, config=(tyro.conf.OmitArgPrefixes,))
    except InputError as error:
        sys.exit(_complain(str(error)))
    except OSError as error:        # a path that cannot be read or written: not ours to mend either
        if error.filename is None:
            raise
        sys.exit(_complain(f"{error.filename}: {error.strerror}; check the path, its permissions and the free space",
                           may_be_alone=True))
    except KeyboardInterrupt:
        sys.exit(130)


def _complain(message: str, may_be_alone: bool = False) -> int:
    """Of several processes that all meet the same error one says so, and one that may be alone with its own does."""
    if os.environ.get("RANK", "0") == "0" or may_be_alone:
        print("error: " + printable(" ".join(message.split())), file=sys.stderr)
    return 2
