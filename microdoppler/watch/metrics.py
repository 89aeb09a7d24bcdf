"""Read metrics.jsonl into arrays, and smooth them."""
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from groundwork.errors import InputError

TRAINING_KEYS = ("step", "loss", "grad_norm", "lr", "images_per_second", "wall_time", "skipped_steps")
MILESTONE_KEYS = ("step", "milestone", "class_gain", "speckle", "speckle_of_vae", "radial_db", "doppler_db",
                  "recognised", "diversity", "copies", "held_out_speckle", "held_out_radial_db", "held_out_doppler_db",
                  "held_out_recognised", "held_out_diversity", "held_out_copies", "held_out_count", "num_samples")
ALWAYS_FINITE = ("step", "milestone", "images_per_second", "wall_time", "skipped_steps")    # else the line is damaged


@dataclass(frozen=True)
class Metrics:
    """The content of a metrics.jsonl. Each array is (lines,) float64, in the order of the steps."""
    training: dict[str, np.ndarray]         # {key of TRAINING_KEYS: values}
    milestones: dict[str, np.ndarray]       # {key of MILESTONE_KEYS: values}
    broken_lines: int                       # number of lines that could not be read

    @property
    def step(self) -> int:
        """The last step in the file; 0 when there is none."""
        return int(self.training["step"][-1]) if len(self.training["step"]) else 0


def read_metrics(path: str | Path) -> Metrics:
    """Read metrics.jsonl, also while training writes to it: an unfinished last line is left out.

    A resumed run repeats the steps after its checkpoint. A line therefore replaces all lines before it in the file that
    have the same step or a later one. A training line and a milestone line of the same step do not replace each other.
    Raises InputError when the file cannot be read.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); python train_latent_cfg.py writes it: start that "
                         "first, or give its --results_folder") from None
    training: list[dict[str, float]] = []
    milestones: list[dict[str, float]] = []
    broken = 0
    for number, line in enumerate(lines):
        record = _parse(line)
        if record is None:
            broken += bool(line.strip()) and number < len(lines) - 1
            continue
        is_milestone = "milestone" in record
        same_kind, other_kind = (milestones, training) if is_milestone else (training, milestones)
        while same_kind and same_kind[-1]["step"] >= record["step"]:
            same_kind.pop()
        while other_kind and other_kind[-1]["step"] > record["step"]:
            other_kind.pop()
        same_kind.append(record)
    return Metrics(_columns(training, TRAINING_KEYS), _columns(milestones, MILESTONE_KEYS), broken)


def _parse(line: bytes) -> dict[str, float] | None:
    """The values of a line; None when it is not a line that training writes."""
    try:
        record = json.loads(line)
        if "milestone" in record:       # earlier versions wrote fewer keys
            record = {key: _number(record.get(key)) for key in MILESTONE_KEYS}
        else:
            record = {key: _number(record[key]) for key in TRAINING_KEYS[:-1]} | {
                "skipped_steps": _number(record.get("skipped_steps", 0))}      # earlier versions did not skip steps
    except (ValueError, KeyError, TypeError):
        return None
    return record if all(math.isfinite(record.get(key, 0)) for key in ALWAYS_FINITE) else None


def _number(value: Any) -> float:
    """append_json writes null for NaN and infinity, which JSON does not have."""
    return math.nan if value is None else float(value)


def _columns(records: list[dict], keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    return {key: np.array([record[key] for record in records], dtype=np.float64) for key in keys}


def recent(values: np.ndarray) -> np.ndarray:
    """The values of values (lines,) that count as the present: the last twentieth, at least the last five."""
    return values[-max(5, len(values) // 20):]


def smooth(values: np.ndarray) -> np.ndarray:
    """Running mean of values (lines,) over windows as long as recent(values); same shape.

    NaN and infinity are left out. The mean is NaN where a window has no finite value.
    """
    width = len(recent(values))
    if width == 0:
        return values
    finite, kernel = np.isfinite(values), np.ones(width)
    total = np.convolve(np.where(finite, values, 0), kernel, "same")
    count = np.convolve(finite, kernel, "same").round()
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
