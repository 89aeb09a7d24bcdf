"""Progress where there is no terminal: lines that say how much is done, in the main process only."""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from groundwork import progress
from groundwork.progress import Progress, format_duration

ROOT = Path(__file__).parents[2]
WORK = """
import time
from groundwork import progress
progress.INTERVAL = 0.2
with progress.Progress(total=8, initial=2, desc="training the VAE", unit="step") as bar:
    for _ in range(6):
        time.sleep(0.15)
        bar.set_postfix(loss="0.5")
        bar.update()
print("done")
time.sleep(60)
"""


def run(code, **environment):
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, env=os.environ | environment)


def test_a_log_gets_a_line_now_and_then_before_the_work_is_done():
    with run(WORK) as process:
        lines = [process.stdout.readline() for _ in range(2)]       # it still runs: they were flushed
        process.kill()
        assert process.communicate()[1] == ""
    counts = [re.fullmatch(r"training the VAE: (\d+) % \((\d) of 8 steps\), \d+ s left, loss=0.5\n", line).groups()
              for line in lines]
    assert all(int(share) == 100 * int(done) // 8 for share, done in counts)
    assert 2 < int(counts[0][1]) < int(counts[1][1])


def test_other_processes_than_the_main_one_and_short_work_print_nothing():
    quick = WORK.replace("time.sleep(60)", "")
    for process in (run(quick, RANK="1"), run(quick.replace("0.2", "30"))):
        assert process.communicate() == ("done\n", "")


@pytest.fixture
def at_every_step(monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    monkeypatch.delenv("RANK", raising=False)


def test_a_line_says_what_is_known(at_every_step, capsys):
    assert list(Progress([5, 6], desc="reading", unit="image")) == [5, 6]
    with Progress(desc="denoising", unit="step") as bar:
        bar.update(3)
    with Progress(total=3_000_000_000, desc="checking a file", unit="B", unit_scale=True) as bar:
        bar.update(1_500_000_000)
    with Progress(total=4, unit="step") as bar:
        bar.set_description("classifier 2/3")
        bar.update()
        bar.update(-1)      # as after a step back
    printed, complaint = capsys.readouterr()
    assert printed.splitlines() == [
        "reading: 50 % (1 of 2 images), 0 s left", "reading: 100 % (2 of 2 images), 0 s left",
        "denoising: 3 steps", "checking a file: 50 % (1.50GB of 3.00GB), 0 s left",
        "classifier 2/3: 25 % (1 of 4 steps), 0 s left", "classifier 2/3: 0 % (0 of 4 steps)"]
    assert complaint == ""


def test_what_is_hidden_stays_so(at_every_step, capsys):
    assert list(Progress([5], hidden=True)) == [5]
    assert capsys.readouterr() == ("", "")


def test_a_terminal_of_a_notebook_gets_lines(monkeypatch):
    """A cell's !python sees a terminal. All that it writes is kept in the notebook."""
    class Terminal:
        def isatty(self):
            return True
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert progress.can_redraw(Terminal())
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    assert not progress.can_redraw(Terminal())


def test_durations_are_told_in_the_unit_that_fits():
    assert [format_duration(seconds) for seconds in (0.4, 59, 90, 3600, 9000)] == [
        "0 s", "59 s", "2 min", "1 h 00 min", "2 h 30 min"]


def test_a_program_can_follow_the_bars_and_end_the_work(capsys):
    told = []

    def follow(bar):
        told.append((bar.desc, bar.n, bar.total))
        if bar.n == 3:
            raise KeyboardInterrupt

    with progress.followed_by(follow):
        assert list(Progress([5, 6], desc="reading")) == [5, 6] and list(Progress([5], hidden=True)) == [5]
        with Progress(total=9, desc="training") as bar, pytest.raises(KeyboardInterrupt):
            for _ in range(9):
                bar.update()
    list(Progress([5], desc="afterwards"))
    assert told == [("reading", 1, 2), ("reading", 2, 2), ("training", 1, 9), ("training", 2, 9), ("training", 3, 9)]
    assert capsys.readouterr() == ("", "")
