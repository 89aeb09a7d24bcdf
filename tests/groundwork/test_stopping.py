"""Signals, the clock, locks and disks, with real ones."""
import json
import os
import pty
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from groundwork import stopping
from groundwork.errors import InputError
from groundwork.files import HOST, check_free_space
from groundwork.lock import LOCK, OWNER, sole_writer
from groundwork.stopping import StopRequest, stopping_on_signals


@pytest.fixture(autouse=True)
def heard_signals():
    """Programs inherit ignored signals: SIGHUP under nohup, and SIGINT in the background of a script."""
    ignored = [number for number in (signal.SIGHUP, signal.SIGINT) if signal.getsignal(number) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


def python(code, *arguments):
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2])


STEPS = """
    import time
    from groundwork.command_line import run
    from groundwork.stopping import StopRequest, stopping_on_signals
    def main():
        with stopping_on_signals(StopRequest()) as stop:
            print("ready", flush=True)
            while not stop.reason:
                time.sleep(0.02)
            time.sleep(float(seconds))
            print("saved after", stop.reason)
    seconds, sys_argv = __import__("sys").argv[1], __import__("sys").argv
    del sys_argv[1:]
    run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_first_signal_lets_it_save_and_exit_with_0(number):
    process = python(STEPS, 0.1)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert f"{number.name}: stopping after this step" in err and f"saved after {number.name}" in out


def test_a_signal_that_nobody_can_be_told_of_lets_it_save_all_the_same(tmp_path):
    """As Ctrl-C does that also ends the tee at the other end of a pipe."""
    process = python(STEPS.replace('print("saved after", stop.reason)', f'open({str(tmp_path / "saved")!r}, "w")'), 0.1)
    assert process.stdout.readline() == "ready\n"
    process.stdout.close()
    process.stderr.close()
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)
    assert (tmp_path / "saved").exists()


def test_a_second_interrupt_ends_it_at_once_with_130():
    process = python(STEPS, 60)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "\n" and "Ctrl-C: at once" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130 and "saved" not in out


def test_a_terminal_that_is_closed_lets_it_save(tmp_path):
    """Although all that is printed from then on fails, as a progress bar is at every step."""
    code = textwrap.dedent(STEPS).replace("time.sleep(float(seconds))", f"""print("progress", flush=True)
        open({str(tmp_path / "saved")!r}, "w")""")
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(Path(__file__).parents[2])
        os.execv(sys.executable, [sys.executable, "-c", code, "0"])
    assert os.read(terminal, 100).strip() == b"ready"
    os.close(terminal)
    os.waitpid(child, 0)
    assert (tmp_path / "saved").exists()


def test_a_hangup_that_is_ignored_stays_ignored():
    """As nohup starts a program, which is then to go on when the terminal is closed."""
    process = python("import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + textwrap.dedent(STEPS), 0.1)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert "saved after SIGTERM" in out


def test_only_ctrl_c_interrupts_what_is_stopping():
    """A SIGTERM that comes while a second Ctrl-C is dealt with does not interrupt that."""
    with stopping_on_signals(StopRequest()) as stop:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stop.reason == "SIGTERM"


def test_in_another_thread_it_says_that_signals_do_not_save(capsys):
    def steps():
        with stopping_on_signals(StopRequest()) as stop:
            return stop.reason
    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(steps).result() is None
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().out.endswith("Ctrl-C and SIGTERM do not save\n")


def test_afterwards_signals_do_what_they_did_before():
    before = signal.getsignal(signal.SIGTERM)
    with stopping_on_signals(StopRequest()):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_clock(monkeypatch):
    assert StopRequest(time.time() + 60).reason is None and StopRequest().reason is None
    assert StopRequest(time.time() - 1).reason == "the time is up"
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    assert stopping.deadline(0) is None
    assert stopping.deadline(2.5) == pytest.approx(time.time() + 9000, abs=5)


def test_on_kaggle_it_stops_ten_minutes_before_the_session_ends(monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    monkeypatch.setattr(stopping, "session_start", lambda: 1000.0)
    assert stopping.deadline(0) == pytest.approx(1000 + 12 * 3600 - 600)
    assert stopping.deadline(1) == pytest.approx(time.time() + 3600, abs=5)       # what was asked for comes first


def test_the_session_started_when_its_first_process_did():
    told = subprocess.run(["ps", "-o", "etimes=", "-p", "1"], capture_output=True, text=True)
    if told.returncode:
        pytest.skip("no ps here")
    assert stopping.session_start() == pytest.approx(time.time() - int(told.stdout), abs=3)


HOLDER = """
    import sys, time
    from groundwork.lock import sole_writer
    with sole_writer(sys.argv[1]):
        print("inside", flush=True)
        time.sleep(60)
"""


def test_a_second_writer_is_refused_with_the_firsts_process_and_host(tmp_path):
    first = python(HOLDER, tmp_path / "results")
    try:
        assert first.stdout.readline() == "inside\n"
        with pytest.raises(InputError, match=f"process {first.pid} on {os.uname().nodename}"):
            with sole_writer(tmp_path / "results"):
                pass
    finally:
        first.kill()
        first.wait()


def test_the_lock_of_a_killed_process_is_taken_over_and_its_leavings_are_swept(tmp_path, capsys):
    folder = tmp_path / "results"
    first = python(HOLDER, folder)
    assert first.stdout.readline() == "inside\n"
    first.kill()
    first.wait()
    (folder / "ID_1").mkdir()
    (folder / "classify").mkdir()
    gone = f"{HOST}-{first.pid}.0123abcd.tmp"
    left = [folder / f".model-1.{gone}.pt", folder / "ID_1" / f".x.{gone}.png", folder / f".x.{gone}"]
    kept = [folder / "model-1.pt", folder / ".mine.tmp.pt", folder / f".training.{HOST}-{os.getpid()}.0123abcd.tmp.png",
            folder / "classify" / f".runs.{gone}.csv", folder / "classify" / LOCK]         # another program's folder
    for path in left + kept:
        path.touch()
    with sole_writer(folder):
        assert f"left by process {first.pid}" in capsys.readouterr().out
        assert json.loads((folder / OWNER).read_text())["process"] == os.getpid()
        assert not any(path.exists() for path in left) and all(path.exists() for path in kept)
    with sole_writer(folder):
        assert capsys.readouterr().out == ""        # this time it was left in good order


def test_a_folder_that_came_to_nothing_is_not_left_behind(tmp_path):
    with pytest.raises(InputError):
        with sole_writer(tmp_path / "results"):
            raise InputError("no VAE")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with sole_writer(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").is_dir()


def test_too_little_room_is_said_before_anything_is_written(tmp_path):
    check_free_space(tmp_path, 1000, "")
    with pytest.raises(InputError, match=r"1e\+06 GB are needed in .*GB are free there; eat less, or choose another"):
        check_free_space(tmp_path, 10 ** 15, "eat less")
