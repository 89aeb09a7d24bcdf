"""Files that are whole or absent, and that cannot run code when they are read."""
import hashlib
import json
import math
import os
import pickle
import re
import shutil
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator

import numpy as np
import safetensors
import safetensors.torch
import torch
from tqdm import tqdm

from groundwork.errors import InputError

ABOUT = "about"     # the entry of a safetensors file's header that holds plain values, as JSON
TEMPORARY = re.compile(r"\..*\.(\d+)\.[0-9a-f]{8}\.tmp(\.\w+)?")       # atomic_path's, with its process's number


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and renamed to `path`, else removed.

    The temporary name keeps the suffix, because savers (PIL, matplotlib, numpy) choose the format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None and error.errno:      # a full disk does not say which file it was about
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def check_free_space(folder: str | Path, needed: int, advice: str) -> None:
    """Raises InputError when the disk of `folder` has less than `needed` bytes left."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(f"{needed / 1e9:.3g} GB are needed in {folder}, and {free / 1e9:.3g} GB are free there; "
                         f"{advice}, or choose another folder")


def allocate(path: str | Path) -> None:
    """Take the room on the disk that a sparse file claims: else writing to its memory map ends the process by SIGBUS
    when the disk is full."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "rb+") as file:
            os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))


def append_json(path: str | Path, value: Any) -> None:
    """A line more. What was cut off while it was written becomes a line of its own."""
    try:
        with open(path, "ab+") as file:
            is_torn = file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
            file.write(b"\n" * bool(is_torn) + to_json(value).encode() + b"\n")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_text(path: str | Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    write_text(path, to_json(value, indent=1, ensure_ascii=False, default=str) + "\n")


def to_json(value: Any, **style: Any) -> str:
    """By json.dumps; NaN and infinity, which JSON has no words for, become null."""
    return json.dumps(_strict(value), **style)


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: str | Path) -> Any:
    """Raises InputError when `path` is no file or no JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from None


def check_inside(names: Iterable[str], source: str | Path) -> None:
    """Raises InputError when one of the relative paths that `source` lists leads out of its folder."""
    for name in names:
        if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(f"{source} lists {name!r}, which is no path below its folder")


def save_tensors(path: str | Path, value: dict) -> None:
    """`torch.save`, whole or not at all. Raises InputError when it cannot be written."""
    with atomic_path(path) as temporary:
        try:
            torch.save(value, temporary)
        except RuntimeError as error:       # what torch.save makes of a full disk
            raise InputError(f"{path} cannot be written ({str(error).splitlines()[0]}); is the disk full?") from None


def load_tensors(path: str | Path) -> Any:
    """`torch.load` onto the CPU with `weights_only=True`: tensors, numbers, strings and containers, never code.

    Raises InputError when `path` is absent, damaged, or holds anything that would have to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist (expected a file of weights)")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(f"{path} is damaged or holds Python objects that would run code; "
                         "expected tensors and plain values only") from None
    except Exception as error:      # on a damaged file torch.load raises nearly anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{path} is no complete PyTorch file ({reason})") from None


def save_safetensors(path: str | Path, tensors: dict[str, torch.Tensor], about: dict[str, Any]) -> None:
    """Tensors, and plain values about them in the file's header, whole or not at all."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:        # not by save_file: it keeps the file from all other users
        temporary.write_bytes(safetensors.torch.save(whole, {ABOUT: to_json(about, default=str)}))


def load_safetensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(its tensors, on the CPU; the plain values about them, empty when it was not save_safetensors that wrote it).

    Raises InputError when `path` is absent or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist (expected a file of weights)")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(ABOUT, "{}"))
            if not isinstance(about, dict):
                raise ValueError(f"its header's {ABOUT} is a {type(about).__name__}")
            return {name: file.get_tensor(name) for name in file.keys()}, about
    except Exception as error:      # as above: a damaged header may hold anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{path} is no complete safetensors file ({reason})") from None


def load_array(path: str | Path) -> np.ndarray:
    """An .npy file, memory-mapped. Raises InputError when it is absent, damaged or holds objects."""
    return _load_numpy(path, np.load, mmap_mode="r")


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """An .npz file, likewise, but read."""
    return _load_numpy(path, lambda file: dict(np.load(file)))


def _load_numpy(path: str | Path, load: Callable, **options: Any) -> Any:
    try:
        return load(path, **options)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except Exception as error:      # on a damaged file NumPy, too, raises nearly anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{path} is no complete NumPy file of numbers ({reason})") from None


def digest_tensors(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of names and values, whatever the order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def digest_file(path: str | Path) -> str:
    """SHA-256 of its bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file, tqdm(total=os.path.getsize(path), desc=f"checking {Path(path).name}", unit="B",
                                        unit_scale=True, delay=1, leave=False, disable=None) as bar:
        while block := file.read(2 ** 22):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()
