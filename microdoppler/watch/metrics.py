"""metrics.jsonl, read into arrays."""
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from groundwork.errors import InputError

TRAINING_KEYS = ("step", "loss", "grad_norm", "lr", "images_per_second", "wall_time", "skipped_steps")
MILESTONE_KEYS = ("step", "milestone", "class_gain", "sharpness", "recognised", "diversity", "copies")
ALWAYS_FINITE = ("step", "milestone", "images_per_second", "wall_time", "skipped_steps")    # or the line is damaged


@dataclass(frozen=True)
class Metrics:
    """training, milestones: {key of a line: (lines,) float64}; broken_lines: how many were no line of ours."""
    training: dict[str, np.ndarray]
    milestones: dict[str, np.ndarray]
    broken_lines: int

    @property
    def step(self) -> int:
        return int(self.training["step"][-1]) if len(self.training["step"]) else 0


def read_metrics(path: str | Path) -> Metrics:
    """metrics.jsonl, also while it is being written: a last line without its end is left out.

    A resumed run repeats the steps after its checkpoint, so a line replaces all earlier ones of its step and later.
    Raises InputError when there is no such file.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); python train_latent_cfg.py writes it: start that "
                         "first, or give its --results_folder") from None
    training: list[dict[str, float]] = []
    milestones: list[dict[str, float]] = []
    broken = 0
    for place, line in enumerate(lines):
        record = _parse(line)
        if record is None:
            broken += bool(line.strip()) and place < len(lines) - 1
            continue
        is_milestone = "milestone" in record
        same, other = (milestones, training) if is_milestone else (training, milestones)
        while same and same[-1]["step"] >= record["step"]:
            same.pop()
        while other and other[-1]["step"] > record["step"]:
            other.pop()
        same.append(record)
    return Metrics(_columns(training, TRAINING_KEYS), _columns(milestones, MILESTONE_KEYS), broken)


def _parse(line: bytes) -> dict[str, float] | None:
    try:
        record = json.loads(line)
        if "milestone" in record:       # earlier versions wrote fewer figures
            record = {key: _number(record.get(key)) for key in MILESTONE_KEYS}
        else:
            record = {key: _number(record[key]) for key in TRAINING_KEYS[:-1]} | {
                "skipped_steps": _number(record.get("skipped_steps", 0))}      # earlier versions skipped none
    except (ValueError, KeyError, TypeError):
        return None
    return record if all(math.isfinite(record.get(key, 0)) for key in ALWAYS_FINITE) else None


def _number(value: Any) -> float:
    """JSON has no NaN and no infinity: append_json writes null for them."""
    return math.nan if value is None else float(value)


def _columns(records: list[dict], keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    return {key: np.array([record[key] for record in records], dtype=np.float64) for key in keys}


def recent(values: np.ndarray) -> np.ndarray:
    """Of (lines,), those that count as now: the last twentieth, and five at least."""
    return values[-max(5, len(values) // 20):]


def smooth(values: np.ndarray) -> np.ndarray:
    """The mean of each window as long as `recent`, NaN and infinity left out; shaped like `values`."""
    width = len(recent(values))
    if width == 0:
        return values
    finite, kernel = np.isfinite(values), np.ones(width)
    total = np.convolve(np.where(finite, values, 0), kernel, "same")
    count = np.convolve(finite, kernel, "same").round()
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
