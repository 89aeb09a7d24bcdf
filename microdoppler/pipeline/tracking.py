"""Log a training run to accelerate's trackers: TensorBoard, Weights & Biases and others."""
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

PROJECT = "microdoppler-diffusion"      # name of the project in a tracker; TensorBoard uses it as a folder name


def choose_trackers(log_with: str) -> list[str]:
    """The trackers that Config.log_with asks for, by accelerate's names. Raises InputError when one is not installed.
    """
    installed = sorted(map(str, get_available_trackers()))
    tensorboard = [name for name in installed if name == "tensorboard"]
    chosen = {"auto": tensorboard, "none": [], "all": installed}.get(log_with, [log_with])
    if not set(chosen) <= set(installed):
        known = ", ".join(sorted(set(map(str, LoggerType)) - {"all"}))
        raise InputError(f"log_with is {log_with}, which is not installed or no tracker; installed: "
                         f"{', '.join(installed) or 'none'}; accelerate knows {known}: install one with pip, or give "
                         "auto, all or none")
    return chosen


class Trackers:
    """The trackers of a training run, in its main process.

    A tracker that fails during training is named in a warning and then left out. Training goes on.
    """

    def __init__(self, accelerator: Accelerator, config: dict, *, step: int, folder: Path):
        """Start the trackers.

        accelerator: created with log_with and logging folder `folder`; config: plain values of Config; step: at which
        training starts (0) or resumes. Raises InputError when log_with is not auto and a tracker cannot start.
        """
        self.running: list[GeneralTracker] = []
        if not accelerator.log_with:
            return
        folder.mkdir(parents=True, exist_ok=True)
        on_resume = {"tensorboard": {"purge_step": step + 1 if step else 0},       # drop steps after the checkpoint
                     "wandb": {"dir": str(folder), "id": run_id(folder, is_new=step == 0), "resume": "allow"}}
        try:
            accelerator.init_trackers(PROJECT, {name: _plain(value) for name, value in config.items()}
                                      if step == 0 else None, on_resume)
        except Exception as error:      # trackers' libraries raise errors of many kinds
            message = f"log_with {config['log_with']}: {type(error).__name__}: {error}"
            if config["log_with"] != "auto":
                raise InputError(f"{message}; set it up, or go without: --log_with none") from None
            print(f"warning: {message}; training goes on without it")
            return
        self.running = list(accelerator.trackers)

    def log(self, record: dict, steps_per_second: float | None = None) -> None:
        """Log the numbers of a line of metrics.jsonl; steps_per_second: for a training line."""
        kind = "milestone" if "milestone" in record else "training"
        values = {f"{kind}/{name}": value for name, value in record.items()
                  if name not in ("step", "milestone", "wall_time")}
        if steps_per_second is not None:
            values[f"{kind}/steps_per_second"] = steps_per_second
        self._call_each(lambda tracker: tracker.log(values, step=record["step"]))

    def show(self, picture: Path, step: int) -> None:
        """Log the sample picture of a milestone, an image file, to trackers that show pictures."""
        if not self.running:
            return
        with Image.open(picture) as image:
            batch = np.asarray(image.convert("RGB"))[None]

        def log_to(tracker: GeneralTracker) -> None:
            if tracker.name == "tensorboard":
                tracker.log_images({"samples": batch}, step, dataformats="NHWC")
            elif tracker.name == "wandb":
                tracker.log_images({"samples": batch}, step)
        self._call_each(log_to)

    def show_latents(self, latents: Tensor, kind: str, step: int) -> None:
        """Log histograms of latents (n, c, h, w), one per channel, to trackers that show them; kind: e.g. "samples"."""
        channels = {f"latents_channel_{channel}/{kind}": values.flatten().float().cpu().numpy()
                    for channel, values in enumerate(latents.unbind(dim=1))}

        def log_to(tracker: GeneralTracker) -> None:
            if tracker.name == "tensorboard":
                for name, values in channels.items():
                    tracker.tracker.add_histogram(name, values, step)
            elif tracker.name == "wandb":
                from wandb import Histogram  # is installed, because its tracker runs
                tracker.log({name: Histogram(values) for name, values in channels.items()}, step)
        self._call_each(log_to)

    def close(self) -> None:
        self._call_each(lambda tracker: tracker.finish())
        self.running = []

    def _call_each(self, function: Callable[[GeneralTracker], None]) -> None:
        """Call function(tracker) for each running tracker. One that fails is warned of and left out from then on."""
        for tracker in list(self.running):
            try:
                function(tracker)
            except Exception as error:      # trackers' libraries raise errors of many kinds
                self.running.remove(tracker)
                print(f"warning: {tracker.name} failed ({type(error).__name__}: {error}); training goes on without it",
                      flush=True)


def run_id(folder: Path, is_new: bool) -> str:
    """The run's identifier for a web service, which continues the same run when training is resumed. It is stored in
    folder/run_id."""
    path = folder / "run_id"
    if is_new or not path.exists():
        write_text(path, uuid.uuid4().hex)
    return path.read_text()


def _plain(value: Any) -> bool | int | float | str:
    """The value, or its text where it is a list or the like, which TensorBoard's table of settings cannot show."""
    return value if isinstance(value, (bool, int, float, str)) else str(value)
