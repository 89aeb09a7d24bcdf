"""What the page of python -m microdoppler.app shows: images that a checkpoint generates, and what is known of each.

The images are made by the functions of generate.py, into a folder of the same layout. Near-copies and recognised images
are told as at the milestones of a training, by the training and validation images; test images are not looked at.
"""
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Sequence

import torch
from torch import Tensor

from denoising_diffusion_pytorch.checkpoint import list_milestones, load_checkpoint, milestone_path
from groundwork.device import choose_device
from groundwork.errors import InputError
from groundwork.images import load_images
from groundwork.processes import init_distributed
from groundwork.progress import Progress
from microdoppler.fidelity.measure import recognised_by
from microdoppler.fidelity.sample_evaluator import SampleEvaluator
from microdoppler.figures.legend import Legend
from microdoppler.figures.pictures import image_grid
from microdoppler.figures.report import Table, save_figure
from microdoppler.pipeline.assembly import Data, open_sample_evaluator
from microdoppler.pipeline.constants import config_of
from microdoppler.pipeline.control import open_copy_detector, training_data
from microdoppler.pipeline.generation import MODEL_FILE, ImageGenerator, Sampling, find_checkpoint
from microdoppler.pipeline.synthetic_folder import choose_users, generate_all
from microdoppler.study.arms import ImageSet
from microdoppler.study.copies import CopyDetector
from train_latent_cfg import Config

BATCH_SIZE = 4          # images generated at once: progress is told, and work can be cancelled, between two batches
MOST_PICTURES = 64      # that are drawn, shared evenly among the users: each takes about 0.2 s


@dataclass(frozen=True, eq=False)
class Generated:
    """Generated images: names, relative to `folder`; user numbers; images (n, 3 or 1, s, s) uint8."""
    generator: ImageGenerator
    folder: Path
    names: list[str]
    users: list[int]
    images: Tensor


@dataclass(frozen=True, eq=False)
class Compared:
    """What the training images say of n generated images.

    recognised: the user that the evaluation classifier takes each for; confidence: its probability, (n,) float32;
    nearest: the most similar training image of each, relative to the data folder, whose correlation with it is
    `correlation` (n,) float32; bar: (n,) float32, the correlation from which on it is a near-copy; held_out_recognised:
    the share of these users' validation images that are recognised; None without any; data: the training images.
    """
    recognised: list[int]
    confidence: Tensor
    nearest: list[str]
    correlation: Tensor
    bar: Tensor
    held_out_recognised: float | None
    data: Data


@dataclass(eq=False)
class Reference:
    """The training images of a generator, and what judges its images by them. The copy detector of a user is made on
    first use, as its windows must go through the VAE."""
    config: Config
    data: Data
    evaluator: SampleEvaluator
    detectors: dict[int, CopyDetector] = field(default_factory=dict)      # by label

    @staticmethod
    def of(generator: ImageGenerator) -> "Reference":
        """Raises InputError or OSError when the training images are not at hand, or are others."""
        config = replace(generator.config, seed=generator.own_sampling["seed"])     # not one for sampling only
        data = training_data(config, generator.identity["split"])
        return Reference(config, data, open_sample_evaluator(config, data, generator.diffusion.device,
                                                             generator.vae.channels))

    def compare(self, made: Generated) -> Compared:
        """Judge images of the generator that this is the reference of."""
        legend, vae, device = made.generator.legend, made.generator.vae, made.generator.diffusion.device
        labels = torch.tensor([legend.labels[user] for user in made.users])
        probabilities = self.evaluator.probabilities(made.images)
        correlation, bar, nearest = torch.zeros(len(labels)), torch.zeros(len(labels)), [""] * len(labels)
        for user in dict.fromkeys(made.users):
            label = legend.labels[user]
            if label not in self.detectors:
                self.detectors[label] = open_copy_detector(self.config, self.data, vae, [label], device)
            own = (labels == label).nonzero()[:, 0]
            found = self.detectors[label].nearest(ImageSet(made.images[own], labels[own]))
            correlation[own], bar[own] = found.correlation, found.bar
            for place, index in zip(own.tolist(), found.index.tolist()):
                nearest[place] = self.data.split.train_images[user][index]
        confidence, recognised = probabilities.max(dim=1)
        return Compared([legend.users[label] for label in recognised.tolist()], confidence, nearest, correlation, bar,
                        self._held_out_recognised(labels), self.data)

    def _held_out_recognised(self, labels: Tensor) -> float | None:
        held_out = self.evaluator.held_out
        own = torch.isin(held_out.labels, labels) if held_out else torch.zeros(0, dtype=torch.bool)
        if held_out is None or not own.any():
            return None
        return recognised_by(self.evaluator.classifier, ImageSet(held_out.images[own], held_out.labels[own]))


@dataclass(frozen=True)
class Shown:
    """What a page shows: sentences, a picture of each image, a table with a row per image, and the images as an archive
    of the folder that generate.py would write."""
    sentences: list[str]
    pictures: list[Path]
    table: Table
    archive: Path


class Playground:
    """Generates images from the checkpoints of one training, and compares them with its training images.

    Everything that takes long, and that the next images need again, is kept.
    """

    def __init__(self, checkpoint: Path, folder: Path, device: str = "auto", vae_path: Path | None = None,
                 latents_cache_folder: Path | None = None):
        """checkpoint: a results folder, or a file; folder: gets the files of the latest images, and is emptied before;
        device, vae_path, latents_cache_folder: as of generate.py. Raises InputError when there is no checkpoint."""
        find_checkpoint(checkpoint)
        self.checkpoint, self.folder = checkpoint, folder
        self.device, self.vae_path, self.latents_cache_folder = choose_device(device), vae_path, latents_cache_folder
        self.processes = init_distributed(self.device)
        self._reference: tuple[dict, Reference] | None = None

    def checkpoints(self) -> list[Path]:
        """Those to choose from, as they are there now, and first the one that generate.py would take."""
        if not self.checkpoint.is_dir():
            return [self.checkpoint]
        exported = self.checkpoint / MODEL_FILE
        return [exported] * exported.is_file() + [milestone_path(self.checkpoint, milestone)
                                                  for milestone in reversed(list_milestones(self.checkpoint))]

    def own_constants(self, checkpoint: Path) -> tuple[Legend, Sampling]:
        """The users of a checkpoint, and its own constants of sampling. Raises InputError if it cannot be read."""
        content = load_checkpoint(checkpoint)
        config = config_of(content)
        return Legend.of(content.get("legend"), config.num_users, checkpoint), Sampling.of(config)

    def show(self, checkpoint: Path, users: Sequence[int], count: int, sampling: Sampling, is_compared: bool) -> Shown:
        """Generate `count` images of each of these users, and compare them if the training images are at hand.

        Raises InputError or OSError as generate.py does.
        """
        made = self.generate(checkpoint, users, count, sampling)
        sentences = [f"{len(made.names)} images of {checkpoint.name}, step {made.generator.identity['step']}."]
        compared = None
        if is_compared:
            try:
                compared = self._reference_of(made.generator).compare(made)
            except (InputError, OSError) as error:
                sentences.append(f"Not compared with the training images: {error}.")
        pictures, archive = self.folder / "pictures", self.folder / made.folder.name
        drawn = draw_pictures(made, compared, pictures)
        if len(drawn) < len(made.names):
            sentences.append(f"The pictures show the first {len(drawn) // len(set(made.users))} of each; the folder "
                             "has all.")
        return Shown([*sentences, *conclusions(made, compared)], drawn, table_of(made, compared),
                     Path(shutil.make_archive(str(archive), "zip", made.folder.parent, made.folder.name)))

    def generate(self, checkpoint: Path, users: Sequence[int], count: int, sampling: Sampling) -> Generated:
        """Generate images as generate.py does, with these constants of sampling."""
        if not users:
            raise InputError("no person is chosen; choose one or more")
        shutil.rmtree(self.folder, ignore_errors=True)
        folder = self.folder / f"synthetic_{checkpoint.stem}"
        generator = ImageGenerator.load(checkpoint, self.device, sampling, self.vae_path, self.latents_cache_folder)
        chosen = choose_users(False, tuple(users), generator.legend)
        names = generate_all(generator, chosen, count, folder, checkpoint, BATCH_SIZE, self.processes)
        images = load_images(folder, names, generator.config.image_size, channels=generator.vae.channels)
        return Generated(generator, folder, names, [user for user in chosen for _ in range(count)], images)

    def _reference_of(self, generator: ImageGenerator) -> Reference:
        """The reference, which all checkpoints of a training have in common."""
        key = {name: generator.identity[name] for name in ("split", "vae")}
        if self._reference is None or self._reference[0] != key:
            self._reference = key, Reference.of(generator)
        return self._reference[1]


def conclusions(made: Generated, compared: Compared | None) -> list[str]:
    """How many images are recognised, and how many are near-copies, in sentences."""
    if compared is None:
        return []
    right = sum(found == user for found, user in zip(compared.recognised, made.users))
    copies, total = int((compared.correlation >= compared.bar).sum()), len(made.users)
    held_out = compared.held_out_recognised
    return [f"Recognised as their person: {right} of {total}"
            + ("." if held_out is None else f"; of these persons' validation images, {held_out:.0%}."),
            f"Near-copies of a training image: {copies} of {total}."]


def table_of(made: Generated, compared: Compared | None) -> Table:
    """A row per image: its file and its person, and what the training images say of it."""
    names = made.generator.legend.names
    rows = [[name, names[user]] for name, user in zip(made.names, made.users)]
    if compared is None:
        return Table(["image", "person"], rows)
    return Table(["image", "person", "recognised as", "confidence", "nearest training image", "correlation",
                  "near-copy from"], [
        [*row, names[found], f"{confidence:.0%}", nearest, f"{correlation:.2f}", f"{bar:.2f}"]
        for row, found, confidence, nearest, correlation, bar in zip(
            rows, compared.recognised, compared.confidence.tolist(), compared.nearest, compared.correlation.tolist(),
            compared.bar.tolist())])


def draw_pictures(made: Generated, compared: Compared | None, folder: Path) -> list[Path]:
    """A picture of each image, beside its nearest training image if that is known, with what is known of it. Of each
    user the first images are drawn, so that there are about MOST_PICTURES. Returns the pictures, in `folder`."""
    legend, config = made.generator.legend, made.generator.config
    count = len(made.users) // len(set(made.users))
    shown = [i for i in range(len(made.users)) if i % count < max(1, MOST_PICTURES // len(set(made.users)))]
    nearest = load_images(compared.data.path, [compared.nearest[i] for i in shown], config.image_size,
                          channels=made.generator.vae.channels, preparation=compared.data.split.preparation
                          ) if compared else None
    paths = []
    for place, i in enumerate(Progress(shown, desc="drawing", unit="picture")):
        caption = [f"{legend.figure_names[made.users[i]]}, image {i % count + 1}"]
        images = [made.images[i]]
        if compared is not None and nearest is not None:
            caption += [f"recognised as {legend.figure_names[compared.recognised[i]]} ({compared.confidence[i]:.0%})",
                        f"correlation {compared.correlation[i]:.2f} (near-copy from {compared.bar[i]:.2f})"]
            images.append(nearest[place])
        paths.append(folder / f"{i + 1}.png")
        titles = ["generated", "nearest training image"][:len(images)]
        save_figure(image_grid([("", images)], titles, "\n".join(caption), legend.axes), paths[-1])
    return paths
