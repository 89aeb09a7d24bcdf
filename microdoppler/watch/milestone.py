"""Evaluation at a milestone of training: samples of some users, and metrics that take little time."""
from functools import cached_property
from typing import Any, Callable, Protocol, Sequence

import torch
from torch import Tensor

from groundwork.memory import AdaptiveBatches
from groundwork.seeding import seeded
from microdoppler.data.latents import LatentCache, LatentScaling
from microdoppler.fidelity.sample_evaluator import SampleEvaluator, sharpness
from microdoppler.study.arms import ImageSet


class Decoder(Protocol):
    """What this module needs of the VAE."""

    def decode_latents(self, latents: Tensor, seeds: Sequence[int], /) -> Tensor:
        """Scaled latents (b, c, h, w), and a seed of each one's speckle → images (b, 3 or 1, s, s) in [0, 1]."""


class Diffusion(Protocol):
    """What this module needs of the diffusion model. Its latents x are standardized, (b, c, h, w)."""

    @property
    def device(self) -> torch.device: ...

    def sample(self, classes: Tensor, /, *, generators: Sequence[torch.Generator], **guidance: Any) -> Tensor:
        """One latent per class and generator, for classes (b,) int64: (b, c, h, w)."""

    def random_loss_inputs(self, shape: Sequence[int], generator: torch.Generator, /) -> dict[str, Tensor]:
        """Everything random in the loss of a batch of this shape, by name: t, noise and drop_mask."""

    def __call__(self, x: Tensor, /, *, classes: Tensor, **draws: Tensor) -> Tensor:
        """The denoising loss of x, a scalar; classes: (b,) int64; draws: as `random_loss_inputs` returns them."""


def shown_labels(labels: Tensor, num_samples: int) -> Tensor:
    """The labels of the users that are sampled at milestones, (rows,) int64 in rising order: spread over all users, and
    about as many as samples of each. labels: (n,) int64, of all training latents."""
    users = labels.unique()
    rows = min(len(users), round(num_samples ** 0.5))
    return users[torch.linspace(0, len(users) - 1, rows).round().long()]


class MilestoneWatcher:
    """Samples the same users, `labels`, at every milestone.

    The figures are those of samples from other noise at each milestone, so that those of several milestones are
    independent. Beside them the picture shows, for each user, one sample from the same noise every time.

    diffusion: the model with averaged weights; cache: the training latents; scaling: standardizes latents for the
    diffusion model; windows: gives the images, (n, c, s, s) uint8, that the latents at indices (n,) were encoded from;
    evaluator: judges decoded samples; num_samples: number of samples that the figures are of, shared evenly among these
    users and rounded down; guidance: keyword arguments of diffusion.sample.
    """

    def __init__(self, diffusion: Diffusion, vae: Decoder, cache: LatentCache, scaling: LatentScaling,
                 windows: Callable[[Tensor], Tensor], evaluator: SampleEvaluator, *, num_samples: int, guidance: dict,
                 seed: int):
        self.diffusion, self.vae, self.cache, self.scaling = diffusion, vae, cache, scaling
        self.windows, self.evaluator = windows, evaluator
        self.guidance, self.seed = guidance, seed
        chosen = shown_labels(cache.labels, num_samples)
        self.labels = chosen.tolist()
        self.classes = chosen.repeat_interleave(max(1, num_samples // len(chosen)))

    def evaluate(self, step: int) -> tuple[dict[int, Tensor], Tensor, dict[str, float]]:
        """Generate and measure the n samples of this step. Returns the images, {label: (1 + n / users, 3 or 1, s, s)
        uint8 on the CPU}, the one from the same noise first; the standardized latents (n, c, h, w) of the others; and
        the metrics: num_samples, which is n; class_gain; sharpness and sharpness_to_images, relative to training images
        after the VAE and before it; those of SampleEvaluator.evaluate; and those of its yardstick, as held_out_…."""
        same = [seeded(self.seed, label) for label in self.labels]
        other = [seeded(self.seed, step, number) for number in range(len(self.classes))]
        classes = torch.cat([torch.tensor(self.labels), self.classes])
        latents = AdaptiveBatches(len(classes), "sample").map(self._sample, classes, same + other)
        decoded = self._decode(latents)
        images, of_same_noise = decoded[len(same):], decoded[:len(same)]
        after_vae, before_vae = self._sharpness_of_training
        own = sharpness(images).mean().item()
        metrics = {"num_samples": len(images),
                   "class_gain": class_gain(self.diffusion, self._means, self.cache.labels, seed=self.seed),
                   "sharpness": own / after_vae, "sharpness_to_images": own / before_vae,
                   **self.evaluator.evaluate(ImageSet(images, self.classes)), **self._yardstick}
        shown = {label: torch.cat([of_same_noise[place:place + 1], images[self.classes == label]])
                 for place, label in enumerate(self.labels)}
        return shown, latents[len(same):], metrics

    def _sample(self, classes: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Standardized latents (b, c, h, w) of these classes (b,), a generator for each."""
        return self.diffusion.sample(classes.to(self.diffusion.device), generators=generators, **self.guidance)

    @cached_property
    def _yardstick(self) -> dict[str, float]:
        """What the metrics of samples are compared with, by the names that they have in metrics.jsonl."""
        return {f"held_out_{name}": value for name, value in self.evaluator.yardstick(self.labels).items()}

    @cached_property
    def _sharpness_of_training(self) -> tuple[float, float]:
        """The sharpness of training images of these users, after the VAE and before it."""
        indices = self._training_indices()
        after, before = (sharpness(images).mean().item()
                         for images in (self._decode(self._means(indices)), self.windows(indices)))
        return after, before

    def _means(self, indices: Tensor) -> Tensor:
        """Standardized posterior means of the training images at indices (b,): (b, c, h, w)."""
        return self.scaling.standardize(self.cache.scaled_means(indices))

    def _training_indices(self) -> Tensor:
        """As many training latents of each user as there are samples of it, spread over the recordings: (n,) int64."""
        chosen = []
        for label in self.classes.unique():
            indices = (self.cache.labels == label).nonzero().flatten()
            count = int((self.classes == label).sum())
            chosen.append(indices[torch.linspace(0, len(indices) - 1, count).long()])
        return torch.cat(chosen)

    @torch.inference_mode()
    def _decode(self, latents: Tensor) -> Tensor:
        """The images of standardized latents (n, c, h, w): (n, 3 or 1, s, s) uint8 on the CPU."""
        def decode(part: Tensor, seeds: Sequence[int]) -> Tensor:
            return self.vae.decode_latents(self.scaling.restore(part.to(self.diffusion.device)), seeds)
        return (AdaptiveBatches(4, "image").map(decode, latents, range(len(latents))) * 255).round().byte().cpu()


@torch.inference_mode()
def class_gain(diffusion: Diffusion, latents: Callable[[Tensor], Tensor], labels: Tensor, *, seed: int,
               most: int = 64) -> float:
    """loss(wrong user) / loss(right user) - 1 of the denoising loss; about 0 means that the network ignores the user.

    Both losses use the same latents, timesteps and noise. latents: indices (b,) → standardized latents (b, c, h, w);
    labels: (n,) int64, of all latents; most: number of latents used, chosen at random. Returns 0 for a single user.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(labels), generator=generator)[:most]
    x, right, users = latents(chosen).to(diffusion.device), labels[chosen], labels.unique()
    if len(users) < 2:
        return 0.0
    shift = torch.randint(1, len(users), right.shape, generator=generator)
    wrong = users[(torch.searchsorted(users, right) + shift) % len(users)]
    draws = {name: value.to(diffusion.device)
             for name, value in diffusion.random_loss_inputs(x.shape, generator).items()}
    draws["drop_mask"] = torch.zeros_like(draws["drop_mask"])
    loss = {name: diffusion(x, classes=classes.to(diffusion.device), **draws).item()
            for name, classes in (("right", right), ("wrong", wrong))}
    return loss["wrong"] / loss["right"] - 1

