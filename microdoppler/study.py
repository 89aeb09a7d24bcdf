"""The study: classifiers of several arms, on several folds, with several seeds, each run written down and made once."""
import csv
import hashlib
import json
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import torch
from tqdm import tqdm

from groundwork.device import half_precision
from groundwork.files import atomic_path
from microdoppler.arms import Arm, ImageSet
from microdoppler.classifier import RECIPE_VERSION, predict, train_classifier
from microdoppler.scores import score


@dataclass(frozen=True, eq=False)
class Fold:
    """One split and what is trained and tested on it; passes: the pass that each test image comes from."""
    number: int
    arms: Sequence[Arm]
    test: ImageSet
    passes: Sequence[str]
    split: dict[str, Any]                   # how the images were divided, for runs.csv
    facts: dict[str, dict[str, Any]]        # {name of a synthetic set: what made it}, likewise


@dataclass(frozen=True, eq=False)
class Run:
    """One trained classifier on the test images. probabilities: (n, classes) float32; labels: (n,) int64; passes: of
    each test image."""
    arm: Arm
    fold: int
    seed: int
    probabilities: np.ndarray
    labels: np.ndarray
    passes: Sequence[str]

    @property
    def correct(self) -> np.ndarray:
        """(n,) bool."""
        return self.probabilities.argmax(axis=1) == self.labels


def run_study(folds: Sequence[Fold], *, num_classes: int, seeds: Sequence[int], recipe: dict[str, Any],
              device: torch.device, folder: Path) -> list[Run]:
    """Train and test every arm of every fold with every seed; runs that `folder` already holds are read, not made.

    recipe: num_steps, batch_size, lr and synthetic_shares, the same for all. Writes folder/runs.csv (a row per run, of
    this study and of earlier ones in the same folder) and folder/predictions/<key>.npz. The key is a hash of all that
    determines a run: images and labels of both sets, recipe, seed, kind of device and precision.
    """
    log = RunLog(folder)
    plan = [(fold, arm, seed, _run_key(arm, fold.test, num_classes, recipe, seed, device))
            for seed in seeds for fold in folds for arm in fold.arms]
    runs = {key: log.read(key, arm, fold, seed) for fold, arm, seed, key in plan}
    missing = [(fold, arm, seed, key) for fold, arm, seed, key in plan if runs[key] is None]
    with tqdm(total=len(missing) * recipe["num_steps"], unit="step", disable=None if missing else True) as bar:
        for number, (fold, arm, seed, key) in enumerate(missing, start=1):
            bar.set_description(f"classifier {number}/{len(missing)}: {arm.name}, fold {fold.number}, seed {seed}")
            started = time.perf_counter()
            model = train_classifier(
                arm.batches(recipe["num_steps"], recipe["batch_size"], recipe["synthetic_shares"], seed),
                num_classes=num_classes, num_steps=recipe["num_steps"], lr=recipe["lr"], seed=seed, device=device,
                on_step=bar.update)
            runs[key] = Run(arm, fold.number, seed, predict(model, fold.test.images).numpy(),
                            fold.test.labels.numpy(), fold.passes)
            log.write(key, runs[key], {
                **recipe, "image_size": fold.test.images.shape[-1], "num_real": len(arm.real.images) if arm.real else 0,
                "num_synthetic": len(arm.synthetic.images) if arm.synthetic else 0, "device": device.type,
                "precision": str(half_precision(device)), **fold.split, **fold.facts.get(arm.synthetic_name, {}),
                "seconds": round(time.perf_counter() - started, 1)})
    return [runs[key] for *_, key in plan]


def _run_key(arm: Arm, test: ImageSet, num_classes: int, recipe: dict[str, Any], seed: int,
             device: torch.device) -> str:
    determines = [RECIPE_VERSION, arm.determines, test.digest, num_classes, sorted(recipe.items()), seed, device.type,
                  str(half_precision(device))]
    return hashlib.sha256(json.dumps(determines).encode()).hexdigest()[:16]


class RunLog:
    """folder/runs.csv for people, folder/predictions/<key>.npz for what is computed from a run later."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.rows: list[dict[str, str]] = []
        if (folder / "runs.csv").exists():
            with open(folder / "runs.csv", newline="", encoding="utf-8") as file:
                self.rows = list(csv.DictReader(file))

    def read(self, key: str, arm: Arm, fold: Fold, seed: int) -> Run | None:
        """The run with this key, or None when its row or its predictions are missing or damaged."""
        if not any(row.get("key") == key for row in self.rows):
            return None
        try:
            with np.load(self.folder / "predictions" / f"{key}.npz") as arrays:
                return Run(arm, fold.number, seed, arrays["probabilities"], arrays["labels"], fold.passes)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def write(self, key: str, run: Run, facts: dict[str, Any]) -> None:
        with atomic_path(self.folder / "predictions" / f"{key}.npz") as temporary:
            np.savez(temporary, probabilities=run.probabilities, labels=run.labels)
        scores = score(run.probabilities, run.labels)
        figures = {name: f"{scores[name]:.6f}" for name in ("accuracy", "macro_f1", "ece")}
        recalls = {f"recall_{user}": f"{recall:.6f}" for user, recall in scores["recalls"].items()}
        row = {"key": key, "arm": run.arm.kind, "synthetic": run.arm.synthetic_name, "fold": run.fold,
               "seed": run.seed, **facts, "num_test": len(run.labels), **figures, **recalls}
        self.rows = [old for old in self.rows if old.get("key") != key] + [row]
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        with atomic_path(self.folder / "runs.csv") as temporary:
            with open(temporary, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(self.rows)
