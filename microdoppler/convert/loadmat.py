"""python loadmat.py FILE: write the arrays of a .mat file before version 7.3 to standard output, as .npz.

It is a program of its own, because some damaged files end the process that reads them: SciPy 1.17 does not check the
codes of data types in them (github.com/scipy/scipy/pull/25349). It imports little, since it is started for each file.
"""
import sys
from typing import Any

import numpy as np
import scipy


def flattened(values: dict[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """The arrays of numbers in SciPy's variables and, by dotted names, in the fields of their structures."""
    found: dict[str, np.ndarray] = {}
    for name, value in values.items():
        if hasattr(value, "_fieldnames"):
            found |= flattened({field: getattr(value, field) for field in value._fieldnames}, f"{prefix}{name}.")
        elif isinstance(value, np.ndarray) and value.dtype.kind in "iufc":
            found[prefix + name] = value
    return found


if __name__ == "__main__":
    arrays = flattened(scipy.io.loadmat(sys.argv[1], struct_as_record=False, squeeze_me=True))
    np.savez(sys.stdout.buffer, list(arrays), *arrays.values())
