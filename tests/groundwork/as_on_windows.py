"""Makes a process on Linux lack what Windows lacks: python as_on_windows.py SCRIPT [options] runs a script so.

What is not there: POSIX's modules, functions and signals. What fails: to flush a file that was opened for reading, and
to rename or delete a file that is open or mapped into memory. Other people's packages are imported before, as they have
versions of their own for Windows.
"""
import fcntl
import os
import runpy
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import accelerate  # noqa: F401
import filelock  # noqa: F401
import matplotlib.figure  # noqa: F401
import psutil
import sklearn.metrics  # noqa: F401
import torch.utils.tensorboard  # noqa: F401
import torchvision  # noqa: F401
import tyro  # noqa: F401

MODULES = ("fcntl", "grp", "pwd", "resource", "termios")
FUNCTIONS = ("fork", "geteuid", "getuid", "posix_fallocate", "sched_getaffinity", "sysconf", "uname")
SIGNALS = ("SIGALRM", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1")


def refusing_if_in_use(function):
    """os.replace and the like, as they are where files in use cannot be renamed or deleted."""
    def wrapped(*paths, **options):
        for path in paths:
            full = os.path.realpath(path)
            maps = [line.split(maxsplit=5)[5].strip() for line in open("/proc/self/maps") if line.count("/")]
            opened = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
            if not os.path.isdir(full) and full in (*maps, *opened):
                raise PermissionError(13, "The process cannot access the file because it is being used", str(path))
        return function(*paths, **options)
    return wrapped


def flush(number, plain=os.fsync):
    if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(9, "Bad file descriptor")
    plain(number)


if __name__ == "__main__":
    os.fsync = flush
    for name in ("replace", "rename", "remove", "unlink"):
        setattr(os, name, refusing_if_in_use(getattr(os, name)))
    for owner, names in ((os, FUNCTIONS), (signal, SIGNALS)):
        for name in names:
            delattr(owner, name)
    sys.modules.update(dict.fromkeys(MODULES))
    psutil.Process.memory_info = lambda self: SimpleNamespace(peak_wset=2 ** 30)
    sys.argv.pop(0)
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
