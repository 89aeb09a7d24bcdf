"""A thread less beside a busy program: with a clock and a load that the tests set."""
import pytest
import torch

from groundwork import threads as threads_module
from groundwork.threads import FIRST_WAIT, LONGEST_WAIT, AdaptiveThreads

CPU = torch.device("cpu")


class Machine:
    """So many cores; a step's work takes `work` core-seconds, and 20 times as long if its threads lack a core."""

    def __init__(self, monkeypatch, cores):
        self.cores, self.work, self.now, self.neighbours = cores, 0.2, 0.0, 0
        self.used = []          # threads of each step
        self.threads = cores
        monkeypatch.setattr(threads_module.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(threads_module.psutil, "getloadavg", lambda: (self.threads + self.neighbours, 0, 0))
        monkeypatch.setattr(threads_module.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
        monkeypatch.setattr(torch, "get_num_threads", lambda: self.threads)
        monkeypatch.setattr(torch, "set_num_threads", lambda number: setattr(self, "threads", number))

    def run(self, threads, steps):
        """The number of threads of each of these steps."""
        used = []
        for _ in range(steps):
            used.append(self.threads)
            with threads.step():
                is_crowded = self.threads + self.neighbours > self.cores
                self.now += self.work / self.threads * (20 if is_crowded and self.threads > 1 else 1)
        return used


@pytest.fixture
def machine(monkeypatch):
    return lambda cores: Machine(monkeypatch, cores)


def test_beside_a_busy_program_it_goes_on_with_a_thread_less_and_says_so_once(machine, capsys):
    here = machine(2)
    with AdaptiveThreads(CPU) as threads:
        assert here.run(threads, 10) == [2] * 10
        here.neighbours = 1
        used = here.run(threads, 40)         # 8 s
        assert used[:2] == [2, 2] and set(used[2:]) == {1}
    line, = capsys.readouterr().out.splitlines()
    assert line == ("beside other programs (load 3.0 on 2 cores) steps take 20 times as long: on with 1 of 2 threads")
    assert here.threads == 2        # what follows in this process starts with all


def test_all_threads_are_tried_later_and_kept_when_the_program_has_ended(machine, capsys):
    here = machine(2)
    with AdaptiveThreads(CPU) as threads:
        here.run(threads, 10)
        here.neighbours = 1
        used = here.run(threads, 10_000)[10:]
        assert "1, 2, 1" in str(used) and "2, 2" not in str(used)         # back at once
        here.neighbours = 0
        assert here.run(threads, int(LONGEST_WAIT / 0.2) + 10)[-5:] == [2] * 5
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[1] == "on with 2 threads again"


def test_a_short_disturbance_does_not_take_a_thread_for_long(machine):
    here = machine(2)
    with AdaptiveThreads(CPU) as threads:
        here.run(threads, 10)
        here.neighbours = 1
        here.run(threads, 2)
        here.neighbours, started = 0, here.now
        while here.threads == 1:
            here.run(threads, 1)
        assert here.now - started <= FIRST_WAIT + 1


def test_a_program_that_comes_and_goes_is_told_of_less_and_less_often(machine, capsys):
    here = machine(2)
    with AdaptiveThreads(CPU) as threads:
        here.run(threads, 10)
        while here.now < 3600:
            here.neighbours = int(here.now / 5) % 2
            here.run(threads, 1)
    assert 4 < len(capsys.readouterr().out.splitlines()) < 40


@pytest.mark.parametrize("work", [0.2, 20.0])
def test_trials_take_a_small_share_of_the_time_however_long_a_step_is(machine, work):
    here = machine(2)
    here.work = work
    with AdaptiveThreads(CPU) as threads:
        here.run(threads, 10)
        here.neighbours = 1
        used = here.run(threads, 3000)[10:]
    assert 2 <= used.count(2) and used.count(2) * work * 10 < 0.04 * used.count(1) * work


def test_a_run_that_starts_beside_a_busy_program_finds_it_too(machine, capsys):
    here = machine(2)
    here.neighbours = 1
    with AdaptiveThreads(CPU) as threads:
        used = here.run(threads, 40)
        assert used[:5] == [2] * 5 and set(used[5:]) == {1}
        here.neighbours = 0
        assert here.run(threads, int(LONGEST_WAIT / 0.2) + 10)[-5:] == [2] * 5
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_run_that_starts_at_a_high_load_which_does_not_harm_it_takes_all_threads(machine, monkeypatch, capsys):
    here = machine(2)
    monkeypatch.setattr(threads_module.psutil, "getloadavg", lambda: (9.0, 0, 0))
    with AdaptiveThreads(CPU) as threads:
        assert here.run(threads, 100) == [2] * 5 + [1] * 3 + [2] * 92
    assert capsys.readouterr().out == ""


def test_slow_first_steps_at_a_high_load_take_no_thread(machine, monkeypatch, capsys):
    """As when files are read for the first time, just after a job that has left a high load average."""
    here = machine(2)
    monkeypatch.setattr(threads_module.psutil, "getloadavg", lambda: (4.0, 0, 0))
    with AdaptiveThreads(CPU) as threads:
        here.work *= 20
        here.run(threads, 2)
        here.work /= 20
        assert here.run(threads, 100)[-90:] == [2] * 90
    assert capsys.readouterr().out == ""


def test_as_many_threads_less_as_there_are_programs(machine):
    here = machine(8)
    with AdaptiveThreads(CPU) as threads:
        here.run(threads, 10)
        here.neighbours = 3
        assert here.run(threads, 60)[-1] == 5


@pytest.mark.parametrize("factor, load", [(3, 3.0), (20, 1.9)])
def test_slow_steps_alone_and_a_high_load_alone_take_no_thread(machine, monkeypatch, capsys, factor, load):
    here = machine(2)
    with AdaptiveThreads(CPU) as threads:
        here.run(threads, 10)
        monkeypatch.setattr(threads_module.psutil, "getloadavg", lambda: (load, 0, 0))
        here.work *= factor
        assert here.run(threads, 100) == [2] * 100
    assert capsys.readouterr().out == ""


def test_a_single_slow_step_takes_no_thread(machine):
    here = machine(2)
    with AdaptiveThreads(CPU) as threads:
        for _ in range(10):
            here.neighbours = 1
            here.run(threads, 1)
            here.neighbours = 0
            assert here.run(threads, 5) == [2] * 5


def test_nothing_is_done_on_another_device_or_with_one_thread(machine):
    for cores, device in ((2, torch.device("cuda", 0)), (1, CPU)):
        here = machine(cores)
        with AdaptiveThreads(device) as threads:
            here.run(threads, 10)
            here.neighbours = 5
            assert here.run(threads, 50) == [cores] * 50
