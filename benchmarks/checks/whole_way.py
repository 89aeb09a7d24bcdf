"""The scripts: the demo, stopped in its training and started again; and all rows of the benchmark."""
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.__main__ import main as benchmark
from benchmarks.checks.check import Outcome, Setting
from groundwork.files import read_json

ROOT = Path(__file__).parents[2]
SIZE = ["--num_users", "4", "--images_per_user", "60", "--samples_per_user", "16", "--vae_num_steps", "300",
        "--train_num_steps", "600", "--save_and_sample_every", "200", "--classifier_epochs", "6",
        "--classifier_seeds", "2"]
TINY_SIZE = ["--num_users", "3", "--images_per_user", "20", "--images_per_user_train", "10", "--samples_per_user", "3",
             "--vae_num_steps", "10", "--vae_ch", "8", "--dim", "16", "--train_num_steps", "30",
             "--save_and_sample_every", "10", "--log_every", "2", "--num_samples", "4", "--classifier_epochs", "1",
             "--classifier_image_size", "32", "--classifier_batch_size", "8", "--sampling_timesteps", "4"]
STAGE = re.compile(r"=== (.*)")


def whole_way(setting: Setting) -> Outcome:
    """demo.py: SIGTERM once training has saved something, then the same command again, to the report."""
    folder = setting.scratch / "demo"
    command = [sys.executable, "-u", str(ROOT / "demo.py"), "--output_dir", str(folder), "--device",
               str(setting.device), *(TINY_SIZE if setting.is_tiny else SIZE)]
    first, status, output = _run(command, stop_at=folder / "results" / "model-1.pt")
    if status or "=== generate" in output:
        return Outcome(False, f"the first part ended with status {status}, and "
                       + ("did not stop at SIGTERM" if not status else output[-500:]), {"first": first})
    second, status, output = _run(command)
    resumed = "resumed at step" in output
    report = (folder / "report.html").exists()
    print(output)
    line = ", ".join(f"{stage} {first.get(stage, 0) + seconds:.0f}" for stage, seconds in second.items())
    return Outcome(status == 0 and resumed and report, f"status {status}, {'' if resumed else 'NOT '}resumed, report "
                   f"{'written' if report else 'MISSING'}; seconds: {line}", {"first": first, "second": second})


def _run(command: list[str], stop_at: Path | None = None) -> tuple[dict[str, float], int, str]:
    """Run a command. Returns the seconds of its stages, its exit status, and what it printed. stop_at: once this file
    exists, it gets SIGTERM."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seconds: dict[str, float] = {}
    stage, started, lines = "start", time.perf_counter(), []
    if stop_at is not None:
        threading.Thread(target=_stop, args=(process, stop_at), daemon=True).start()
    for line in process.stdout or ():
        lines.append(line)
        if match := STAGE.match(line):
            seconds[stage], stage, started = time.perf_counter() - started, match[1], time.perf_counter()
    status = process.wait()
    return seconds | {stage: time.perf_counter() - started}, status, "".join(lines)


def _stop(process: subprocess.Popen, file: Path) -> None:
    while process.poll() is None and not file.exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)


def speed(setting: Setting) -> Outcome:
    """python -m benchmarks --quick: each row as many times as fast as the reference as it must at least be. On cards
    below capability 8.0 it only reports.
    """
    json = setting.scratch / "rows.json"
    benchmark(device=str(setting.device), quick=True, json=json)
    found: dict[str, Any] = read_json(json)
    ratios = {name: (row["ratio"], row["at_least"]) for name, row in found["rows"].items()}
    reached = all(ratio >= least for ratio, least in ratios.values())
    return Outcome(reached or not setting.is_held_to_ratios, "times the reference's speed: " + ", ".join(
        f"{name} {ratio:.3g} (at least {least:g})" for name, (ratio, least) in ratios.items()), found)
