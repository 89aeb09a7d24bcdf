"""The arrays of a .mat file before version 7.3.

Another process runs this, because some damaged files end the process that reads them: SciPy 1.17 does not check the
codes of data types in them (github.com/scipy/scipy/pull/25349). It imports little, so that the process starts quickly.
"""
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import scipy


def stay_in_background() -> None:
    """Leave Ctrl-C to the program that waits for this process: else the next file would look damaged. Send standard
    error to nowhere, since Python and loky write tracebacks of crashes to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def load_mat(path: Path) -> dict[str, np.ndarray]:
    """The arrays of numbers in a file, by their names. SciPy raises many kinds of errors on damaged files."""
    return flattened(scipy.io.loadmat(path, struct_as_record=False, squeeze_me=True))


def flattened(values: dict[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """The arrays of numbers in SciPy's variables and, by dotted names, in the fields of their structures."""
    found: dict[str, np.ndarray] = {}
    for name, value in values.items():
        if hasattr(value, "_fieldnames"):
            found |= flattened({field: getattr(value, field) for field in value._fieldnames}, f"{prefix}{name}.")
        elif isinstance(value, np.ndarray) and value.dtype.kind in "iufc":
            found[prefix + name] = value
    return found
