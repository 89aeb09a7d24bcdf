"""What a training run leaves in results_folder, and what it finds there."""
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from denoising_diffusion_pytorch.checkpoint import FORMAT, list_milestones, milestone_path, thin_out
from denoising_diffusion_pytorch.trainer import Recorder, Trainer
from groundwork.files import append_json, check_free_space, save_tensors, write_json
from groundwork.seeding import seeded
from microdoppler.figures.legend import Legend
from microdoppler.figures.pictures import sample_grid
from microdoppler.figures.report import save_figure
from microdoppler.pipeline.tracking import Trackers
from microdoppler.watch.metrics import read_metrics
from microdoppler.watch.milestone import MilestoneWatcher
from train_latent_cfg import Config

PICTURE_BYTES = 2 ** 21     # a sample-<m>.png is rarely larger than half of it, and TensorBoard keeps another
SHOWN_LATENTS = 256         # in a tracker's histograms


def set_aside_later(folder: Path, step: int, milestone_every: int) -> None:
    """Resumed from an earlier milestone, the later ones belong to an abandoned run: they move to a folder beside."""
    later = [m for m in list_milestones(folder) if (m - 1) * milestone_every >= step]
    if not later:
        return
    aside = next(path for number in range(1, 10 ** 6) if not (path := folder / f"abandoned-{number}").exists())
    aside.mkdir()
    for name in (name for m in later for name in (f"model-{m}.pt", f"sample-{m}.png") if (folder / name).exists()):
        (folder / name).rename(aside / name)
    print(f"milestones {', '.join(map(str, later))} are now in {aside}")


class ResultsRecorder(Recorder):
    """Writes what a run leaves in results_folder: config.json, metrics.jsonl, and two files per milestone; trackers
    hear of it too."""

    def __init__(self, config: Config, trainer: Trainer, watcher: MilestoneWatcher, real: dict, legend: Legend,
                 travels: dict):
        """real: an image of each shown user; travels: what else a checkpoint carries, its config among it."""
        self.config, self.trainer, self.watcher, self.real, self.legend = config, trainer, watcher, real, legend
        self.folder = config.results_folder
        self.travels = {"format": FORMAT, "package_version": package_version(), "legend": legend.to_plain(), **travels}
        self.latest = ""
        check_free_space(self.folder, self.bytes_to_write(), "lower keep_last, or raise save_and_sample_every or "
                         "keep_every")
        self.trackers = Trackers(trainer.accelerator, self.travels["config"], step=trainer.step,
                                 folder=self.folder / "trackers")
        write_json(self.folder / "config.json", self.travels["config"])
        (self.folder / "metrics.jsonl").touch()     # so that monitor_training.py knows that training has begun
        if trainer.step == 0:
            self.trackers.show_latents(self._training_latents(), "training", step=0)

    def bytes_to_write(self) -> int:
        """At most, until the end: whole checkpoints (weights, their average, and Adam's two), thin ones (the average),
        and pictures."""
        config, weights = self.config, sum(p.numel() * p.element_size() for p in self.trainer.parameters)
        milestones = -(-(config.train_num_steps - self.trainer.step) // config.save_and_sample_every)
        whole = min(milestones, config.keep_last + 1)       # one more while the oldest is not yet thinned
        thin = -(-(milestones - whole) // config.keep_every)
        return whole * 4 * weights + thin * weights + milestones * PICTURE_BYTES

    def log(self, record: dict) -> None:
        append_json(self.folder / "metrics.jsonl", record)
        if "loss" not in record:
            self.trackers.log(record)
        else:
            self.trackers.log(record, record["images_per_second"] / self.trainer.global_batch)
            left = (self.config.train_num_steps - record["step"]) * self.trainer.global_batch
            self.latest = (f"loss {record['loss']:.4f}, {record['images_per_second']:.0f} images/s, "
                           f"{left / record['images_per_second'] / 60:.0f} min left, ")
            if record["skipped_steps"]:
                self.latest += f"{record['skipped_steps']} steps skipped as their gradients were not finite, "

    def milestone(self, milestone: int) -> None:
        self.save(milestone)
        self.evaluate(milestone)

    def close(self) -> None:
        self.trackers.close()

    def _training_latents(self) -> Tensor:
        """As training draws them, of some images from all over the data set."""
        count = self.trainer.num_items
        indices = torch.linspace(0, count - 1, min(count, SHOWN_LATENTS)).long()
        return self.trainer.draw_batch(indices, seeded(self.config.seed, device=self.trainer.device))[0]

    def save(self, milestone: int) -> None:
        save_tensors(milestone_path(self.folder, milestone), {**self.trainer.state_dict(), **self.travels})
        thin_out(self.folder, self.config.keep_last, self.config.keep_every)

    def evaluate(self, milestone: int) -> None:
        step = self.trainer.step
        samples, latents, health = self.watcher.evaluate()
        caption = f"step {step}: " + ", ".join(f"{name} {value:.2f}" for name, value in health.items())
        save_figure(sample_grid(self.real, samples, self.legend, caption),
                    self.folder / f"sample-{milestone}.png")
        self.log({"step": step, "milestone": milestone, **health})
        self.trackers.show(self.folder / f"sample-{milestone}.png", step)
        self.trackers.show_latents(latents, "samples", step)
        print(f"step {step}: {self.latest}wrote model-{milestone}.pt and sample-{milestone}.png", flush=True)

    def finish_interrupted_milestone(self) -> None:
        """A run that was killed just after a checkpoint lacks its picture, or its line of metrics."""
        step, every, metrics = self.trainer.step, self.config.save_and_sample_every, self.folder / "metrics.jsonl"
        milestone = -(-step // every)
        if step == 0 or step % every and step != self.config.train_num_steps:
            return
        is_told = metrics.exists() and step in read_metrics(metrics).milestones["step"]
        if not (is_told and (self.folder / f"sample-{milestone}.png").exists()):
            self.evaluate(milestone)


def package_version() -> str:
    try:
        return version("microdoppler-diffusion")
    except PackageNotFoundError:        # run from a clone that was not installed
        return "unknown"
