"""Kill every kind of work at random moments, and see whether anything is lost:  python -m scripts.kills

Each trial starts the work in a fresh folder, ends it with SIGKILL at a random moment, looks whether every file is
whole, runs it again as a user would (training with --resume latest), and compares with what came of it uninterrupted.
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
from tqdm import tqdm

from denoising_diffusion_pytorch.checkpoint import list_milestones, milestone_path
from groundwork.command_line import run
from groundwork.errors import InputError
from groundwork.files import TEMPORARY, load_tensors, save_tensors
from groundwork.lock import LOCK
from microdoppler.pipeline import recording
from microdoppler.pipeline.assembly import open_cache, open_sample_evaluator, open_split, open_vae
from microdoppler.pipeline.classification import classify
from microdoppler.pipeline.synthetic_folder import generate
from microdoppler.pipeline.training import train as train_model
from microdoppler.simulate.dataset import simulate_dataset
from train_latent_cfg import PRESETS, Config
from vae.kl_vae import KL_VAE

CPU = torch.device("cpu")
PROCESSES = get_context("forkserver")       # which has everything imported: a process starts within milliseconds
LONGEST_SAVE = 0.05                         # seconds, of these small checkpoints


def make_config(shared: Path, own: Path) -> Config:
    """A training of seconds; `shared` holds what trials only read, `own` is a trial's folder."""
    return replace(
        PRESETS["cpu-minutes"], data_path=shared / "data", vae_path=shared / "vae.pt", results_folder=own / "results",
        latents_cache_folder=shared / "latents_cache", device="cpu", num_users=3, images_per_user_train=10, dim=16,
        train_batch_size=8, train_num_steps=24, save_and_sample_every=6, log_every=4, num_samples=3,
        sampling_timesteps=2, classifier_image_size=32, classifier_batch_size=4, classifier_steps=4,
        classifier_seeds=1)


def prepare(shared: Path) -> None:
    """Data, VAE, latents, a trained model and its images."""
    config = make_config(shared, shared)
    simulate_dataset(config.data_path, config.num_users, images_per_user=20, image_size=config.image_size)
    torch.manual_seed(0)
    save_tensors(config.vae_path, KL_VAE({"ch": 8, "ch_mult": (1, 2, 4), "num_res_blocks": 1}).checkpoint())
    encode(shared, shared)
    open_sample_evaluator(config, open_split(config), CPU, channels=3)
    train(shared, shared)
    generate_images(shared, shared)


def train(shared: Path, own: Path) -> None:
    config = make_config(shared, own)
    train_model(config, "latest" if list_milestones(config.results_folder) else None)


def train_and_die_saving(shared: Path, own: Path) -> None:
    """SIGKILL comes within LONGEST_SAVE after one of the checkpoints is begun."""
    saves_left = random.randint(1, 4)

    def save(path: str | Path, value: dict) -> None:
        nonlocal saves_left
        saves_left -= 1
        if saves_left == 0:
            threading.Timer(random.uniform(0, LONGEST_SAVE), os.kill, (os.getpid(), signal.SIGKILL)).start()
        save_tensors(path, value)
    recording.save_tensors = save
    train(shared, own)


def encode(shared: Path, own: Path) -> None:
    config = replace(make_config(shared, own), latents_cache_folder=own / "latents_cache")
    open_cache(config, open_split(config), open_vae(config, CPU), CPU)


def generate_images(shared: Path, own: Path) -> None:
    newest = milestone_path(shared / "results", 4)
    generate(checkpoint=newest, all_users=True, samples_per_user=8, batch_size=3, output_dir=own / "synthetic",
                  device="cpu", save_grid=True)


def classify_images(shared: Path, own: Path) -> None:
    classify(make_config(shared, own), synthetic=(shared / "synthetic",))


def weights(own: Path) -> dict:
    """Of the last checkpoint, with all that a further step would take, but the seconds that it took."""
    return {name: value for name, value in load_tensors(milestone_path(own / "results", 4)).items()
            if name != "seconds" and name != "config"}


def latents(own: Path) -> bytes:
    return (own / "latents_cache" / "latents.npy").read_bytes()


def images(own: Path) -> dict[str, bytes]:
    return {str(path.relative_to(own)): path.read_bytes() for path in sorted(own.rglob("ID_*/*.png"))}


def predictions(own: Path) -> list[dict[str, str]]:
    with open(own / "results" / "classify" / "runs.csv", newline="", encoding="utf-8") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


KINDS = {       # what is killed, what is run afterwards, and what must then be as if nothing had happened
    "training": (train, train, weights),
    "saving": (train_and_die_saving, train, weights),
    "encoding": (encode, encode, latents),
    "generating": (generate_images, generate_images, images),
    "classifying": (classify_images, classify_images, predictions),
}


def broken_files(folder: Path) -> list[str]:
    """Those that are not what their names say."""
    broken = []
    for path in (path for path in folder.rglob("*") if path.is_file() and path.name != LOCK
                 and "trackers" not in path.parts):      # they append to files of their own
        try:
            if not TEMPORARY.fullmatch(path.name):
                READERS[path.suffix](path)
        except Exception as error:
            broken.append(f"{path}: {type(error).__name__}: {error}")
    return broken


def _read_lines(path: Path) -> None:
    for line in path.read_text().split("\n")[:-1]:      # the last one, without its end, may be torn
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


def _child(function: Callable, shared: Path, own: Path, seed: int) -> None:
    log = os.open(own / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    random.seed(seed)
    function(shared, own)


def start(function: Callable, shared: Path, own: Path, seed: int = 0) -> BaseProcess:
    own.mkdir(parents=True, exist_ok=True)
    process = PROCESSES.Process(target=_child, args=(function, shared, own, seed))
    process.start()
    return process


def finish(function: Callable, shared: Path, own: Path) -> float:
    """Run to the end; returns the seconds. Raises RuntimeError when it fails."""
    started = time.perf_counter()
    process = start(function, shared, own)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"exit status {process.exitcode}: {(own / 'log.txt').read_text()[-2000:]}")
    return time.perf_counter() - started


def equal(one: Any, other: Any) -> bool:
    """To the bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@dataclass
class Outcome:
    in_time: int = 0                # killed before the work was done
    broken: int = 0                 # not every file was whole, then or in the end
    not_finished: int = 0           # started again, it failed
    different: int = 0              # what came of it is not what comes of it uninterrupted

    @property
    def lost(self) -> int:
        return self.broken + self.not_finished + self.different


def trial(kind: str, shared: Path, own: Path, seconds: float, expected: Any, seed: int, outcome: Outcome) -> None:
    """Kill, look, start again, compare; adds to the outcome."""
    killed, again, result = KINDS[kind]
    process = start(killed, shared, own, seed)
    if killed is again:
        time.sleep(random.Random(seed).uniform(0, seconds))
        process.kill()
    process.join()
    outcome.in_time += process.exitcode == -signal.SIGKILL
    broken = broken_files(own)
    try:
        finish(again, shared, own)
        broken += broken_files(own)
        if not equal(result(own), expected):
            outcome.different += 1
            tqdm.write(f"{kind}, moment {seed}: differs", file=sys.stderr)
    except (RuntimeError, OSError) as error:
        outcome.not_finished += 1
        tqdm.write(f"{kind}, moment {seed}: {error}", file=sys.stderr)
    outcome.broken += bool(broken)
    for line in broken:
        tqdm.write(f"{kind}, moment {seed}: {line}", file=sys.stderr)
    shutil.rmtree(own)


def main(*, kills: int = 50, kinds: tuple[str, ...] = tuple(KINDS), seed: int = 0) -> dict[str, Outcome]:
    """Kill each kind of work so many times. Exit status 1 when anything was lost.

    Args:
        kills: of each kind
        kinds: of work: training, saving, encoding, generating, classifying
        seed: of the moments
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise InputError(f"--kinds {unknown[0]} is unknown; expected some of {', '.join(KINDS)}")
    PROCESSES.set_forkserver_preload(["classify", "generate", "train_latent_cfg"])
    outcomes: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory() as folder:
        shared = Path(folder) / "shared"
        finish(_prepare, shared, shared)
        print("| work | uninterrupted | kills | before its end | a file not whole | not finished | another result |\n"
              "|---|---|---|---|---|---|---|")
        for kind in kinds:
            whole, outcome = Path(folder) / "whole" / kind, outcomes.setdefault(kind, Outcome())
            seconds = finish(KINDS[kind][1], shared, whole)
            expected = KINDS[kind][2](whole)
            for number in tqdm(range(kills), desc=kind, unit="kill", disable=None):
                trial(kind, shared, Path(folder) / f"{kind}-{number}", seconds, expected, seed + number, outcome)
            print(f"| {kind} | {seconds:.1f} s | {kills} | {outcome.in_time} | {outcome.broken} | "
                  f"{outcome.not_finished} | {outcome.different} |", flush=True)
    return outcomes


def _prepare(shared: Path, _: Path) -> None:
    prepare(shared)


if __name__ == "__main__":
    if any(outcome.lost for outcome in run(main).values()):
        sys.exit(1)
