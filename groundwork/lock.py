"""One program at a time in a folder that it writes to."""
import json
import os
import socket
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator

from filelock import FileLock, Timeout

from groundwork.errors import InputError, printable
from groundwork.files import TEMPORARY, write_json

LOCK, OWNER = ".lock", ".owner.json"
_held: set[Path] = set()


@contextmanager
def sole_writer(folder: str | Path) -> Iterator[None]:
    """Keep others out of `folder` (made if need be) while this runs. Raises InputError that names who is in it.

    The operating system frees the lock when its process ends in whatever way; a killed one leaves its name behind,
    which is told and replaced.
    """
    folder = Path(folder)
    if folder.resolve() in _held:       # by a caller: one folder may be given for two purposes
        yield
        return
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{folder} is being written to by {_owner(folder) or 'another process'}; wait for it, stop "
                         "it, or choose another folder") from None
    try:
        if left := _owner(folder):
            print(f"{folder} was left by {left}, which is gone: taking over")
        _remove_temporaries(folder)
        _held.add(folder.resolve())
        write_json(folder / OWNER, {"process": os.getpid(), "host": socket.gethostname(),
                                    "since": time.strftime("%Y-%m-%d %H:%M:%S")})
        yield
    finally:
        _held.discard(folder.resolve())
        (folder / OWNER).unlink(missing_ok=True)
        (folder / LOCK).unlink(missing_ok=True)         # filelock notices when it got hold of a file that is gone
        lock.release()
        if is_new:
            with suppress(OSError):         # unless nothing came of it, it is not empty
                folder.rmdir()


def _remove_temporaries(folder: Path) -> None:
    """Of killed processes; folders further down that have a lock of their own may have a writer of their own."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and not (path / LOCK).exists():
            _remove_temporaries(path)
        elif (match := TEMPORARY.fullmatch(path.name)) and not Path("/proc", match[1]).exists():
            path.unlink(missing_ok=True)


def _owner(folder: Path) -> str | None:
    try:
        found = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        return printable(f"process {found['process']} on {found['host']} (since {found['since']})")
    except (OSError, ValueError, KeyError, TypeError):
        return None
