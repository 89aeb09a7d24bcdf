"""Reads and writes files. A file is written completely or not at all, and reading it never runs code from it."""
import hashlib
import json
import math
import os
import pickle
import re
import shutil
import socket
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Sequence

import numpy as np
import safetensors
import safetensors.torch
import torch

from groundwork.errors import InputError
from groundwork.progress import Progress

ABOUT = "about"     # key of the plain values in the header of a safetensors file, as JSON
HOST = hashlib.blake2s(socket.gethostname().encode(), digest_size=4).hexdigest()        # several may share a disk
TEMPORARY = re.compile(r"\..*\.([0-9a-f]{8})-(\d+)\.[0-9a-f]{8}\.tmp(\.\w+)?")     # atomic_path's names: host, process


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, for the block to write to.

    If the block succeeds, the file is flushed to disk and renamed to `path`. If it fails, the temporary file is removed
    and `path` stays as it was. The folder is created if needed. The temporary name keeps the suffix, because PIL,
    matplotlib and NumPy choose the format by it.
    """
    path = Path(path)
    make_folder(path.parent)
    temporary = path.with_name(f".{path.stem}.{HOST}-{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:        # Windows flushes only what was opened for writing
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None and error.errno:      # the error of a full disk names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path: str | Path) -> None:
    """Create a folder, and those above it, unless it exists. Raises InputError if one of them is a file."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        file = next(part for part in (Path(path), *Path(path).parents) if part.exists())
        raise InputError(f"{file} is a file, but a folder is to be written there; give another name, or move the file "
                         "away") from None


def check_free_space(folder: str | Path, needed: int, advice: str) -> None:
    """Raises InputError if the disk of `folder` has less than `needed` bytes free. advice: what the user can do."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(f"{needed / 1e9:.3g} GB are needed in {folder}, and {free / 1e9:.3g} GB are free there; "
                         f"{advice}, or choose another folder")


def allocate(path: str | Path) -> None:
    """Reserve disk space for every byte of a sparse file. Raises OSError if there is too little.

    Without it, writing to the file's memory map would end the process by SIGBUS when the disk is full.
    """
    if hasattr(os, "posix_fallocate"):
        with open(path, "rb+") as file:
            os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))


def append_json(path: str | Path, value: Any) -> None:
    """Append a value to a file as one line of JSON. If an interrupted write left the last line incomplete, the new one
    still starts on a line of its own.
    """
    try:
        with open(path, "ab+") as file:
            is_incomplete = file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
            file.write(b"\n" * bool(is_incomplete) + to_json(value).encode() + b"\n")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file, completely or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file, completely or not at all. Values of other types, such as paths, become text."""
    write_text(path, to_json(value, indent=1, ensure_ascii=False, default=str) + "\n")


def to_json(value: Any, **style: Any) -> str:
    """The value as JSON text, by json.dumps(…, **style). NaN and infinity do not exist in JSON and become null."""
    return json.dumps(_without_nan(value), **style)


def _without_nan(value: Any) -> Any:
    """A copy of the value in which None replaces NaN and infinity. Tuples become lists."""
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: str | Path) -> Any:
    """The content of a JSON file. It may be UTF-8, UTF-16 or UTF-32, with a byte order mark or without: editors of
    Windows write both. Raises InputError if `path` is no file or no JSON.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from None


def check_inside(names: Iterable[str], source: str | Path) -> None:
    """Raises InputError if a name is no relative path below the folder. source: the file that lists the names."""
    for name in names:
        if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(f"{source} lists {name!r}, which is no path below its folder")


def save_tensors(path: str | Path, value: dict) -> None:
    """`torch.save`, completely or not at all. Raises InputError if the file cannot be written."""
    with atomic_path(path) as temporary:
        try:
            torch.save(value, temporary)
        except RuntimeError as error:       # what torch.save raises if the disk is full
            raise InputError(f"{path} cannot be written ({str(error).splitlines()[0]}); is the disk full?") from None


class _Ignored:
    """Stands for an object of another library in a file of tensors: it takes any arguments and does nothing."""

    def __new__(cls, *arguments: object) -> "_Ignored":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


@contextmanager
def _stand_ins(names: Sequence[str]) -> Iterator[None]:
    """Within the block, torch.load puts an _Ignored wherever a file has an object of these, "module.name"."""
    before = torch.serialization.get_safe_globals()
    parts = [name.rpartition(".") for name in names]
    torch.serialization.add_safe_globals([type(name, (_Ignored,), {"__module__": module}) for module, _, name in parts])
    try:
        yield
    finally:        # the context manager safe_globals is in PyTorch from 2.5 on
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def load_tensors(path: str | Path, ignoring: Sequence[str] = ()) -> Any:
    """`torch.load` onto the CPU with `weights_only=True`: tensors, numbers, strings and containers, never code.

    ignoring: classes and functions, "module.name", whose objects are replaced by ones without content, so that a file
    can be read in which they stand beside the weights. Nothing of them is imported or called.

    Raises InputError if `path` does not exist, is damaged, or holds objects that would run code when loaded.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist (expected a file of weights)")
    if other_kind := _other_kind(path):
        raise InputError(f"{path} is {other_kind}; expected a PyTorch file of weights")
    try:
        with _stand_ins(ignoring):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path} {_refused_objects(path, str(error))}") from None
    except Exception as error:      # torch.load raises many kinds of errors on damaged files
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{path} is no complete PyTorch file ({reason})") from None


def _other_kind(path: Path) -> str | None:
    """What a file is that certainly is no PyTorch file, by its first bytes; None if it may be one."""
    with open(path, "rb") as file:
        start = file.read(64)
    if start[4:9] == b"\0\0\0\0{":         # the length of its header, then the header
        return "a safetensors file, whose name must end in .safetensors"
    try:
        text = start.decode()
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:      # not just a character that the 64 bytes cut off
            return None
        text = start[:error.start].decode()
    if not text or text.startswith("PK") or not all(char.isprintable() or char.isspace() for char in text):
        return None
    if text.startswith("version https://git-lfs"):
        return "a pointer of Git LFS, not the file itself: run git lfs pull, or download the file"
    if text.lstrip().lower().startswith(("<!doctype", "<html")):
        return "a web page, which a download that needs a login leaves: download the file again"
    return f"a text file that begins with {text.splitlines()[0][:40]!r}"


def _refused_objects(path: Path, error: str) -> str:
    """Why torch.load refused a file's pickle, for an error message; error: its own message."""
    if not (name := re.search(r"GLOBAL (\S+)", error)):
        return ("is damaged or holds Python objects that would run code; "
                "expected tensors and plain values only")
    with open(path, "rb") as file:
        is_module = b"torch.nn.modules" in file.read(2 ** 24)      # the names stand before the tensors
    if is_module:
        return (f"holds a whole module ({name[1]}), which would run code when loaded; where its class is defined, "
                "write its weights alone: torch.save(model.state_dict(), 'weights.pt')")
    return (f"holds a Python object ({name[1]}) that would run code when loaded; expected tensors and plain values "
            "only. If you trust its source, write its weights alone: "
            "torch.save(torch.load(path, weights_only=False)['state_dict'], 'weights.pt')")


def save_safetensors(path: str | Path, tensors: dict[str, torch.Tensor], about: dict[str, Any]) -> None:
    """Write tensors to a safetensors file, completely or not at all. about: plain values for its header, as JSON."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:        # save_file would deny all other users access to the file
        temporary.write_bytes(safetensors.torch.save(contiguous, {ABOUT: to_json(about, default=str)}))


def load_safetensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a safetensors file. Returns (tensors on the CPU, the plain values of its header).

    The plain values are empty if another program wrote the file. Raises InputError if `path` does not exist or is
    damaged.
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
    except Exception as error:      # a damaged file raises many kinds of errors here, too
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{path} is no complete safetensors file ({reason})") from None


def load_array(path: str | Path) -> np.ndarray:
    """An .npy file, memory-mapped. Raises InputError if it does not exist, is damaged or holds Python objects."""
    return _load_numpy(path, np.load, mmap_mode="r")


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name, read into memory. Raises InputError as load_array does."""
    return _load_numpy(path, lambda file: dict(np.load(file)))


def _load_numpy(path: str | Path, load: Callable, **options: Any) -> Any:
    try:
        return load(path, **options)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except Exception as error:      # np.load, too, raises many kinds of errors on damaged files
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{path} is no complete NumPy file of numbers ({reason})") from None


def digest_tensors(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of the tensors' names and values, in hexadecimal. The order of the tensors does not matter.

    Shapes and types are not part of it, since the stored digests of earlier versions lack them.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        tensor = tensor.detach().cpu().contiguous()
        if tensor.dtype == torch.bfloat16:      # NumPy has no such type
            tensor = tensor.view(torch.int16)
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


def digest_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. Shows a progress bar if it takes more than a second."""
    digest = hashlib.sha256()
    with open(path, "rb") as file, Progress(total=os.path.getsize(path), desc=f"checking {Path(path).name}",
                                            unit="B", unit_scale=True, delay=1, leave=False) as bar:
        while block := file.read(2 ** 22):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()
