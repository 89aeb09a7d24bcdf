"""A lock that lets one program at a time write to a folder."""
import json
import os
import socket
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator

import psutil
from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from groundwork.errors import InputError, printable
from groundwork.files import HOST, TEMPORARY, make_folder, write_json

LOCK, SOFT_LOCK, OWNER = OF_A_LOCK = ".lock", ".soft.lock", ".owner.json"      # files in a folder while it is locked
DAY = 24 * 3600     # seconds; nobody writes longer at one file
_held: set[Path] = set()


@contextmanager
def sole_writer(folder: str | Path, wait_seconds: float = 0) -> Iterator[None]:
    """Keep other processes out of `folder` while the block runs. The folder is created if needed.

    Raises InputError, which names the other process, if the folder is still locked after wait_seconds. The operating
    system frees the lock when its process ends, in whatever way. If that process was killed, its entry in the folder
    remains: the next process prints it, replaces it, and removes the temporary files of killed processes.

    On a disk where the operating system has no locks, as some network disks, a file marks the folder as locked. The
    file of a process that was killed on another host must then be deleted by hand.

    The same process may lock a folder twice. A folder that was created here and is still empty at the end is removed.
    """
    folder = Path(folder)
    if folder.resolve() in _held:       # a caller has locked it: one folder may be given for two purposes
        yield
        return
    is_new = not folder.exists()
    make_folder(folder)
    lock = _acquire(folder, wait_seconds)
    try:
        if previous := _owner(folder):
            print(f"{folder} was left by {previous}, which is gone: taking over")
        _remove_temporaries(folder)
        _held.add(folder.resolve())
        write_json(folder / OWNER, {"process": os.getpid(), "host": socket.gethostname(),
                                    "since": time.strftime("%Y-%m-%d %H:%M:%S")})
        yield
    finally:
        _held.discard(folder.resolve())
        (folder / OWNER).unlink(missing_ok=True)
        with suppress(PermissionError):         # Windows: the file is open, and is deleted when it is released
            (folder / LOCK).unlink(missing_ok=True)     # filelock checks that the file it locked still exists
        lock.release()
        if is_new:
            with suppress(OSError):         # fails if the folder is not empty
                folder.rmdir()


def _acquire(folder: Path, wait_seconds: float) -> BaseFileLock:
    """The acquired lock of a folder. Raises InputError if another process keeps it longer than wait_seconds."""
    taken = (f"{folder} is being written to by {_owner(folder) or 'another process'}; wait for it, stop it, or choose "
             "another folder")
    try:
        return FileLock(folder / LOCK).acquire(timeout=wait_seconds).lock
    except Timeout:
        raise InputError(taken) from None
    except (OSError, NotImplementedError) as error:
        if getattr(error, "filename", None) is not None:        # about the file, not about locks
            raise
        print(f"{folder}: no locks on this disk ({error}); the file {SOFT_LOCK} takes their place", flush=True)
    try:
        return SoftFileLock(folder / SOFT_LOCK).acquire(timeout=wait_seconds).lock
    except Timeout:
        raise InputError(f"{taken}; if it was killed, delete {folder / SOFT_LOCK}") from None


def _remove_temporaries(folder: Path) -> None:
    """Remove temporary files of processes that no longer exist, in `folder` and its subfolders.

    The processes of another host cannot be looked up. Its files are removed when they are a day old.
    Subfolders with a lock of their own are left out, because another process may be writing there.
    """
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and not any((path / name).exists() for name in OF_A_LOCK):
            _remove_temporaries(path)
        elif match := TEMPORARY.fullmatch(path.name):
            host, process = match[1], int(match[2])
            with suppress(FileNotFoundError):       # its process has just renamed it
                if not psutil.pid_exists(process) if host == HOST else time.time() - path.stat().st_mtime > DAY:
                    path.unlink()


def _owner(folder: Path) -> str | None:
    """The process that the folder's owner file names, as text; None if there is no readable owner file."""
    try:
        found = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        return printable(f"process {found['process']} on {found['host']} (since {found['since']})")
    except (OSError, ValueError, KeyError, TypeError):
        return None
