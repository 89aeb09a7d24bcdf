"""What a training run tells accelerate's trackers: TensorBoard, Weights & Biases and their like."""
import uuid
from pathlib import Path
from typing import Any, Callable

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, get_available_trackers
from accelerate.utils import LoggerType
from PIL import Image
from torch import Tensor

from groundwork.errors import InputError
from groundwork.files import write_text

PROJECT = "microdoppler-diffusion"      # the project's name at a tracker, and TensorBoard's folder


def choose_trackers(log_with: str) -> list[str]:
    """accelerate's names of the trackers that `log_with` asks for. Raises InputError when one is not installed."""
    installed = sorted(map(str, get_available_trackers()))
    where_installed = [name for name in installed if name == "tensorboard"]
    chosen = {"auto": where_installed, "none": [], "all": installed}.get(log_with, [log_with])
    if not set(chosen) <= set(installed):
        known = ", ".join(sorted(set(map(str, LoggerType)) - {"all"}))
        raise InputError(f"log_with is {log_with}, which is not installed or no tracker; installed: "
                         f"{', '.join(installed) or 'none'}; accelerate knows {known}: install one with pip, or give "
                         "auto, all or none")
    return chosen


class Trackers:
    """The trackers of a training run, in its main process. One that fails while training goes on is named in a warning
    and told nothing more: no tracker is worth a training."""

    def __init__(self, accelerator: Accelerator, config: dict, *, step: int, folder: Path):
        """accelerator: made with log_with and `folder`, where trackers write; config: plain values; step: where
        training goes on, 0 at its start. Raises InputError when one that was asked for by name cannot start."""
        self.running: list[GeneralTracker] = []
        if not accelerator.log_with:
            return
        folder.mkdir(parents=True, exist_ok=True)
        on_resume = {"tensorboard": {"purge_step": step + 1 if step else 0},       # forget what was told beyond
                     "wandb": {"dir": str(folder), "id": run_id(folder, is_new=step == 0), "resume": "allow"}}
        try:
            accelerator.init_trackers(PROJECT, {name: _plain(value) for name, value in config.items()}
                                      if step == 0 else None, on_resume)
        except Exception as error:      # a tracker's library may raise anything
            complaint = f"log_with {config['log_with']}: {type(error).__name__}: {error}"
            if config["log_with"] != "auto":
                raise InputError(f"{complaint}; set it up, or go without: --log_with none") from None
            print(f"warning: {complaint}; training goes on without it")
            return
        self.running = list(accelerator.trackers)

    def log(self, record: dict, steps_per_second: float | None = None) -> None:
        """A line of metrics.jsonl, and of a line of training its speed in steps."""
        kind = "milestone" if "milestone" in record else "training"
        values = {f"{kind}/{name}": value for name, value in record.items()
                  if name not in ("step", "milestone", "wall_time")}
        if steps_per_second is not None:
            values[f"{kind}/steps_per_second"] = steps_per_second
        self._tell(lambda tracker: tracker.log(values, step=record["step"]))

    def show(self, picture: Path, step: int) -> None:
        """The samples of a milestone, where a tracker shows pictures."""
        if not self.running:
            return
        with Image.open(picture) as image:
            batch = np.asarray(image.convert("RGB"))[None]

        def tell(tracker: GeneralTracker) -> None:
            if tracker.name == "tensorboard":
                tracker.log_images({"samples": batch}, step, dataformats="NHWC")
            elif tracker.name == "wandb":
                tracker.log_images({"samples": batch}, step)
        self._tell(tell)

    def show_latents(self, latents: Tensor, kind: str, step: int) -> None:
        """Histograms of (n, c, h, w), one per channel, where a tracker draws such."""
        channels = {f"latents_channel_{channel}/{kind}": values.flatten().float().cpu().numpy()
                    for channel, values in enumerate(latents.unbind(dim=1))}

        def tell(tracker: GeneralTracker) -> None:
            if tracker.name == "tensorboard":
                for name, values in channels.items():
                    tracker.tracker.add_histogram(name, values, step)
            elif tracker.name == "wandb":
                from wandb import Histogram  # installed, as its tracker runs
                tracker.log({name: Histogram(values) for name, values in channels.items()}, step)
        self._tell(tell)

    def close(self) -> None:
        self._tell(lambda tracker: tracker.finish())
        self.running = []

    def _tell(self, tell: Callable[[GeneralTracker], None]) -> None:
        for tracker in list(self.running):
            try:
                tell(tracker)
            except Exception as error:      # a tracker's library may raise anything
                self.running.remove(tracker)
                print(f"warning: {tracker.name} failed ({type(error).__name__}: {error}); training goes on without it",
                      flush=True)


def run_id(folder: Path, is_new: bool) -> str:
    """By which a service over the net knows the run again when it is resumed."""
    path = folder / "run_id"
    if is_new or not path.exists():
        write_text(path, uuid.uuid4().hex)
    return path.read_text()


def _plain(value: Any) -> bool | int | float | str:
    """TensorBoard's table of settings takes no lists."""
    return value if isinstance(value, (bool, int, float, str)) else str(value)
