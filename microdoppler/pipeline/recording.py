"""Write the files of a training run to results_folder, and deal with those of an interrupted run."""
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from denoising_diffusion_pytorch.checkpoint import FORMAT, list_milestones, milestone_path, prune_checkpoints
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

PICTURE_BYTES = 2 ** 21     # per milestone: sample-<m>.png is rarely larger than half of it; TensorBoard stores a copy
SHOWN_LATENTS = 256         # latents in a tracker's histograms


def title(step: int, metrics: dict[str, float]) -> str:
    """The title of a sample picture: the metrics of its milestone, and those of held-out real images if there are any.
    """
    lines = ["step {}: {recognised:.0%} recognised as their user, diversity {diversity:.2f}, {copies:.0%} near-copies"]
    if "held_out_recognised" in metrics:
        lines.append("({held_out_count:.0f} held-out real images: {held_out_recognised:.0%}, {held_out_diversity:.2f}, "
                     "{held_out_copies:.0%})")
    lines.append("{num_samples} samples, speckle contrast {speckle:.2f} (training images after the VAE: "
                 "{speckle_of_vae:.2f}), spectra off by {radial_db:.1f} dB, class gain {class_gain:.3f}")
    return "\n".join(lines).format(step, **metrics).replace("nan", "?")


def move_abandoned_milestones(folder: Path, step: int, milestone_every: int) -> None:
    """Move the milestones after `step` to folder/abandoned-<n>.

    They exist when training is resumed from an earlier milestone than the last. They belong to a run that is given up.
    """
    later = [m for m in list_milestones(folder) if (m - 1) * milestone_every >= step]
    if not later:
        return
    aside = next(path for number in range(1, 10 ** 6) if not (path := folder / f"abandoned-{number}").exists())
    aside.mkdir()
    for name in (name for m in later for name in (f"model-{m}.pt", f"sample-{m}.png") if (folder / name).exists()):
        (folder / name).rename(aside / name)
    print(f"milestones {', '.join(map(str, later))} are now in {aside}")


class ResultsRecorder(Recorder):
    """Writes the files of a run to results_folder: config.json, metrics.jsonl, and model-<m>.pt and sample-<m>.png of
    each milestone. Passes the same on to the trackers."""

    def __init__(self, config: Config, trainer: Trainer, watcher: MilestoneWatcher, real: dict, legend: Legend,
                 checkpoint_extras: dict):
        """real: {user: a real image (channels, s, s) uint8}, for the users of the sample picture; checkpoint_extras:
        what checkpoints contain besides the trainer's state, including "config". Raises InputError when the disk has
        too little space for the run."""
        self.config, self.trainer, self.watcher, self.real, self.legend = config, trainer, watcher, real, legend
        self.folder = config.results_folder
        self.checkpoint_extras = {"format": FORMAT, "package_version": package_version(), "legend": legend.to_plain(),
                                  **checkpoint_extras}
        self.latest_metrics = ""
        check_free_space(self.folder, self.bytes_to_write(), "lower keep_last, or raise save_and_sample_every or "
                         "keep_every")
        self.trackers = Trackers(trainer.accelerator, self.checkpoint_extras["config"], step=trainer.step,
                                 folder=self.folder / "trackers")
        write_json(self.folder / "config.json", self.checkpoint_extras["config"])
        (self.folder / "metrics.jsonl").touch()     # shows monitor_training.py that training has begun
        if trainer.step == 0:
            self.trackers.show_latents(self._training_latents(), "training", step=0)

    def bytes_to_write(self) -> int:
        """An upper bound for the rest of the run. It counts checkpoints that can be resumed (weights, averaged weights,
        Adam's two averages), older ones that can only generate (averaged weights), and pictures."""
        config, weights = self.config, sum(p.numel() * p.element_size() for p in self.trainer.diffusion.parameters())
        milestones = -(-(config.train_num_steps - self.trainer.step) // config.save_and_sample_every)
        resumable = min(milestones, config.keep_last + 1)       # one more, until the oldest of them is reduced
        generating = -(-(milestones - resumable) // config.keep_every)
        return resumable * 4 * weights + generating * weights + milestones * PICTURE_BYTES

    def log(self, record: dict) -> None:
        """Append a line to metrics.jsonl, and log it to the trackers; record: of a training step or of a milestone."""
        append_json(self.folder / "metrics.jsonl", record)
        if "loss" not in record:
            self.trackers.log(record)
        else:
            self.trackers.log(record, record["images_per_second"] / self.trainer.global_batch)
            left = (self.config.train_num_steps - record["step"]) * self.trainer.global_batch
            self.latest_metrics = (
                f"loss {record['loss']:.4f}, {record['images_per_second']:.0f} images/s, "
                f"{left / record['images_per_second'] / 60:.0f} min left, ")
            if record["skipped_steps"]:
                self.latest_metrics += f"{record['skipped_steps']} steps skipped as their gradients were not finite, "

    def milestone(self, milestone: int) -> None:
        self.save(milestone)
        self.evaluate(milestone)

    def close(self) -> None:
        self.trackers.close()

    def _training_latents(self) -> Tensor:
        """Up to SHOWN_LATENTS latents from the whole data set, (n, c, h, w), as the network sees them in training."""
        count = self.trainer.num_items
        indices = torch.linspace(0, count - 1, min(count, SHOWN_LATENTS)).long()
        return self.trainer.get_batch(indices, seeded(self.config.seed, device=self.trainer.device))[0]

    def save(self, milestone: int) -> None:
        """Write model-<m>.pt, and reduce or delete older checkpoints (keep_last, keep_every)."""
        save_tensors(milestone_path(self.folder, milestone), {**self.trainer.state_dict(), **self.checkpoint_extras})
        prune_checkpoints(self.folder, self.config.keep_last, self.config.keep_every)

    def evaluate(self, milestone: int) -> None:
        """Sample and measure; write sample-<m>.png and a line of metrics.jsonl."""
        step = self.trainer.step
        by_label, latents, metrics = self.watcher.evaluate(step)
        samples = {self.legend.users[label]: images for label, images in by_label.items()}
        save_figure(sample_grid(self.real, samples, self.legend, title(step, metrics)),
                    self.folder / f"sample-{milestone}.png")
        self.log({"step": step, "milestone": milestone, **metrics})
        self.trackers.show(self.folder / f"sample-{milestone}.png", step)
        self.trackers.show_latents(latents, "samples", step)
        print(f"step {step}: {self.latest_metrics}wrote model-{milestone}.pt and sample-{milestone}.png", flush=True)

    def finish_interrupted_milestone(self) -> None:
        """Evaluate the milestone that training resumes from, if its picture or its line of metrics is missing: the run
        was killed between the checkpoint and these."""
        step, every, metrics = self.trainer.step, self.config.save_and_sample_every, self.folder / "metrics.jsonl"
        milestone = -(-step // every)
        if step == 0 or step % every and step != self.config.train_num_steps:
            return
        is_logged = metrics.exists() and step in read_metrics(metrics).milestones["step"]
        if not (is_logged and (self.folder / f"sample-{milestone}.png").exists()):
            self.evaluate(milestone)


def package_version() -> str:
    """The version of this package; "unknown" when it is not installed."""
    try:
        return version("microdoppler-diffusion")
    except PackageNotFoundError:        # the repository was cloned, but not installed
        return "unknown"
