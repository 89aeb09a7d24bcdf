"""Ending early on purpose: signals, and machines that are taken away at a known hour."""
import os
import signal
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Iterator

KAGGLE_HOURS = 12               # after which a session ends without asking
LEFT_TO_SAVE_HOURS = 1 / 6      # ten minutes


class StopRequest:
    """Why to end after the current step, or None: a signal, or the clock."""

    def __init__(self, deadline: float | None = None):
        """deadline: seconds of `time.time()`."""
        self.deadline = deadline
        self.signal_name: str | None = None

    @property
    def reason(self) -> str | None:
        if self.signal_name:
            return self.signal_name
        return "the time is up" if self.deadline is not None and time.time() >= self.deadline else None


@contextmanager
def stopping_on_signals(request: StopRequest) -> Iterator[StopRequest]:
    """SIGTERM and a first SIGINT only tell the request; a second SIGINT raises KeyboardInterrupt at once.

    To be entered in the main thread, as Python handles signals there alone.
    """
    interrupts = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        if interrupts > 1:
            raise KeyboardInterrupt
        request.signal_name = signal.Signals(number).name
        with suppress(OSError):     # not by print: whoever reads it may be gone, and it may be printing already
            os.write(2, f"\n{request.signal_name}: stopping after this step (Ctrl-C: at once)\n".encode())
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def deadline(max_hours: float) -> float | None:
    """The `time.time()` to stop at: after max_hours from now; with 0, ten minutes before a Kaggle session's end, and
    never elsewhere.
    """
    if max_hours > 0:
        return time.time() + 3600 * max_hours
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        return session_start() + 3600 * (KAGGLE_HOURS - LEFT_TO_SAVE_HOURS)
    return None


def session_start() -> float:
    """When the first process of this machine or container started, in seconds of `time.time()`; Linux only."""
    after_the_name = Path("/proc/1/stat").read_text().rpartition(")")[2].split()
    ticks = int(after_the_name[19])         # proc(5): field 22, starttime, in clock ticks after boot
    boot = next(int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines()
                if line.startswith("btime"))
    return boot + ticks / os.sysconf("SC_CLK_TCK")
