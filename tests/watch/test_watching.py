"""What people look at while something works: bars, the screen of --watch, the page of --html in a real browser."""
import fcntl
import io
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from test_monitor import milestone_line, standardized, training_line, write_run

import monitor_training
from microdoppler.watch.screen import TrainingScreen, curve
from train_latent_cfg import Config

ROOT = Path(__file__).parents[2]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def in_terminal(*command) -> tuple[str, int]:
    """(what a terminal gets, status) of a Python command."""
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "JPY_PARENT_PID"}
    process = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, stdout=writer, stderr=writer,
                               env=environment | {"TERM": "xterm-256color"})
    os.close(writer)
    told = b""
    while True:
        try:
            part = os.read(reader, 2 ** 16)
        except OSError:         # Linux's end of a terminal
            part = b""
        if not part:
            break
        told += part
    os.close(reader)
    return told.decode(), process.wait()


def run_with_samples(folder: Path, **run) -> Path:
    write_run(folder, **run)
    for milestone in (1, 2, 10):
        Image.fromarray(np.full((40, 60, 3), 20 * milestone, dtype=np.uint8)).save(folder / f"sample-{milestone}.png")
    return folder


def page_of(folder: Path, fragment: str = "") -> str:
    """The page as a browser has it once its script has run."""
    if BROWSER is None:
        pytest.skip("no chromium here")
    profile = folder.parent / "browser"
    done = subprocess.run([BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
                           "--virtual-time-budget=2000", "--dump-dom", f"file://{folder / 'page.html'}{fragment}"],
                          capture_output=True, text=True, timeout=120)
    return done.stdout


def shown_steps(page: str) -> list[int]:
    figures = re.findall(r'<figure class="sample"([^>]*)>', page)
    return [int(re.search(r'data-step="(\d+)"', figure)[1]) for figure in figures if "hidden" not in figure]


def test_bars_are_seen_in_a_terminal_and_nowhere_else(script, tmp_path):
    command = ("-m", "microdoppler.simulate", "--num_users", "1", "--images_per_user", "2", "--image_size", "16")
    told, status = in_terminal(*command, "--output_dir", tmp_path / "a")
    assert status == 0 and "simulate: 100%" in told
    out, err = script(*command, "--output_dir", tmp_path / "b")
    assert err == "" and "\r" not in out


def test_every_bar_is_one_that_prints_lines_without_a_terminal():
    paths = [path for path in ROOT.rglob("*.py") if not any(
        part.startswith(".") or part in ("tests", "reference") for part in path.relative_to(ROOT).parts)]
    assert [path.relative_to(ROOT).name for path in paths if "from tqdm" in path.read_text()] == ["progress.py"]


def test_a_terminal_shows_one_screen_until_training_is_complete_and_then_the_report(tmp_path):
    folder = write_run(tmp_path, steps=500, train_num_steps=1000)
    seen = threading.Event()

    def finish():
        while not (folder / "training.png").exists():
            seen.wait(0.05)
        with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.writelines(json.dumps(training_line(step, standardized(step))) + "\n" for step in range(550, 1001, 50))
            file.write(json.dumps(milestone_line(1000)) + "\n")
    trainer = threading.Thread(target=finish)
    trainer.start()
    told, status = in_terminal("monitor_training.py", "--results_folder", folder, "--watch", "0.2")
    trainer.join()
    begin, end = told.index("\x1b[?1049h"), told.index("\x1b[?1049l")       # another screen, and back
    assert status == 0 and begin < told.index("step 500 of 1000") < told.rindex("step 1000 of 1000", begin, end)
    assert "█" in told[begin:end] and "all is well" in told[begin:end]
    assert told.count("step 1000 of 1000", end) == 1 and "complete" in told[end:]


def test_without_a_terminal_there_is_a_report_per_change_and_no_control_character(script, tmp_path):
    folder = write_run(tmp_path, steps=1000, train_num_steps=1000)
    out, err = script("monitor_training.py", "--results_folder", folder, "--watch")
    assert out.count("step 1000 of 1000") == 1 and not re.search(r"[\x00-\x09\x0b-\x1f]", out + err)


def test_watching_waits_for_training_to_begin(tmp_path):
    command = [sys.executable, ROOT / "monitor_training.py", "--results_folder", tmp_path / "run", "--watch", "0.2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as monitor:
        assert monitor.stdout.readline().startswith(f"waiting for training to begin in {tmp_path / 'run'}")
        write_run(tmp_path / "run", steps=1000, train_num_steps=1000)
        assert "step 1000 of 1000" in monitor.stdout.read() and monitor.wait() == 0


def test_the_curve_of_a_terminal_falls_with_the_loss_and_leaves_gaps():
    loss = np.geomspace(1, 0.01, 60)
    lines = curve(np.concatenate([loss, np.full(20, np.nan)]), 8, 3)
    assert [line[:7].strip() for line in lines] == [f"{loss[:10].mean():.3g}", "", f"{loss[-10:].mean():.3g}"]
    heights = [sum(line[8 + column] != " " for line in lines) for column in range(8)]
    assert heights == sorted(heights, reverse=True) and heights[0] == 3 and heights[5:] == [1, 0, 0]


@pytest.mark.filterwarnings("error")
def test_there_is_no_curve_where_a_logarithm_has_nothing_to_show():
    for loss in ([], [0.0, 0.0], [-1.0, np.nan, np.inf]):
        assert curve(np.array(loss, dtype=float), 20, 3) == []
    assert curve(np.array([0.5]), 0, 3) == []       # a terminal as narrow as the numbers at its side
    screen = TrainingScreen("training", 0.5, ["step 5 of 10"], "all is well", True, np.zeros(5))
    console = Console(width=60, height=40, record=True, file=io.StringIO())
    console.print(screen)
    assert "all is well" in console.export_text() and "logarithmic" not in console.export_text()


def test_the_page_follows_the_newest_samples_or_the_slider_and_needs_no_other_file(tmp_path):
    folder = run_with_samples(tmp_path / "run", steps=20000)
    monitor_training.main(Config(results_folder=folder), html=folder / "page.html")
    newest, chosen = page_of(folder), page_of(folder, "#step=4000")
    assert shown_steps(newest) == [20000] and "step 20000, milestone 10, the newest</output>" in newest
    assert shown_steps(chosen) == [4000] and 'aria-valuetext="step 4000, milestone 2"' in chosen
    assert shown_steps(page_of(folder, "#step=1")) == [20000]
    assert newest.count("data:image/webp;base64,") == 3 and newest.count("data:image/png;base64,") == 1
    assert not re.findall(r'(?:src|href)="(?!data:)', newest) and newest.count(' alt="') == newest.count("<img") == 4
    assert "all is well so far" in newest and "step 20000 of 150000" in newest


def test_the_page_reads_itself_again_until_training_is_complete(tmp_path):
    folder = run_with_samples(tmp_path / "run", steps=900, train_num_steps=1000)
    monitor_training.main(Config(results_folder=folder), html=folder / "page.html")
    assert "data-refresh=" in (folder / "page.html").read_text()
    run_with_samples(folder, steps=1000, train_num_steps=1000)
    monitor_training.main(Config(results_folder=folder), html=folder / "page.html")
    page = (folder / "page.html").read_text()
    assert "data-refresh=" not in page and 'http-equiv="refresh"' not in page and "Training is complete." in page


def test_the_page_tells_what_is_wrong_escapes_it_and_needs_no_samples(tmp_path):
    folder = write_run(tmp_path / "<b>&", milestone=lambda step: {"diversity": 0.3})
    (folder / "sample-3.png").write_bytes(b"torn")
    monitor_training.main(Config(results_folder=folder), html=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<h3>collapsing</h3>" in page and "lower the guidance" in page and "No milestone yet." in page
    assert "<b>" not in page and "&lt;b&gt;&amp;" in page
