"""What is timed, a function each: (seconds of ours, seconds of the reference), medians; and its arithmetic."""
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from benchmarks import reference
from benchmarks.measure import alternate
from microdoppler.pipeline.synthetic_folder import draw_missing
from groundwork.images import load_image, load_images, save_image
from groundwork.memory import keep_freed_memory
from microdoppler.data.latents import LatentCache, LatentScaling, load_or_encode
from microdoppler.data.spectrograms import find_users, labels_of
from microdoppler.data.stitching import Cut
from microdoppler.figures.legend import Legend
from microdoppler.pipeline.assembly import build_diffusion, build_trainer
from microdoppler.pipeline.generation import ImageGenerator
from microdoppler.study.arms import Arm, ImageSet
from microdoppler.study.classifier import train_classifier
from train_latent_cfg import Config
from vae.kl_vae import KL_VAE


@dataclass(frozen=True)
class Bench:
    """What the rows share. data: simulated spectrograms, ID_<n>/*.jpg; scratch: a folder to write to; vae: of the full
    size, with made-up weights, which take as long as trained ones."""
    config: Config
    device: torch.device
    repeats: int
    quick: bool
    data: Path
    scratch: Path
    vae: KL_VAE

    def alternate(self, ours: Callable[[], object], theirs: Callable[[], object], count: int) -> tuple[float, float]:
        """Seconds of each, by the number of units that a call takes care of; the reference's with memory as it would
        find it."""
        def undisturbed() -> None:
            keep_freed_memory(False)
            try:
                theirs()
            finally:
                keep_freed_memory(self.device.type == "cpu")
        seconds, reference_seconds = alternate(ours, undisturbed, repeats=self.repeats, device=self.device)
        return seconds / count, reference_seconds / count


def made_up_cache(config: Config, num_latents: int = 1550) -> LatentCache:
    shape = (num_latents, 2, config.latent_channels, config.latent_size, config.latent_size)
    posteriors = np.random.default_rng(0).standard_normal(shape, dtype=np.float32).astype(np.float16)
    posteriors[:, 1] -= 6
    return LatentCache(posteriors, torch.arange(num_latents) % config.num_users, 0.18215)


def training_step(bench: Bench) -> tuple[float, float]:
    config, cache = bench.config, made_up_cache(bench.config)
    ours = build_trainer(config, build_diffusion(config), cache,
                         cache.statistics.scaling(config.standardize_latents), bench.device)
    every = torch.arange(len(cache))
    theirs = reference.Training(config, (cache.scaled_means(every) + 1) / 2, cache.labels, bench.device)
    steps = 10 if bench.device.type == "cpu" else 200       # the averages are updated every tenth
    if bench.quick:
        steps = 2

    def run(step: Callable[[], object]) -> None:
        for _ in range(steps):
            step()
    return bench.alternate(lambda: run(ours.train_step), lambda: run(theirs.step), steps)


def gflop(function: Callable[[], object]) -> float:
    """The multiplications and additions of matrix products and convolutions in a call, in 10^9."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() / 1e9


def unet_gflop(bench: Bench) -> float:
    """Of one image through the reference's network."""
    config = bench.config
    unet = reference.build_diffusion(config, torch.device("cpu")).model.eval()
    x = torch.zeros(1, config.latent_channels, config.latent_size, config.latent_size)
    none = torch.zeros(1, dtype=torch.int64)
    return gflop(lambda: unet(x, none, none, cond_drop_prob=0.0))


def training_gflop(bench: Bench) -> float:
    """The gradients of inputs and weights take as much as the forward pass each."""
    return 3 * bench.config.train_batch_size * bench.config.gradient_accumulate_every * unet_gflop(bench)


def drawing_gflop(bench: Bench) -> float:
    """Of an image as ours is drawn: with class and without in every step."""
    return 2 * bench.config.sampling_timesteps * unet_gflop(bench)


def decoding_gflop(bench: Bench) -> float:
    config = bench.config
    latent = torch.zeros(1, config.latent_channels, config.latent_size, config.latent_size)
    return gflop(lambda: reference.PlainVAE(bench.vae).decode(latent[0].to(bench.device)))


def encoding_gflop(bench: Bench) -> float:
    side = bench.config.image_size
    return gflop(lambda: reference.PlainVAE(bench.vae).encode(torch.zeros(3, side, side, device=bench.device)))


def classifier_gflop(bench: Bench) -> float:
    side = bench.config.classifier_image_size
    image = torch.zeros(1, 3, side, side)
    return 3 * bench.config.classifier_batch_size * gflop(lambda: models.resnet18(weights=None).eval()(image))


def difference_from_reference(config: Config) -> float:
    """||ours - theirs|| / ||theirs|| of the outputs of both networks with the same weights, for the same input."""
    ours, theirs = build_diffusion(config).model.eval(), reference.build_diffusion(config, torch.device("cpu")).model
    theirs.load_state_dict(ours.state_dict())
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, config.latent_channels, config.latent_size, config.latent_size, generator=generator)
    t, classes = torch.tensor([0, 10, 500, 999]), torch.arange(4)
    with torch.inference_mode():
        expected = theirs.eval()(x, t, classes, cond_drop_prob=0.0)
        return ((ours(x, t, classes) - expected).norm() / expected.norm()).item()


def _generators(bench: Bench) -> tuple[ImageGenerator, Any]:
    config = bench.config
    ours = ImageGenerator(config, build_diffusion(config).to(bench.device).eval(), bench.vae,
                          LatentScaling.identity(config.latent_channels), {}, None,
                          Legend.of(None, config.num_users, bench.scratch))
    return ours, reference.build_diffusion(config, bench.device).eval()


def _drawn_at_once(bench: Bench) -> int:
    return 64 if bench.device.type == "cuda" else 1 if bench.quick else 4


def drawing_latents(bench: Bench) -> tuple[float, float]:
    ours, theirs = _generators(bench)
    count = _drawn_at_once(bench)
    classes = torch.arange(count, device=bench.device) % bench.config.num_users
    return bench.alternate(lambda: ours.draw_latents((classes + 1).tolist(), list(range(count))),
                           lambda: theirs.sample(classes, cond_scale=6.0), count)


def generating_images(bench: Bench) -> tuple[float, float]:
    """From noise to PNG; the reference decodes and writes one image after the other."""
    ours, theirs = _generators(bench)
    count = _drawn_at_once(bench)
    classes = torch.arange(count, device=bench.device) % bench.config.num_users
    wanted, plain_vae = {f"{i}.png": (1 + int(classes[i]), i) for i in range(count)}, reference.PlainVAE(bench.vae)

    def reference_way() -> None:
        for i, latent in enumerate(theirs.sample(classes, cond_scale=6.0)):
            image = plain_vae.decode(latent)
            save_image(bench.scratch / f"reference-{i}.png", (image * 255).byte().permute(1, 2, 0).cpu().numpy())
    return bench.alternate(lambda: draw_missing(ours, wanted, bench.scratch, count, is_heard=False), reference_way,
                           count)


def encoding(bench: Bench) -> tuple[float, float]:
    """From image files to posteriors; the reference reads and encodes one image after the other."""
    count = 64 if bench.device.type == "cuda" else 2 if bench.quick else 8
    paths = labels_of(find_users(bench.data, bench.config.num_users))[0][:count]
    labels, plain_vae = torch.zeros(count, dtype=torch.int64), reference.PlainVAE(bench.vae)

    def reference_way() -> None:
        for path in paths:
            image = torch.from_numpy(load_image(bench.data / path, bench.config.image_size).copy()).permute(2, 0, 1)
            torch.save(plain_vae.encode(image.to(bench.device).float() / 255).cpu(), bench.scratch / "latent.pt")

    def ours() -> None:
        (bench.scratch / "latents.json").unlink(missing_ok=True)
        load_or_encode(bench.vae, bench.data, [Cut(path) for path in paths], labels, device=bench.device,
                       image_size=bench.config.image_size, folder=bench.scratch, batch_size=bench.config.vae_batch_size)
    return bench.alternate(ours, reference_way, count)


def classifier(bench: Bench) -> tuple[float, float]:
    """One training of the study; reading the images, which serves all runs of ours, is part of none of them."""
    config, steps = bench.config, 3 if bench.quick else 10 if bench.device.type == "cpu" else 200
    paths, labels = labels_of(find_users(bench.data, config.num_users))
    real = ImageSet(load_images(bench.data, paths, config.classifier_image_size), labels)
    theirs = reference.Classification(bench.data, config.classifier_image_size, config.classifier_batch_size,
                                      config.classifier_lr, bench.device)

    def ours() -> None:
        train_classifier(Arm("real only", real).batches(steps, config.classifier_batch_size, (0, 0), seed=0),
                         num_classes=config.num_users, num_steps=steps, lr=config.classifier_lr, seed=0,
                         device=bench.device)
    return bench.alternate(ours, lambda: theirs.run(steps), steps)


@dataclass(frozen=True)
class Row:
    """measure: (seconds of ours, seconds of the reference) per `unit`; gflop: the arithmetic of ours, as direct
    convolutions, per unit; at_least and aim: ratios of the two times on (CPU, CUDA)."""
    unit: str
    measure: Callable[[Bench], tuple[float, float]]
    gflop: Callable[[Bench], float]
    at_least: tuple[float, float]
    aim: tuple[float, float]


ROWS = {
    "training step": Row("step", training_step, training_gflop, (1.7, 5), (2.3, 15)),
    "drawing latents": Row("image", drawing_latents, drawing_gflop, (12, 12), (25, 25)),
    "generating images": Row("image", generating_images, lambda bench: drawing_gflop(bench) + decoding_gflop(bench),
                             (12, 12), (25, 25)),
    "encoding the data set": Row("image", encoding, encoding_gflop, (1.3, 8), (1.6, 20)),
    "classifier": Row("step", classifier, classifier_gflop, (2, 2), (4, 4)),
}
