"""Recordings in .npy, .npz and .mat files.

A .mat file before version 7.3 is read by SciPy. One of version 7.3 is HDF5: MATLAB stores its arrays with the axes
reversed, and complex numbers as pairs (real, imag). A field of a structure is called structure.field.
"""
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from loky import get_reusable_executor

from groundwork.errors import InputError, shortened
from groundwork.files import load_array, load_arrays
from microdoppler.convert.loadmat import load_mat, stay_in_background
from microdoppler.convert.recording import as_signal
from microdoppler.radar.settings import RadarSettings

HDF5 = b"\x89HDF\r\n\x1a\n"      # signature, here after 512 bytes
USER_BLOCK = 512


def read_npy(path: Path, settings: RadarSettings) -> tuple[np.ndarray, RadarSettings]:
    """The signal (chirps, samples, channels). Raises InputError if the file is no NumPy file of numbers."""
    return as_signal(path, np.asarray(load_array(path)), settings), RadarSettings()


def read_npz(path: Path, settings: RadarSettings) -> tuple[np.ndarray, RadarSettings]:
    """The signal (chirps, samples, channels). Raises InputError if it is unclear which array it is."""
    return as_signal(path, choose(path, load_arrays(path), settings.variable), settings), RadarSettings()


def read_mat(path: Path, settings: RadarSettings) -> tuple[np.ndarray, RadarSettings]:
    """The signal (chirps, samples, channels). Raises InputError if the file is damaged, or if it is unclear which
    variable it is.
    """
    with open(path, "rb") as file:
        is_hdf5 = HDF5 in file.read(USER_BLOCK + len(HDF5))
    found = _read_hdf5(path) if is_hdf5 else _read_by_scipy(path)
    return as_signal(path, choose(path, found, settings.variable), settings), RadarSettings()


def choose(path: Path, arrays: dict[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    """The array of this name, or I + jQ of two. Without names: I and Q, if there are arrays called so; the only array
    of numbers; or the only complex one. Raises InputError otherwise.
    """
    numbers = {name: array for name, array in arrays.items() if array.dtype.kind in "iufc" and array.size > 1}
    content = shortened([f"{name} ({' x '.join(map(str, array.shape))})" for name, array in numbers.items()]) or "none"
    if unknown := [name for name in names if name not in numbers]:
        raise InputError(f"{path} has no array of numbers called {shortened(unknown)}; it has {content}")
    if not names:
        by_letter = {name.lower(): name for name in numbers}
        of_complex = [name for name, array in numbers.items() if np.iscomplexobj(array)]
        names = ((by_letter["i"], by_letter["q"]) if {"i", "q"} <= by_letter.keys() else
                 tuple(numbers) if len(numbers) == 1 else tuple(of_complex))
        if not names or len(names) > 1 and names == tuple(of_complex):
            raise InputError(f"{path} has several arrays, or none: {content}; say which one holds the samples with "
                             "--variable NAME, or --variable I Q for two")
    if len(names) == 1:
        return numbers[names[0]]
    in_phase, quadrature = (numbers[name] for name in names)
    if in_phase.shape != quadrature.shape:
        raise InputError(f"{path}: {names[0]} and {names[1]} differ in shape: {content}; expected I and Q alike")
    return in_phase + np.complex64(1j) * quadrature


def _read_by_scipy(path: Path) -> dict[str, np.ndarray]:
    """The arrays of numbers in a .mat file before version 7.3, read by another process: see loadmat.py. The process
    serves all files, and ends when it has had none for ten seconds. A new one takes its place when it is needed.
    """
    try:
        process = get_reusable_executor(max_workers=1, initializer=stay_in_background)
        return process.submit(load_mat, path.absolute()).result()       # its working folder is that of its start
    except BrokenProcessPool:
        raise _damaged(path, "SciPy crashed when it read the file") from None
    except Exception as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None


def _read_hdf5(path: Path) -> dict[str, np.ndarray]:
    """The arrays of numbers in a .mat file of version 7.3, with their axes as in MATLAB."""
    try:
        import h5py
    except ImportError:
        raise InputError(f"{path} is a .mat file of version 7.3, which needs the package h5py: pip install h5py, or "
                         "save it in MATLAB with '-v7'") from None
    found = {}

    def collect(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or name.startswith("#") or item.attrs.get("MATLAB_empty"):
            return
        if item.dtype.names == ("real", "imag"):
            pairs = item[()]
            found[name.replace("/", ".")] = (pairs["real"] + 1j * pairs["imag"]).T
        elif item.dtype.kind in "iufc":
            found[name.replace("/", ".")] = item[()].T
    try:
        with h5py.File(path, "r") as file:
            file.visititems(collect)
    except Exception as error:      # h5py raises many kinds of errors on damaged files
        raise _damaged(path, f"{type(error).__name__}: {error}") from None
    return found


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"{path} is no complete .mat file ({reason}); restore it, or move it out of --input")
