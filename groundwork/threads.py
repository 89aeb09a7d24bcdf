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
CLEARLY = 0.5               # more load than cores
NUM_RECENT = 3              # steps, whose median counts
NUM_UNUSUAL = 2             # first steps: files are read, and memory is taken, for the first time
FIRST_WAIT = 10.0           # seconds until all threads are tried again; doubled from one time to the next,
LONGEST_WAIT = 600.0        # up to this,
MAX_TRIAL_SHARE = 0.02      # or further, so that trials that fail take no more of the time


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
    exceeds the cores. If it clearly does so at the start, a thread less is tried at once, because the best steps are
    not known then. All threads are tried again now and then, until a first slow step. On another device than the CPU
    nothing is done.

    The number of threads changes results by rounding. A run in which it changed is therefore not the same to the bit as
    one in which it did not.
    """

    def __init__(self, device: torch.device):
        self.all = self.reduced = torch.get_num_threads()
        self.cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.is_active = device.type == "cpu" and self.all > 1
        self.recent: deque[float] = deque(maxlen=NUM_RECENT)       # seconds x threads of steps
        self.unusual = NUM_UNUSUAL                                  # steps that are still not counted
        self.best = float("inf")                                    # median of `recent`
        self.wait, self.retry_at, self.trial_steps = FIRST_WAIT, 0.0, 0     # trial_steps: left of a trial

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
        if self.unusual:
            self.unusual -= 1
            return
        threads, load, now = torch.get_num_threads(), psutil.getloadavg()[0], time.monotonic()
        self.recent.append(seconds * threads)
        usual = median(self.recent)
        if self.trial_steps:
            self._go_on_with_trial(threads, seconds * threads)
        elif len(self.recent) < NUM_RECENT:
            return
        elif self.best == float("inf") and load > self.cores + CLEARLY:
            self.best = usual
            self._try(threads - 1)
        elif usual > SLOW * self.best and load > self.cores and threads > 1:
            self._reduce(threads - 1, usual / self.best)
        elif threads < self.all and now >= self.retry_at:
            self._try(self.all)
        else:
            self.best = min(self.best, usual)

    def _try(self, threads: int) -> None:
        """Compute NUM_RECENT steps on so many threads."""
        self._set(threads)
        self.trial_steps = NUM_RECENT

    def _go_on_with_trial(self, threads: int, work: float) -> None:
        """Decide after a step of a trial. Fewer threads are kept if they are SLOW times as fast; all threads are left
        after a slow step. work: seconds of the step x threads."""
        self.trial_steps -= 1
        usual = median(self.recent)
        if threads == self.all and work > SLOW * self.best:
            self._set(self.reduced)
            self._wait(work / threads / MAX_TRIAL_SHARE)
        elif self.trial_steps:
            return
        elif threads == self.all:
            print(f"on with {self.all} threads again", flush=True)
        elif self.best > SLOW * usual:
            self._reduce(threads, self.best / usual)
            self.best = usual
        else:
            self._set(self.all)

    def _reduce(self, threads: int, factor: float) -> None:
        """Go on with fewer threads. factor: how much longer steps took than the best."""
        load = psutil.getloadavg()[0]
        print(f"beside other programs (load {load:.1f} on {self.cores} cores) steps take {factor:.0f} times as long: "
              f"on with {threads} of {self.all} threads", flush=True)
        self._set(threads)
        self.reduced = threads
        self._wait()

    def _wait(self, at_least: float = 0.0) -> None:
        """Try all threads again after a time that grows from one time to the next, and after so many seconds."""
        self.trial_steps, self.retry_at = 0, time.monotonic() + max(self.wait, at_least)
        self.wait = min(2 * self.wait, LONGEST_WAIT)

    def _set(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self.recent.clear()         # those of another number of threads
