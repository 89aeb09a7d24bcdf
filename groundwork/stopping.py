"""Stops a program early but cleanly: on a signal, or before the machine is taken away at a known time."""
import os
import signal
import threading
import time
from contextlib import contextmanager
from types import FrameType
from typing import Iterator

import psutil

KAGGLE_HOURS = 12               # Kaggle ends a session after this time, without asking
LEFT_TO_SAVE_HOURS = 1 / 6      # ten minutes, for saving


class StopRequest:
    """Whether to stop after the current step, and why: a signal arrived, or the deadline has passed."""

    def __init__(self, deadline: float | None = None):
        """deadline: when to stop, in seconds as `time.time()`; None: never."""
        self.deadline = deadline
        self.signal_name: str | None = None

    @property
    def reason(self) -> str | None:
        """The reason to stop; None: go on."""
        if self.signal_name:
            return self.signal_name
        return "the time is up" if self.deadline is not None and time.time() >= self.deadline else None


@contextmanager
def stopping_on_signals(request: StopRequest) -> Iterator[StopRequest]:
    """While the block runs, SIGTERM, SIGHUP (a closed terminal) and the first SIGINT (Ctrl-C) only set `request`. A
    second SIGINT raises KeyboardInterrupt. SIGHUP stays ignored where it is, as nohup wants.

    Python handles signals in the main thread only. In another one, a line says so, and signals do what they did before.
    """
    if threading.current_thread() is not threading.main_thread():
        print("only the main thread gets signals, and this is another: Ctrl-C and SIGTERM do not save", flush=True)
        yield request
        return
    interrupts = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        if number == signal.SIGINT and interrupts > 1:
            raise KeyboardInterrupt
        request.signal_name = signal.Signals(number).name
        said = f"\n{request.signal_name}: stopping after this step (Ctrl-C: at once)\n".encode()
        for stream, text in ((1, b""), (2, said)):
            try:
                os.write(stream, text)      # not print: the signal may have come while it was printing
            except OSError:         # its terminal or reader is gone: printing must not fail before all is saved
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:     # Windows has none
        numbers.append(signal.SIGHUP)
    previous_handlers = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)


def deadline(max_hours: float) -> float | None:
    """When to stop, in seconds as `time.time()`: max_hours from now.

    With max_hours = 0, it is ten minutes before a Kaggle session ends; outside Kaggle it is None, that is, never.
    """
    if max_hours > 0:
        return time.time() + 3600 * max_hours
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        return session_start() + 3600 * (KAGGLE_HOURS - LEFT_TO_SAVE_HOURS)
    return None


def session_start() -> float:
    """When the first process of this machine or container started, in seconds as `time.time()`. Not on Windows."""
    return psutil.Process(1).create_time()
