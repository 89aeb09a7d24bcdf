"""Runs checks in another process, each with a time limit: one that hangs or crashes takes no others down."""
import contextlib
import faulthandler
import gc
import io
import multiprocessing
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, Callable, Sequence

import psutil
import torch

from benchmarks.checks.check import Check, Setting, switch
from groundwork.device import choose_device

START_SECONDS = 120     # to import everything and to start CUDA
GRACE_SECONDS = 3       # after its time limit, a check has this long to print where it is
TAIL = 3000             # characters of a failed check's output that are kept


@dataclass(frozen=True)
class Report:
    """What became of a check. passed: None if there was no time for it; seconds: that it took; output: what it printed,
    if it failed."""
    passed: bool | None
    line: str
    seconds: float = 0.0
    figures: dict[str, Any] | None = None
    output: str = ""

    @property
    def verdict(self) -> str:
        return {True: "pass", False: "FAIL", None: "not run"}[self.passed]


def run_checks(checks: Sequence[Check], setting: Setting, report: Callable[[Check, Report], None], *,
               deadline: float = float("inf"), context: BaseContext = multiprocessing.get_context("spawn")) -> None:
    """Run the checks in their order, and call report(check, report) after each.

    One process runs them, until a check fails; the next one begins in a new process, as the failed one may have left
    the device in any state. deadline: in time.monotonic's seconds: checks that would start later are not run, and no
    check may run past it. context: of multiprocessing, which starts the processes.
    """
    left = list(checks)
    while left and time.monotonic() < deadline:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(left, setting, theirs), daemon=False)     # type: ignore
        process.start()
        theirs.close()
        passed = True
        try:
            while left and passed and time.monotonic() < deadline:
                found = _follow(left[0], setting, ours, process, deadline)
                report(left.pop(0), found)
                passed = bool(found.passed)
        finally:
            ours.close()        # a process that waits for its next check then ends by itself
            process.join(GRACE_SECONDS if passed else 0)
            _kill(process.pid)
            process.join()
    for check in left:
        report(check, Report(None, "there was no time left for it"))


def _follow(check: Check, setting: Setting, connection: Connection, process: Any, deadline: float) -> Report:
    """Wait for a check's result, at most for its time limit."""
    connection.send("go on")
    try:
        if not connection.poll(START_SECONDS):
            return Report(False, f"its process did not start within {START_SECONDS} s")
        connection.recv()
        started = time.monotonic()
        limit = min(check.seconds, deadline - started)
        connection.send(limit)
        if connection.poll(limit + GRACE_SECONDS):
            return connection.recv()
        trace = stack_file(setting).read_text() if stack_file(setting).exists() else ""
        return Report(False, f"over its time limit of {limit:.0f} s", time.monotonic() - started, output=trace[-TAIL:])
    except (EOFError, ConnectionError):
        process.join(GRACE_SECONDS)
        return Report(False, f"its process ended with status {process.exitcode}")


def _kill(pid: int) -> None:
    """End a process and those that it has started, such as a script."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def stack_file(setting: Setting) -> Path:
    """Where a check that is over its time limit says what it was doing."""
    return setting.scratch / "stack.txt"


def _work(checks: Sequence[Check], setting: Setting, connection: Connection) -> None:
    """In the other process: run one check after the other, each when it is asked for."""
    choose_device(str(setting.device))      # it sets how this process computes on the device
    with contextlib.suppress(EOFError, ConnectionError):        # the parent has ended, or has seen enough
        for check in checks:
            connection.recv()
            connection.send("here")
            limit = connection.recv()
            with open(stack_file(setting), "w") as file:
                faulthandler.dump_traceback_later(limit, file=file)
                result = _run_one(check, setting)
                faulthandler.cancel_dump_traceback_later()
            connection.send(result)


def _run_one(check: Check, setting: Setting) -> Report:
    """Run a check; what it prints is kept if it fails."""
    printed, started = io.StringIO(), time.monotonic()
    switch()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            outcome = check.function(setting)
            passed, line, figures = outcome.passed, outcome.line, outcome.figures
        except Exception as error:
            passed, line, figures = False, f"{type(error).__name__}: {str(error).splitlines()[0]}", {}
            traceback.print_exc()
    gc.collect()
    if setting.on_cuda:
        with contextlib.suppress(RuntimeError):     # a broken device also breaks this
            torch.cuda.empty_cache()
    return Report(passed, line, time.monotonic() - started, figures, "" if passed else printed.getvalue()[-TAIL:])
