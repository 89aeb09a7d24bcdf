"""The study: classifiers of several arms, on several folds, with several seeds, each run written down and made once."""
import csv
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import torch
from tqdm import tqdm

from groundwork.device import half_precision
from groundwork.errors import InputError
from groundwork.files import atomic_path, load_arrays
from microdoppler.study.arms import Arm, ImageSet
from microdoppler.study.classifier import RECIPE_VERSION, predict, train_classifier
from microdoppler.study.scores import score


@dataclass(frozen=True, eq=False)
class Fold:
    """One split and what is trained and tested on it; passes: the pass that each test image comes from."""
    number: int
    arms: Sequence[Arm]
    test: ImageSet
    passes: Sequence[str]
    split: dict[str, Any]                   # how the images were divided, for runs.csv
    facts: dict[str, dict[str, Any]]        # {name of an arm: what made its synthetic images}, likewise


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one trained classifier said of the test images: probabilities (n, classes) float32; seconds it all took."""
    probabilities: np.ndarray
    seconds: float


@dataclass(frozen=True, eq=False)
class Run:
    """One classifier of an arm on the test images. probabilities: (n, classes) float32; labels: (n,) int64; passes: of
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


@dataclass(frozen=True, eq=False)
class Planned:
    """A run to be made or read. key: a hash of all that determines its outcome, so that runs whose images are the same
    (a selection that kept them all) share one training."""
    fold: Fold
    arm: Arm
    seed: int
    key: str

    def run(self, outcome: Outcome) -> Run:
        return Run(self.arm, self.fold.number, self.seed, outcome.probabilities, self.fold.test.labels.numpy(),
                   self.fold.passes)

    def row(self, outcome: Outcome, facts: dict[str, Any]) -> dict[str, Any]:
        """Its line of runs.csv."""
        scores = score(outcome.probabilities, self.fold.test.labels.numpy())
        sizes = {f"num_{kind}": len(part.images) if part else 0
                 for kind, part in (("real", self.arm.real), ("synthetic", self.arm.synthetic))}
        return {"key": self.key, "arm": self.arm.kind, "synthetic": self.arm.synthetic_name, "fold": self.fold.number,
                "seed": self.seed, **facts, "image_size": self.fold.test.images.shape[-1], **sizes, **self.fold.split,
                **self.fold.facts.get(self.arm.name, {}), "seconds": f"{outcome.seconds:.1f}",
                "num_test": len(self.fold.test.images),
                **{name: f"{scores[name]:.6f}" for name in ("accuracy", "macro_f1", "ece")},
                **{f"recall_{user}": f"{recall:.6f}" for user, recall in scores["recalls"].items()}}


def run_study(folds: Sequence[Fold], *, num_classes: int, seeds: Sequence[int], recipe: dict[str, Any],
              device: torch.device, folder: Path) -> list[Run]:
    """Train and test every arm of every fold with every seed; runs that `folder` already holds are read, not made.

    recipe: num_steps, batch_size, lr and synthetic_shares, the same for all. Writes folder/runs.csv (a row per run, of
    this study and of earlier ones in the same folder) and folder/predictions/<key>.npz.
    """
    common = {**recipe, "device": device.type, "precision": str(half_precision(device))}
    plan = [Planned(fold, arm, seed, _run_key(arm, fold.test, num_classes, common, seed))
            for seed in seeds for fold in folds for arm in fold.arms]
    log = RunLog(folder)
    outcomes = {planned.key: found for planned in plan if (found := log.read(planned.key))}
    missing: dict[str, Planned] = {}
    for planned in plan:
        if planned.key not in outcomes:
            missing.setdefault(planned.key, planned)

    def write_rows() -> None:
        log.write_rows([planned.row(outcomes[planned.key], common) for planned in plan if planned.key in outcomes])

    write_rows()
    with tqdm(total=len(missing) * recipe["num_steps"], unit="step", disable=None if missing else True) as bar:
        for number, planned in enumerate(missing.values(), start=1):
            arm, seed = planned.arm, planned.seed
            bar.set_description(f"classifier {number}/{len(missing)}: {arm.name}, fold {planned.fold.number}, "
                                f"seed {seed}")
            started = time.perf_counter()
            model = train_classifier(
                arm.batches(recipe["num_steps"], recipe["batch_size"], recipe["synthetic_shares"], seed),
                num_classes=num_classes, num_steps=recipe["num_steps"], lr=recipe["lr"], seed=seed, device=device,
                on_step=bar.update)
            found = Outcome(predict(model, planned.fold.test.images).numpy(), time.perf_counter() - started)
            outcomes[planned.key] = found
            log.write(planned.key, found)
            write_rows()
    return [planned.run(outcomes[planned.key]) for planned in plan]


def _run_key(arm: Arm, test: ImageSet, num_classes: int, common: dict[str, Any], seed: int) -> str:
    determines = [RECIPE_VERSION, arm.determines, test.digest, num_classes, sorted(common.items()), seed]
    return hashlib.sha256(json.dumps(determines).encode()).hexdigest()[:16]


class RunLog:
    """folder/predictions/<key>.npz for what is computed from a run later, folder/runs.csv for people."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.rows: dict[tuple[str, ...], dict[str, Any]] = {}
        if (folder / "runs.csv").exists():
            try:
                with open(folder / "runs.csv", newline="", encoding="utf-8") as file:
                    self._add(list(csv.DictReader(file)))
            except (UnicodeDecodeError, csv.Error) as error:
                raise InputError(f"{folder / 'runs.csv'} cannot be read ({error}); move it away: the runs themselves "
                                 "are in predictions/, and their rows are written anew") from None

    def read(self, key: str) -> Outcome | None:
        """The outcome with this key, or None when there is none or its file is damaged."""
        try:
            arrays = load_arrays(self.folder / "predictions" / f"{key}.npz")
            return Outcome(arrays["probabilities"], float(arrays["seconds"]))
        except (InputError, ValueError, KeyError, TypeError):
            return None

    def write(self, key: str, outcome: Outcome) -> None:
        with atomic_path(self.folder / "predictions" / f"{key}.npz") as temporary:
            np.savez(temporary, probabilities=outcome.probabilities, seconds=outcome.seconds)

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        """Add rows to runs.csv; those of the same runs are replaced."""
        self._add(rows)
        if not self.rows:
            return
        columns = list(dict.fromkeys(name for row in self.rows.values() for name in row))
        with atomic_path(self.folder / "runs.csv") as temporary:
            with open(temporary, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(self.rows.values())

    def _add(self, rows: list[dict[str, Any]]) -> None:
        self.rows |= {tuple(str(row.get(name)) for name in ("key", "arm", "synthetic", "fold")): row for row in rows}
