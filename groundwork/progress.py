"""Progress of long work: a bar in a terminal; elsewhere, as in a log or a notebook, a line now and then."""
import os
import sys
import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Callable, Iterable, Iterator, TextIO

from tqdm import tqdm

from groundwork.processes import is_main_process

INTERVAL = 30.0     # seconds between two lines; shorter work prints none
_follower: ContextVar[Callable[["Progress"], None] | None] = ContextVar("follower", default=None)


@contextmanager
def followed_by(follow: Callable[["Progress"], None]) -> Iterator[None]:
    """While the block runs, call follow(bar) at every update of a bar that is not hidden, in this thread. The terminal
    then gets lines instead of bars. What `follow` raises ends the work."""
    token = _follower.set(follow)
    try:
        yield
    finally:
        _follower.reset(token)


def can_redraw(stream: TextIO) -> bool:
    """Whether the stream is a terminal in which text can be replaced.

    A command that a notebook's cell starts (!python …) sees a terminal, too. But the notebook keeps all that is written
    to it: a bar that is drawn ten times a second for hours makes the notebook too large to open.
    """
    return stream.isatty() and os.environ.get("TERM") != "dumb" and "JPY_PARENT_PID" not in os.environ


class Progress(tqdm):
    """tqdm's bar if standard error is a terminal. Otherwise a line on standard output every INTERVAL seconds, such as

        training the VAE: 40 % (320 of 800 steps), 3 min left

    iterable, options: those of tqdm; `unit` is the singular of a noun. hidden: show nothing. Only the main process
    shows anything.
    """

    def __init__(self, iterable: Iterable | None = None, *, hidden: bool = False, **options: Any):
        hidden = hidden or not is_main_process()
        self.follow = _follower.get()
        super().__init__(iterable, disable=hidden or bool(self.follow) or not can_redraw(sys.stderr), **options)
        self.prints_lines = self.disable and not hidden
        if self.prints_lines:       # tqdm leaves these out when it is disabled
            self.desc, self.postfix = options.get("desc") or "", ""
            self.unit, self.unit_scale = options.get("unit", "it"), options.get("unit_scale", False)
            self.first, self.started = self.n, time.monotonic()
            self.printed = self.started

    def __iter__(self) -> Iterator:
        if not self.disable:
            yield from super().__iter__()
            return
        for item in self.iterable:
            yield item
            self.update()

    def update(self, n: int = 1) -> None:
        super().update(n)
        if not self.prints_lines:
            return
        self.n += n
        if self.follow:
            self.follow(self)
        if (now := time.monotonic()) >= self.printed + INTERVAL:
            self.printed = now
            print(self.line(now - self.started), flush=True)

    def line(self, seconds: float) -> str:
        """The progress as text, after so many seconds of work."""
        def amount(number: int) -> str:
            return self.format_sizeof(number, self.unit) if self.unit_scale else str(number)
        units = "" if self.unit_scale else f" {self.unit}s"
        label, done = self.desc.removesuffix(": "), self.n - self.first
        if not self.total:
            parts = [f"{label}: {amount(self.n)}{units}"]
        else:
            parts = [f"{label}: {100 * self.n // self.total} % ({amount(self.n)} of {amount(self.total)}{units})"]
            if done > 0:
                parts.append(f"{format_duration(seconds / done * (self.total - self.n))} left")
        return ", ".join([*parts, self.postfix] if self.postfix else parts)


def format_duration(seconds: float) -> str:
    """In seconds, minutes, or hours and minutes."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
