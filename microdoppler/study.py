"""The study: classifiers trained on several arms with the same seeds and steps, compared on the same test images."""
import csv
import hashlib
import json
import math
import time
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from groundwork.files import atomic_path
from microdoppler.classifier import predict, train_classifier

RECIPE_VERSION = 1      # raise it when classifier.py trains differently, so that older runs are made again
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)   # Student's t, 1 … 10 degrees


@dataclass(frozen=True, eq=False)
class ImageSet:
    """images: (n, 3, size, size) uint8; labels: (n,) int64."""
    images: Tensor
    labels: Tensor

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything a network gets to see, in its order."""
        content = hashlib.sha256(str(tuple(self.images.shape)).encode())
        for image in self.images:
            content.update(image.contiguous().numpy())
        content.update(self.labels.contiguous().numpy())
        return content.hexdigest()


@dataclass(frozen=True, eq=False)
class Arm:
    """What one group of classifiers is trained on. Real and synthetic images are mixed uniformly: each image of the
    union is seen equally often, so the share of synthetic images in a batch is their share in the union."""
    name: str
    real: ImageSet
    synthetic: ImageSet | None = None

    @property
    def parts(self) -> list[ImageSet]:
        return [part for part in (self.real, self.synthetic) if part is not None]


@dataclass(frozen=True, eq=False)
class Run:
    """One trained classifier on the test images. probabilities: (n, classes) float32; labels: (n,) int64."""
    arm: str
    seed: int
    probabilities: np.ndarray
    labels: np.ndarray

    @property
    def accuracy(self) -> float:
        return float((self.probabilities.argmax(axis=1) == self.labels).mean())

    @property
    def confusion(self) -> np.ndarray:
        """(classes, classes) counts: row = true label, column = predicted label."""
        classes = self.probabilities.shape[1]
        pairs = self.labels * classes + self.probabilities.argmax(axis=1)
        return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def run_study(arms: Sequence[Arm], test: ImageSet, *, num_classes: int, seeds: Sequence[int], recipe: dict[str, Any],
              device: torch.device, folder: Path) -> list[Run]:
    """Train and test every arm with every seed; runs that `folder` already holds are read, not made again.

    recipe: num_steps, batch_size and lr of `train_classifier`, the same for all. Writes folder/runs.csv (a row per
    run, of this study and of earlier ones in the same folder) and folder/predictions/<key>.npz. The key is a hash of
    all that determines a run: images and labels of both sets, recipe, seed, kind of device.
    """
    log = RunLog(folder)
    plan = [(arm, seed, _run_key(arm, test, num_classes, recipe, seed, device)) for seed in seeds for arm in arms]
    runs = {key: log.read(key, arm.name, seed) for arm, seed, key in plan}
    missing = [(arm, seed, key) for arm, seed, key in plan if runs[key] is None]
    with tqdm(total=len(missing) * recipe["num_steps"], unit="step", disable=None if missing else True) as bar:
        for number, (arm, seed, key) in enumerate(missing, start=1):
            bar.set_description(f"classifier {number}/{len(missing)}: {arm.name}, seed {seed}")
            started = time.perf_counter()
            images, labels = (torch.cat([getattr(part, name) for part in arm.parts]) for name in ("images", "labels"))
            model = train_classifier(images, labels, num_classes=num_classes, seed=seed, device=device,
                                     on_step=bar.update, **recipe)
            runs[key] = Run(arm.name, seed, predict(model, test.images).numpy(), test.labels.numpy())
            log.write(key, runs[key], {
                **recipe, "image_size": images.shape[-1], "num_real": len(arm.real.images),
                "num_synthetic": len(images) - len(arm.real.images), "device": device.type,
                "seconds": round(time.perf_counter() - started, 1)})
    return [runs[key] for _, _, key in plan]


def _run_key(arm: Arm, test: ImageSet, num_classes: int, recipe: dict[str, Any], seed: int,
             device: torch.device) -> str:
    determines = [RECIPE_VERSION, [part.digest for part in arm.parts], test.digest, num_classes,
                  sorted(recipe.items()), seed, device.type]
    return hashlib.sha256(json.dumps(determines).encode()).hexdigest()[:16]


class RunLog:
    """folder/runs.csv for people, folder/predictions/<key>.npz for what is computed from a run later."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.rows: list[dict[str, str]] = []
        if (folder / "runs.csv").exists():
            with open(folder / "runs.csv", newline="", encoding="utf-8") as file:
                self.rows = list(csv.DictReader(file))

    def read(self, key: str, arm: str, seed: int) -> Run | None:
        """The run with this key, or None when its row or its predictions are missing or damaged."""
        if not any(row.get("key") == key for row in self.rows):
            return None
        try:
            with np.load(self.folder / "predictions" / f"{key}.npz") as arrays:
                return Run(arm, seed, arrays["probabilities"], arrays["labels"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def write(self, key: str, run: Run, facts: dict[str, Any]) -> None:
        with atomic_path(self.folder / "predictions" / f"{key}.npz") as temporary:
            np.savez(temporary, probabilities=run.probabilities, labels=run.labels)
        recalls = {f"recall_{user}": f"{recall:.6f}" for user, recall in user_recalls(run.confusion).items()}
        row = {"key": key, "arm": run.arm, "seed": run.seed, **facts, "num_test": len(run.labels),
               "accuracy": f"{run.accuracy:.6f}", **recalls}
        self.rows = [old for old in self.rows if old.get("key") != key] + [row]
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        with atomic_path(self.folder / "runs.csv") as temporary:
            with open(temporary, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(self.rows)


def user_recalls(confusion: np.ndarray) -> dict[int, float]:
    """(classes, classes) counts → {user number: share of the user's test images that were recognised}."""
    return {label + 1: float(row[label] / row.sum()) for label, row in enumerate(confusion) if row.sum()}


def summarize(runs: Sequence[Run]) -> dict[str, Any]:
    """The arms in their order, the first being the baseline, as plain values for summary.json.

    Accuracies, recalls and differences are fractions. A difference is paired: the arm's accuracy minus the baseline's
    of the same seed. `best` is the arm with the highest mean accuracy.
    """
    names = list(dict.fromkeys(run.arm for run in runs))
    baseline = {run.seed: run.accuracy for run in runs if run.arm == names[0]}
    arms = [_summarize_arm(name, [run for run in runs if run.arm == name], baseline) for name in names]
    return {"baseline": names[0], "best": max(arms, key=lambda arm: arm["accuracy_mean"])["name"],
            "seeds": list(baseline), "num_test": len(runs[0].labels), "arms": arms}


def _summarize_arm(name: str, runs: list[Run], baseline: dict[int, float]) -> dict[str, Any]:
    accuracies = np.array([run.accuracy for run in runs])
    differences = np.array([run.accuracy - baseline[run.seed] for run in runs])
    confusion = sum(run.confusion for run in runs)
    recalls = user_recalls(confusion)
    interval = mean_interval(differences)
    verdict = "not distinguishable"
    if interval is not None and not interval[0] <= 0 <= interval[1]:
        verdict = "helps" if interval[0] > 0 else "hurts"
    return {"name": name, "accuracies": accuracies.tolist(), "accuracy_mean": float(accuracies.mean()),
            "accuracy_std": _std(accuracies), "differences": differences.tolist(),
            "difference_mean": float(differences.mean()), "difference_std": _std(differences),
            "difference_interval_95": interval, "verdict": verdict, "recalls": recalls,
            "worst_user": min(recalls, key=recalls.get), "best_user": max(recalls, key=recalls.get),
            "confusion": confusion.tolist()}


def _std(values: np.ndarray) -> float | None:
    """Sample standard deviation; None for a single value, which has no spread."""
    return float(values.std(ddof=1)) if len(values) > 1 else None


def mean_interval(values: np.ndarray) -> tuple[float, float] | None:
    """95 % confidence interval of the mean (Student's t); None for a single value."""
    if len(values) < 2:
        return None
    t = T_975[min(len(values) - 1, len(T_975)) - 1]     # beyond 10 degrees of freedom a little too wide
    half = t * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)
