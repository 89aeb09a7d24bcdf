"""Kill every kind of work at random moments, and check that nothing is lost:  python -m scripts.kills

Each trial starts the work in a new folder and ends it with SIGKILL at a random moment. It checks that every file is
complete, repeats the work as a user would (training with --resume latest), and compares the result with that of an
uninterrupted run.
"""
import csv
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch
from PIL import Image

from denoising_diffusion_pytorch.checkpoint import list_milestones, milestone_path
from groundwork.command_line import run
from groundwork.errors import InputError
from groundwork.files import TEMPORARY, load_tensors, save_tensors
from groundwork.lock import LOCK
from groundwork.progress import Progress
from microdoppler.pipeline import recording
from microdoppler.pipeline.assembly import open_cache, open_data, open_sample_evaluator, open_vae
from microdoppler.pipeline.classification import classify
from microdoppler.pipeline.synthetic_folder import generate
from microdoppler.pipeline.training import train as train_model
from microdoppler.simulate.dataset import simulate_dataset
from train_latent_cfg import PRESETS, Config
from vae.kl_vae import KL_VAE

CPU = torch.device("cpu")
PROCESSES = get_context("forkserver")       # it has imported everything, so that a process starts in milliseconds
MAX_SAVE_SECONDS = 0.05                     # time to save one of these small checkpoints


def make_config(shared: Path, trial_folder: Path) -> Config:
    """The Config of a training run of a few seconds. shared: folder that the trials only read; trial_folder: folder
    that one trial writes to."""
    return replace(
        PRESETS["cpu-minutes"], data_path=shared / "data", vae_path=shared / "vae.pt",
        results_folder=trial_folder / "results", latents_cache_folder=shared / "latents_cache", device="cpu",
        num_users=3, image_size=64, images_per_user_train=10, dim=16, train_batch_size=8, train_num_steps=16,
        save_and_sample_every=4, log_every=3, num_samples=3, sampling_timesteps=2, classifier="shufflenet_v2_x0_5",
        classifier_image_size=32, classifier_batch_size=4, classifier_epochs=1, classifier_seeds=1)


def prepare(shared: Path) -> None:
    """Write to `shared` what the trials read: data, VAE, latents, a trained model and its images."""
    config = make_config(shared, shared)
    simulate_dataset(config.data_path, config.num_users, images_per_user=20, image_size=config.image_size)
    torch.manual_seed(0)
    save_tensors(config.vae_path, KL_VAE({"ch": 8, "ch_mult": (1, 2, 4), "num_res_blocks": 1}).checkpoint())
    encode(shared, shared)
    open_sample_evaluator(config, open_data(config)[1], CPU, channels=3)
    train(shared, shared)
    generate_images(shared, shared)


def train(shared: Path, trial_folder: Path) -> None:
    """Train, or resume from the newest milestone if there is one."""
    config = make_config(shared, trial_folder)
    train_model(config, "latest" if list_milestones(config.results_folder) else None)


def train_and_die_saving(shared: Path, trial_folder: Path) -> None:
    """Train, and kill this process within MAX_SAVE_SECONDS after the start of saving a random checkpoint."""
    saves_left = random.randint(1, 4)

    def save(path: str | Path, value: dict) -> None:
        nonlocal saves_left
        saves_left -= 1
        if saves_left == 0:
            threading.Timer(random.uniform(0, MAX_SAVE_SECONDS), os.kill, (os.getpid(), signal.SIGKILL)).start()
        save_tensors(path, value)
    recording.save_tensors = save
    train(shared, trial_folder)


def encode(shared: Path, trial_folder: Path) -> None:
    config = replace(make_config(shared, trial_folder), latents_cache_folder=trial_folder / "latents_cache")
    config, vae = open_vae(config, CPU)
    open_cache(config, open_data(config)[1], vae, CPU)


def generate_images(shared: Path, trial_folder: Path) -> None:
    newest = milestone_path(shared / "results", 4)
    generate(checkpoint=newest, all_users=True, samples_per_user=8, batch_size=3, output_dir=trial_folder / "synthetic",
             device="cpu", save_grid=True)


def classify_images(shared: Path, trial_folder: Path) -> None:
    classify(make_config(shared, trial_folder), synthetic=(shared / "synthetic",))


def weights(trial_folder: Path) -> dict:
    """The content of the last checkpoint that a further training step depends on: all but the time and the config."""
    return {name: value for name, value in load_tensors(milestone_path(trial_folder / "results", 4)).items()
            if name != "seconds" and name != "config"}


def latents(trial_folder: Path) -> bytes:
    """The content of latents.npy."""
    return (trial_folder / "latents_cache" / "latents.npy").read_bytes()


def images(trial_folder: Path) -> dict[str, bytes]:
    """{relative path: content} of the synthetic images."""
    return {str(path.relative_to(trial_folder)): path.read_bytes() for path in sorted(trial_folder.rglob("ID_*/*.png"))}


def predictions(trial_folder: Path) -> list[dict[str, str]]:
    """The rows of runs.csv without the time."""
    with open(trial_folder / "results" / "classify" / "runs.csv", newline="", encoding="utf-8") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


# {kind of work: (function that is killed, function that is run afterwards, result that must be as without the kill)}
KINDS = {
    "training": (train, train, weights),
    "saving": (train_and_die_saving, train, weights),
    "encoding": (encode, encode, latents),
    "generating": (generate_images, generate_images, images),
    "classifying": (classify_images, classify_images, predictions),
}


def broken_files(folder: Path) -> list[str]:
    """The files below `folder` that cannot be read as their suffix says, each with its error."""
    broken = []
    for path in (path for path in folder.rglob("*") if path.is_file() and path.name != LOCK
                 and "trackers" not in path.parts):      # trackers append to files of their own
        try:
            if not TEMPORARY.fullmatch(path.name):
                READERS[path.suffix](path)
        except Exception as error:
            broken.append(f"{path}: {type(error).__name__}: {error}")
    return broken


def _read_lines(path: Path) -> None:
    for line in path.read_text().split("\n")[:-1]:      # a last line without newline may be incomplete
        json.loads(line)


def _read_rows(path: Path) -> None:
    with open(path, newline="") as file:
        assert all(None not in row and None not in row.values() for row in csv.DictReader(file))


def _read_page(path: Path) -> None:
    assert path.read_text().rstrip().endswith("</html>")


READERS: dict[str, Callable[[Path], Any]] = {
    ".pt": load_tensors, ".png": lambda path: Image.open(path).load(),
    ".json": lambda path: json.loads(path.read_text()), ".npy": np.load,
    ".npz": lambda path: dict(np.load(path)), ".jsonl": _read_lines, ".csv": _read_rows,
    ".html": _read_page, ".txt": Path.read_text}


def _run_in_child(function: Callable, shared: Path, trial_folder: Path, seed: int) -> None:
    """Call function(shared, trial_folder) in a child process, with its output in trial_folder/log.txt."""
    log = os.open(trial_folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    random.seed(seed)
    function(shared, trial_folder)


def start(function: Callable, shared: Path, trial_folder: Path, seed: int = 0) -> BaseProcess:
    """Start function(shared, trial_folder) in a child process; seed: of its random numbers."""
    trial_folder.mkdir(parents=True, exist_ok=True)
    process = PROCESSES.Process(target=_run_in_child, args=(function, shared, trial_folder, seed))
    process.start()
    return process


def finish(function: Callable, shared: Path, trial_folder: Path) -> float:
    """Run function(shared, trial_folder) in a child process to its end; returns the seconds. Raises RuntimeError when
    it fails."""
    started = time.perf_counter()
    process = start(function, shared, trial_folder)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"exit status {process.exitcode}: {(trial_folder / 'log.txt').read_text()[-2000:]}")
    return time.perf_counter() - started


def equal(one: Any, other: Any) -> bool:
    """Whether two results are bit-identical; dicts, lists and tuples are compared item by item."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@dataclass
class Outcome:
    """Numbers of trials with one kind of work."""
    killed_before_end: int = 0      # the kill came before the work was done
    broken: int = 0                 # a file was incomplete after the kill or after the repetition
    not_finished: int = 0           # the repetition failed
    different: int = 0              # the result differs from that of an uninterrupted run

    @property
    def lost(self) -> int:
        """The number of failures; a trial can count several times."""
        return self.broken + self.not_finished + self.different


def trial(kind: str, shared: Path, trial_folder: Path, seconds: float, expected: Any, seed: int,
          outcome: Outcome) -> None:
    """One trial: kill the work, check its files, repeat it, compare. Adds to `outcome`.

    seconds: duration of the uninterrupted work; expected: its result; seed: of the moment.
    """
    killed, again, result = KINDS[kind]
    process = start(killed, shared, trial_folder, seed)
    if killed is again:         # otherwise it kills itself
        time.sleep(random.Random(seed).uniform(0, seconds))
        process.kill()
    process.join()
    outcome.killed_before_end += process.exitcode == -signal.SIGKILL
    broken = broken_files(trial_folder)
    try:
        finish(again, shared, trial_folder)
        broken += broken_files(trial_folder)
        if not equal(result(trial_folder), expected):
            outcome.different += 1
            Progress.write(f"{kind}, moment {seed}: differs", file=sys.stderr)
    except (RuntimeError, OSError) as error:
        outcome.not_finished += 1
        Progress.write(f"{kind}, moment {seed}: {error}", file=sys.stderr)
    outcome.broken += bool(broken)
    for line in broken:
        Progress.write(f"{kind}, moment {seed}: {line}", file=sys.stderr)
    shutil.rmtree(trial_folder)


def main(*, kills: int = 50, kinds: tuple[str, ...] = tuple(KINDS), seed: int = 0) -> dict[str, Outcome]:
    """Kill each kind of work at random moments, and check that nothing is lost. Exit status 1 when something is.

    Args:
        kills: number of kills of each kind of work
        kinds: kinds of work: training, saving, encoding, generating, classifying
        seed: random seed of the moments
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise InputError(f"--kinds {unknown[0]} is unknown; expected some of {', '.join(KINDS)}")
    PROCESSES.set_forkserver_preload(["scripts.kills"])
    outcomes: dict[str, Outcome] = {}
    durations: dict[Callable, float] = {}       # of the uninterrupted work in seconds; some kinds of work share it
    with tempfile.TemporaryDirectory() as folder:
        shared = Path(folder) / "shared"
        finish(_prepare, shared, shared)
        print("| work | uninterrupted | kills | before its end | a file not whole | not finished | another result |\n"
              "|---|---|---|---|---|---|---|")
        for kind in kinds:
            _, work, result = KINDS[kind]
            uninterrupted, outcome = Path(folder) / "whole" / work.__name__, outcomes.setdefault(kind, Outcome())
            if work not in durations:
                durations[work] = finish(work, shared, uninterrupted)
            seconds, expected = durations[work], result(uninterrupted)
            for number in Progress(range(kills), desc=kind, unit="kill"):
                trial(kind, shared, Path(folder) / f"{kind}-{number}", seconds, expected, seed + number, outcome)
            print(f"| {kind} | {seconds:.1f} s | {kills} | {outcome.killed_before_end} | {outcome.broken} | "
                  f"{outcome.not_finished} | {outcome.different} |", flush=True)
    return outcomes


def _prepare(shared: Path, _: Path) -> None:
    """`prepare` with the parameters that `finish` passes."""
    prepare(shared)


if __name__ == "__main__":
    if any(outcome.lost for outcome in run(main).values()):
        sys.exit(1)
