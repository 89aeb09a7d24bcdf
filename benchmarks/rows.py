"""The rows of the benchmark. One function times ours and the references; another counts the arithmetic."""
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Callable, Mapping

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from benchmarks import reference
from benchmarks.measure import alternate
from groundwork.images import load_image, load_images, save_image
from groundwork.memory import keep_freed_memory
from groundwork.progress import Progress
from microdoppler.data.latents import LatentCache, LatentScaling, load_or_encode
from microdoppler.data.spectrograms import find_classes, find_images, paths_and_labels
from microdoppler.data.stitching import Cut
from microdoppler.figures.legend import Legend
from microdoppler.pipeline.assembly import build_diffusion, build_trainer
from microdoppler.pipeline.generation import ImageGenerator, Sampling, ready_to_sample
from microdoppler.pipeline.image_folder import write_images
from microdoppler.pipeline.synthetic_folder import sample
from microdoppler.study.arms import Arm, ImageSet
from microdoppler.study.classifier import train_classifier
from microdoppler.study.kinds import KINDS
from microdoppler.study.networks import plan_network
from microdoppler.study.recipe import Recipe
from train_latent_cfg import Config
from vae.kl_vae import KL_VAE, SCALE_FACTOR


USUAL_CODE = "usual code"       # the reference's name where denoising-diffusion-pytorch has no part
Seconds = tuple[float, dict[str, float]]        # of ours, and of each reference by its name


@dataclass(frozen=True)
class Bench:
    """What the rows have in common."""
    config: Config
    device: torch.device
    repeats: int        # timed calls of each function
    quick: bool
    data: Path          # folder of simulated spectrograms, ID_<n>/*.jpg
    scratch: Path       # folder to write to
    vae: KL_VAE         # of full size, with random weights, which take as long as trained ones

    def alternate(self, ours: Callable[[], object], theirs: Mapping[str, Callable[[], object]], count: int) -> Seconds:
        """The median seconds per unit of ours and of each reference; count: units per call. While a reference runs,
        memory allocation is as without this project (keep_freed_memory off)."""
        def with_default_memory(function: Callable[[], object]) -> None:
            keep_freed_memory(False)
            try:
                function()
            finally:
                keep_freed_memory(self.device.type == "cpu")
        seconds = alternate(ours, *(partial(with_default_memory, function) for function in theirs.values()),
                            repeats=self.repeats, device=self.device)
        own, *others = (value / count for value in seconds)
        return own, dict(zip(theirs, others))


def random_cache(config: Config, num_latents: int = 1550) -> LatentCache:
    """A latent cache of random posteriors."""
    shape = (num_latents, 2, config.latent_channels, config.latent_size, config.latent_size)
    posteriors = np.random.default_rng(0).standard_normal(shape, dtype=np.float32).astype(np.float16)
    posteriors[:, 1] -= 6
    return LatentCache(posteriors, torch.arange(num_latents) % config.num_users, SCALE_FACTOR)


def training_step(bench: Bench) -> Seconds:
    """One optimisation step on random latents."""
    config, cache = bench.config, random_cache(bench.config)
    ours = build_trainer(config, build_diffusion(config), cache,
                         cache.statistics.scaling(config.standardize_latents), bench.device)
    every = torch.arange(len(cache))
    latents = (cache.scaled_means(every) + 1) / 2
    theirs = {version: reference.Training(config, latents, cache.labels, bench.device, version)
              for version in reference.VERSIONS}
    steps = 10 if bench.device.type == "cpu" else 200       # EMA updates every tenth step
    if bench.quick:
        steps = 2

    def run(step: Callable[[], object]) -> None:
        for _ in range(steps):
            step()
    return bench.alternate(partial(run, ours.train_step), {version: partial(run, training.step)
                                                           for version, training in theirs.items()}, steps)


def gflop(function: Callable[[], object]) -> float:
    """The multiplications and additions in the matrix products and convolutions of a call, in 10^9."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() / 1e9


def unet_gflop(bench: Bench) -> float:
    """GFLOP of the reference's network for one image."""
    config = bench.config
    unet = reference.build_diffusion(config, torch.device("cpu")).model.eval()
    x = torch.zeros(1, config.latent_channels, config.latent_size, config.latent_size)
    none = torch.zeros(1, dtype=torch.int64)
    return gflop(lambda: unet(x, none, none, cond_drop_prob=0.0))


def training_gflop(bench: Bench) -> float:
    """GFLOP of a training step. The gradients of inputs and of weights take as much as the forward pass each."""
    return 3 * bench.config.train_batch_size * bench.config.gradient_accumulate_every * unet_gflop(bench)


def sampling_gflop(bench: Bench) -> float:
    """GFLOP to sample one latent as ours does: a conditional and an unconditional pass in every step."""
    return 2 * bench.config.sampling_timesteps * unet_gflop(bench)


def decoding_gflop(bench: Bench) -> float:
    """GFLOP of the VAE to decode one latent."""
    config = bench.config
    latent = torch.zeros(1, config.latent_channels, config.latent_size, config.latent_size)
    return gflop(lambda: reference.PlainVAE(bench.vae).decode(latent[0].to(bench.device)))


def encoding_gflop(bench: Bench) -> float:
    """GFLOP of the VAE to encode one image."""
    side = bench.config.image_size
    return gflop(lambda: reference.PlainVAE(bench.vae).encode(torch.zeros(3, side, side, device=bench.device)))


def classifier_gflop(bench: Bench) -> float:
    """GFLOP of a training step of the classifier."""
    side = bench.config.classifier_image_size
    image = torch.zeros(1, 3, side, side)
    return 3 * bench.config.classifier_batch_size * gflop(lambda: models.resnet18(weights=None).eval()(image))


def difference_from_reference(config: Config, version: str) -> float:
    """||ours - theirs|| / ||theirs||, where these are the outputs of both networks with equal weights for one input."""
    ours = build_diffusion(config).model.eval()
    theirs = reference.build_diffusion(config, torch.device("cpu"), version).model
    theirs.load_state_dict(ours.state_dict())
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, config.latent_channels, config.latent_size, config.latent_size, generator=generator)
    t, classes = torch.tensor([0, 10, 500, 999]), torch.arange(4)
    with torch.inference_mode():
        expected = theirs.eval()(x, t, classes, cond_drop_prob=0.0)
        return ((ours(x, t, classes) - expected).norm() / expected.norm()).item()


def _generators(bench: Bench) -> tuple[ImageGenerator, dict[str, Any]]:
    """Our ImageGenerator and the GaussianDiffusion of each reference, with random weights."""
    config = bench.config
    ours = ImageGenerator(config, ready_to_sample(build_diffusion(config), config.amp, bench.device), bench.vae,
                          LatentScaling.identity(config.latent_channels), {}, None,
                          Legend.of(None, config.num_users, bench.scratch), Sampling.constants_of(config))
    return ours, {version: reference.build_diffusion(config, bench.device, version).eval()
                  for version in reference.VERSIONS}


def _images_at_once(bench: Bench) -> int:
    """Images that are sampled in one batch."""
    return 64 if bench.device.type == "cuda" else 1 if bench.quick else 4


def sampling_latents(bench: Bench) -> Seconds:
    """From noise to latents, each with its own sampler."""
    ours, theirs = _generators(bench)
    count = _images_at_once(bench)
    classes = torch.arange(count, device=bench.device) % bench.config.num_users
    return bench.alternate(lambda: ours.sample_latents((classes + 1).tolist(), list(range(count))),
                           {version: partial(diffusion.sample, classes, cond_scale=6.0)
                            for version, diffusion in theirs.items()}, count)


def generating_images(bench: Bench) -> Seconds:
    """From noise to PNG files. The reference decodes and writes one image after the other."""
    ours, theirs = _generators(bench)
    count = _images_at_once(bench)
    classes = torch.arange(count, device=bench.device) % bench.config.num_users
    wanted = {f"{i}.png": {"user": 1 + int(classes[i]), "seed": i} for i in range(count)}
    plain_vae = reference.PlainVAE(bench.vae)

    def theirs_with_files(diffusion: Any) -> None:
        for i, latent in enumerate(diffusion.sample(classes, cond_scale=6.0)):
            image = plain_vae.decode(latent)
            save_image(bench.scratch / f"reference-{i}.png", (image * 255).byte().permute(1, 2, 0).cpu().numpy())
    return bench.alternate(lambda: write_images(bench.scratch, wanted, lambda entries: sample(ours, entries), count,
                                                Progress(total=count, hidden=True)),
                           {version: partial(theirs_with_files, diffusion) for version, diffusion in theirs.items()},
                           count)


def encoding(bench: Bench) -> Seconds:
    """From image files to posteriors. The reference reads and encodes one image after the other."""
    count = 64 if bench.device.type == "cuda" else 2 if bench.quick else 8
    paths = paths_and_labels(find_images(bench.data, find_classes(bench.data)))[0][:count]
    labels, plain_vae = torch.zeros(count, dtype=torch.int64), reference.PlainVAE(bench.vae)

    def theirs_with_files() -> None:
        for path in paths:
            image = torch.from_numpy(load_image(bench.data / path, bench.config.image_size).copy()).permute(2, 0, 1)
            torch.save(plain_vae.encode(image.to(bench.device).float() / 255).cpu(), bench.scratch / "latent.pt")

    def ours() -> None:
        (bench.scratch / "latents.json").unlink(missing_ok=True)
        load_or_encode(bench.vae, bench.data, [Cut(path) for path in paths], labels, device=bench.device,
                       image_size=bench.config.image_size, folder=bench.scratch, batch_size=bench.config.vae_batch_size)
    return bench.alternate(ours, {USUAL_CODE: theirs_with_files}, count)


def classifier(bench: Bench) -> Seconds:
    """Training steps of one classifier of the study. Ours reads the images once for all runs, which is not timed."""
    config, steps = bench.config, 10 if bench.device.type == "cpu" else 200     # the network is built in the first
    paths, labels = paths_and_labels(find_images(bench.data, find_classes(bench.data)))
    real = ImageSet(load_images(bench.data, paths, config.classifier_image_size), labels)
    theirs = reference.Classification(bench.data, config.classifier_image_size, config.classifier_batch_size,
                                      config.classifier_lr, bench.device)

    def ours() -> None:
        recipe = Recipe(epochs=steps * config.classifier_batch_size, batch_size=config.classifier_batch_size,
                        lr=config.classifier_lr)     # more than enough steps
        batches = Arm(KINDS["real only"], real).batches(recipe, config.num_users, 0, bench.device)
        train_classifier(islice(batches, steps), network=plan_network("resnet18", config.classifier_image_size),
                         num_classes=config.num_users, num_steps=steps, lr=recipe.lr, seed=0, device=bench.device)
    return bench.alternate(ours, {USUAL_CODE: partial(theirs.run, steps)}, steps)


@dataclass(frozen=True)
class Row:
    """One row of the benchmark."""
    unit: str                                           # step or image
    measure: Callable[[Bench], Seconds]                 # per unit
    gflop: Callable[[Bench], float]                     # arithmetic of ours per unit
    at_least: tuple[float, float]                       # required time of the reference / time of ours on (CPU, CUDA)
    aim: tuple[float, float]                            # the ratio aimed at on (CPU, CUDA)


ROWS = {
    "training step": Row("step", training_step, training_gflop, (1.7, 15), (2.3, 15)),
    "drawing latents": Row("image", sampling_latents, sampling_gflop, (12, 12), (25, 25)),
    "generating images": Row("image", generating_images, lambda bench: sampling_gflop(bench) + decoding_gflop(bench),
                             (12, 12), (25, 25)),
    "encoding the data set": Row("image", encoding, encoding_gflop, (1.3, 8), (1.6, 20)),
    "classifier": Row("step", classifier, classifier_gflop, (2, 2), (4, 4)),
}
