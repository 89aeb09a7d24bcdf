"""The runs of a study: one classifier per arm, fold and random seed. Each run is stored, and is not trained twice."""
import csv
import hashlib
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn

from groundwork.device import half_precision
from groundwork.errors import InputError
from groundwork.files import atomic_path, load_arrays
from groundwork.processes import init_distributed, shares
from groundwork.progress import Progress
from groundwork.threads import AdaptiveThreads
from microdoppler.study.arms import Arm, ImageSet
from microdoppler.study.best_networks import BestNetworks
from microdoppler.study.classifier import RECIPE_VERSION, features, predict, train_classifier
from microdoppler.study.networks import plan_network
from microdoppler.study.recipe import Recipe
from microdoppler.study.scores import score
from microdoppler.study.trained_classifier import Classes
from microdoppler.study.unseen import unseen_metrics

SEEDS_APART = 10**6     # between the random numbers of two folds
CONDITION, UNSEEN = "condition ", "unseen "     # before the names of arrays in a stored outcome


@dataclass(frozen=True, eq=False)
class TestSet:
    """n images to test on beside the fold's test images; passes: n names, the pass of each image; paths: of each image,
    relative to its data folder."""
    images: ImageSet
    passes: Sequence[str]
    paths: Sequence[str]


@dataclass(frozen=True, eq=False)
class Fold:
    """One split, with the arms that are trained and the images that are tested on it.

    Arms of the same name differ in the training of their generator; see `arms_in`.
    """
    number: int
    arms: Sequence[Arm]
    test: ImageSet
    test_paths: Sequence[str]               # of each test image: its path, relative to the data folder
    passes: Sequence[str]                   # of each test image: the name of its pass
    split: dict[str, Any]                   # columns of runs.csv: how the images were split
    facts: Mapping[Arm, dict[str, Any]]     # columns of runs.csv: the origin of an arm's added images
    users: Sequence[int]                    # the user number of each label
    validation: ImageSet | None = None      # images that choose the network to keep, if the split has any
    conditions: Mapping[str, TestSet] = field(default_factory=dict)     # {name: the same users under another condition}
    unseen: TestSet | None = None           # users that nothing is trained on; their labels are 0, 1, … of their own

    def arms_in(self, repetition: int) -> list[Arm]:
        """The arms of a repetition (0, 1, …), one of each name. Repetitions use a generator's trainings in turn, in the
        order of their numbers."""
        trainings: dict[str, list[Arm]] = {}
        for arm in sorted(self.arms, key=lambda arm: arm.training):
            trainings.setdefault(arm.name, []).append(arm)
        return [own[repetition % len(own)] for own in trainings.values()]


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of one training.

    probabilities: (n, classes) float32, of the n test images; seconds: time of training and prediction; conditions:
    {name: (m, classes) float32, the probabilities of its images}; unseen: {metric: value}, see unseen.py.
    """
    probabilities: np.ndarray
    seconds: float
    conditions: Mapping[str, np.ndarray] = field(default_factory=dict)
    unseen: Mapping[str, float] = field(default_factory=dict)

    @staticmethod
    def of(model: nn.Module, fold: Fold, seconds: float) -> "Outcome":
        """Try a trained classifier on all images of a fold that are tested on."""
        probabilities = predict(model, fold.test.images).numpy()
        conditions = {name: predict(model, other.images.images).numpy() for name, other in fold.conditions.items()}
        unseen = {}
        if fold.unseen:
            images = fold.unseen.images
            unseen = unseen_metrics(features(model, images.images).numpy(), images.labels.numpy(),
                                    np.array(fold.unseen.passes), probabilities, predict(model, images.images).numpy())
        return Outcome(probabilities, seconds, conditions, unseen)


@dataclass(frozen=True, eq=False)
class Run:
    """The predictions of one classifier for n test images.

    probabilities: (n, classes) float32; labels: (n,) int64, the true ones; passes: n names, the pass of each image;
    conditions: {name: its predictions under another condition}; unseen: {metric: value} on unseen persons.
    """
    arm: Arm
    fold: int
    seed: int
    probabilities: np.ndarray
    labels: np.ndarray
    passes: Sequence[str]
    conditions: Mapping[str, "Run"] = field(default_factory=dict)
    unseen: Mapping[str, float] = field(default_factory=dict)

    @property
    def correct(self) -> np.ndarray:
        """(n,) bool: whether the most probable class is the true one."""
        return self.probabilities.argmax(axis=1) == self.labels


@dataclass(frozen=True, eq=False)
class PlannedRun:
    """A run that is to be trained, or read if its outcome is stored.

    key: a hash of everything that its stored file depends on. Runs with the same images (such as those of an arm whose
    selection kept all images) have the same key and share one training.
    """
    fold: Fold
    arm: Arm
    seed: int
    key: str

    @property
    def training_seed(self) -> int:
        """The seed of the training. Every fold has random numbers of its own: runs of different folds are independent,
        as the variance of a difference assumes (see variance.py)."""
        return _training_seed(self.fold, self.seed)

    def run(self, outcome: Outcome) -> Run:
        """The run with its outcome."""
        fold = self.fold
        conditions = {name: Run(self.arm, fold.number, self.seed, outcome.conditions[name], other.images.labels.numpy(),
                                other.passes) for name, other in fold.conditions.items()}
        return Run(self.arm, fold.number, self.seed, outcome.probabilities, fold.test.labels.numpy(), fold.passes,
                   conditions, outcome.unseen)

    def row(self, outcome: Outcome, recipe: Recipe, computed: dict[str, str]) -> dict[str, Any]:
        """The row in runs.csv: {column: value}. computed: the columns that say how it was computed."""
        scores = score(outcome.probabilities, self.fold.test.labels.numpy())
        arm = self.arm
        sizes = {"num_real": len(arm.real.images) if arm.kind.has_real else 0,
                 "num_added": len(arm.added.images) if arm.added else 0}
        return {"key": self.key, "arm": arm.kind.name, "synthetic": arm.synthetic_name,
                "training": arm.training or "", "fold": self.fold.number, "seed": self.seed,
                **asdict(recipe), "num_steps": arm.num_steps(recipe), **computed,
                "image_size": self.fold.test.images.shape[-1], **sizes, **self.fold.split,
                **self.fold.facts.get(arm, {}), "seconds": f"{outcome.seconds:.1f}",
                "num_test": len(self.fold.test.images),
                **{name: f"{scores[name]:.6f}" for name in ("accuracy", "macro_f1", "ece", "nll")},
                **{f"recall_{self.fold.users[label]}": f"{recall:.6f}"
                   for label, recall in scores["recalls"].items()}}


def run_study(folds: Sequence[Fold], *, num_classes: int, seeds: Sequence[int], recipe: Recipe, device: torch.device,
              folder: Path, keep: Classes | None = None) -> list[Run]:
    """Train and test every arm of every fold with every seed, and the trainings of a generator in turn (see
    `Fold.arms_in`). Runs that are stored in `folder` are not trained again.

    Writes folder/predictions/<key>.npz for each training, and folder/runs.csv with a row for each run of this study and
    of earlier ones in the same folder. keep: what the classifiers tell apart, if the best network of each arm is to be
    kept in folder/models (see best_networks.py); stored runs are then trained again where no network was kept. Raises
    InputError when runs.csv cannot be read.

    Several processes (accelerate launch) share the runs among them, and each returns all of them. A process stores its
    own runs as soon as they are done; the main one alone writes runs.csv.
    """
    processes = init_distributed(device)
    network = plan_network(recipe.network, folds[0].test.images.shape[-1])
    computed = {"device": device.type, "precision": str(half_precision(device))}
    plan = [PlannedRun(fold, arm, seed, _run_key(fold, arm, num_classes, recipe, computed, seed))
            for repetition, seed in enumerate(seeds) for fold in folds for arm in fold.arms_in(repetition)]
    log = RunLog(folder)
    outcomes = {planned.key: outcome for planned in plan if (outcome := log.read(planned.key))}
    best = BestNetworks(folder / "models", network, keep, _candidates(plan)) if keep else None
    missing: dict[str, PlannedRun] = {}
    for planned in plan:
        if planned.key not in outcomes or (best and best.lacks(planned.arm.name, planned.key)):
            missing.setdefault(planned.key, planned)
    if again := len(missing.keys() & outcomes.keys()):
        print(f"stored runs that are trained again, since their networks were not kept: {again}")

    def write_rows() -> None:
        if processes.is_main_process:
            log.write_rows([planned.row(outcomes[planned.key], recipe, computed) for planned in plan
                            if planned.key in outcomes])

    write_rows()
    share = _own_share(list(missing), plan, recipe, processes)
    if processes.num_processes > 1:
        print(f"runs to train: {len(missing)}, shared out among {processes.num_processes} processes; this one has "
              f"{len(share)}")
    num_steps = sum(planned.arm.num_steps(recipe) for planned in share)
    with (AdaptiveThreads(device) as threads, Progress(total=num_steps, unit="step", hidden=not share) as bar):
        for number, planned in enumerate(share, start=1):
            arm, seed = planned.arm, planned.training_seed
            bar.set_description(f"classifier {number}/{len(share)}: {arm.name}, fold {planned.fold.number}, "
                                f"seed {planned.seed}")
            started = time.perf_counter()
            model = train_classifier(arm.batches(recipe, num_classes, seed, device), network=network,
                                     num_classes=num_classes, num_steps=arm.num_steps(recipe), lr=recipe.lr, seed=seed,
                                     device=device, on_step=bar.update, threads=threads)
            outcome = Outcome.of(model, planned.fold, time.perf_counter() - started)
            if best:
                facts = {"fold": planned.fold.number, "seed": planned.seed,
                         "test_accuracy": float(planned.run(outcome).correct.mean())}
                for name in {other.arm.name for other in plan if other.key == planned.key}:
                    best.offer(name, planned.key, model, planned.fold.validation, facts)
            if planned.key not in outcomes:
                outcomes[planned.key] = outcome
                log.write(planned, outcome)
                write_rows()
    for found in gather_object([outcomes]):
        outcomes |= found
    write_rows()
    return [planned.run(outcomes[planned.key]) for planned in plan]


def _own_share(missing: list[str], plan: Sequence[PlannedRun], recipe: Recipe, processes: PartialState
               ) -> list[PlannedRun]:
    """The runs that this process trains, so that all have about as many steps; missing: keys of all that are to be
    trained. The main process's list counts: another one may read the folder when a run has just been added to it."""
    runs = {planned.key: planned for planned in reversed(plan)}     # of runs with the same key, the first
    todo = [runs[key] for key in broadcast_object_list([missing])[0]]
    return shares(todo, [planned.arm.num_steps(recipe) for planned in todo],
                  processes.num_processes)[processes.process_index]


def _candidates(plan: Sequence[PlannedRun]) -> dict[str, list[str]]:
    """{name of an arm: keys of the runs among which its best network is chosen}: all runs that have validation images;
    without any, the first run."""
    keys: dict[str, list[str]] = {}
    for planned in plan:
        own = keys.setdefault(planned.arm.name, [])
        if planned.fold.validation or not own:
            own.append(planned.key)
    return keys


def _run_key(fold: Fold, arm: Arm, num_classes: int, recipe: Recipe, computed: dict[str, str], seed: int) -> str:
    """A hash of everything that the stored file of a run depends on."""
    parts = [RECIPE_VERSION, arm.key_parts, arm.num_steps(recipe), asdict(recipe), computed, num_classes,
             fold.test.digest, list(fold.test_paths), _training_seed(fold, seed)]
    if fold.conditions or fold.unseen:
        parts += [{name: [other.images.digest, list(other.paths)] for name, other in fold.conditions.items()},
                  fold.unseen and [fold.unseen.images.digest, list(fold.unseen.passes)]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _training_seed(fold: Fold, seed: int) -> int:
    return seed + SEEDS_APART * fold.number


class RunLog:
    """The stored runs: folder/predictions/<key>.npz to compute results from, and folder/runs.csv for people to read."""

    def __init__(self, folder: Path):
        """Raises InputError when `folder` has a runs.csv that cannot be read."""
        self.folder = folder
        self.rows: dict[tuple[str, ...], dict[str, Any]] = {}
        if (folder / "runs.csv").exists():
            try:
                with open(folder / "runs.csv", newline="", encoding="utf-8-sig") as file:       # Excel writes a mark
                    self._add(list(csv.DictReader(file)))
            except (UnicodeDecodeError, csv.Error) as error:
                raise InputError(f"{folder / 'runs.csv'} cannot be read ({error}); move it away: the runs themselves "
                                 "are in predictions/, and their rows are written anew") from None

    def read(self, key: str) -> Outcome | None:
        """The outcome that is stored under this key; None when there is none, or its file is damaged."""
        try:
            arrays = load_arrays(self.folder / "predictions" / f"{key}.npz")
            conditions, unseen = ({name.removeprefix(prefix): value for name, value in arrays.items()
                                   if name.startswith(prefix)} for prefix in (CONDITION, UNSEEN))
            return Outcome(arrays["probabilities"], float(arrays["seconds"]), conditions,
                           {name: float(value) for name, value in unseen.items()})
        except (InputError, ValueError, KeyError, TypeError):
            return None

    def write(self, planned: PlannedRun, outcome: Outcome) -> None:
        """Store the outcome of a run under its key, with what is needed to read it without the data set.

        probabilities: (n, classes); paths: (n,), of the test images; labels: (n,), the right column of each; users:
        (classes,), the user number of each column; "condition <name>", "paths of condition <name>", "labels of
        condition <name>": the same of its images; "unseen <metric>": its value.
        """
        fold = planned.fold
        arrays: dict[str, Any] = {
            "probabilities": outcome.probabilities, "paths": list(fold.test_paths), "labels": fold.test.labels.numpy(),
            "users": list(fold.users), "seconds": outcome.seconds,
            **{CONDITION + name: probabilities for name, probabilities in outcome.conditions.items()},
            **{f"paths of {CONDITION}{name}": list(other.paths) for name, other in fold.conditions.items()},
            **{f"labels of {CONDITION}{name}": other.images.labels.numpy() for name, other in fold.conditions.items()},
            **{UNSEEN + name: value for name, value in outcome.unseen.items()}}
        with atomic_path(self.folder / "predictions" / f"{planned.key}.npz") as temporary:
            np.savez(temporary, **arrays)

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        """Add rows to runs.csv; they replace the rows of the same runs."""
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
        """Add rows at the end, in their order; key, arm, synthetic set and fold identify a run."""
        added = {tuple(str(row.get(name)) for name in ("key", "arm", "synthetic", "fold")): row for row in rows}
        self.rows = {run: row for run, row in self.rows.items() if run not in added} | added
