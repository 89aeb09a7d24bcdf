"""A thread less while another program keeps the CPU's cores busy."""
import os
import time
from collections import deque
from contextlib import contextmanager
from statistics import median
from typing import Any, Iterator

import psutil
import torch

SLOW = 4                    # times the best: without another program, steps do not become that slow
NUM_RECENT = 3              # steps, whose median counts
RETRY_AFTER = 60.0          # seconds at least, until all threads are tried again
MAX_TRIAL_SHARE = 0.02      # of the time that these trials may take


class AdaptiveThreads:
    """Takes threads from PyTorch while another program competes for the cores, and gives them back later.

    The threads of an operation wait for each other. If the system takes the core from one of them, all wait. One
    program beside them, even with nice 19, made steps on two threads 13 to 27 times as long. With a thread less each
    program has a core.

        with AdaptiveThreads(device) as threads:
            for …:
                with threads.step():
                    …           # each step must be about as much work as the others

    A thread is taken when steps take SLOW times as long as this run's best ones, while the system's load average
    exceeds the cores. After that all threads are tried for one step now and then, and kept if it is not slow. On
    another device than the CPU nothing is done.

    The number of threads changes results by rounding. A run in which it changed is therefore not the same to the bit as
    one in which it did not.
    """

    def __init__(self, device: torch.device):
        self.all = self.reduced = torch.get_num_threads()
        self.cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.is_active = device.type == "cpu" and self.all > 1
        self.recent: deque[float] = deque(maxlen=NUM_RECENT)       # seconds x threads of steps
        self.best = float("inf")                                    # median of `recent` on all threads
        self.retry_at, self.is_trial = 0.0, False

    def __enter__(self) -> "AdaptiveThreads":
        return self

    def __exit__(self, *_: Any) -> None:
        if self.is_active:
            torch.set_num_threads(self.all)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Within it, one step is computed."""
        started = time.monotonic()
        yield
        if self.is_active:
            self._adapt(time.monotonic() - started)

    def _adapt(self, seconds: float) -> None:
        """Choose the number of threads after a step of so many seconds."""
        threads = torch.get_num_threads()
        if self.is_trial:
            self._end_trial(seconds)
            return
        self.recent.append(seconds * threads)
        if len(self.recent) < NUM_RECENT:
            return
        usual = median(self.recent)
        if threads == self.all:
            self.best = min(self.best, usual)
        load = psutil.getloadavg()[0]
        if usual > SLOW * self.best and load > self.cores and threads > 1:
            self._set(threads - 1)
            self.reduced, self.retry_at = threads - 1, time.monotonic() + RETRY_AFTER
            print(f"steps take {usual / self.best:.0f} times as long as before, beside other programs (load {load:.1f} "
                  f"on {self.cores} cores): on with {self.reduced} of {self.all} threads", flush=True)
        elif threads < self.all and time.monotonic() >= self.retry_at:
            self._set(self.all)
            self.is_trial = True

    def _end_trial(self, seconds: float) -> None:
        """Keep all threads after a step on them, unless it was slow."""
        self.is_trial = False
        if seconds * self.all > SLOW * self.best:
            self._set(self.reduced)
            self.retry_at = time.monotonic() + max(RETRY_AFTER, seconds / MAX_TRIAL_SHARE)
        else:
            print(f"on with {self.all} threads again", flush=True)

    def _set(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self.recent.clear()         # those of another number of threads
