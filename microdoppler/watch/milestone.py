"""Evaluation at a milestone of training: samples of some users, and metrics that take little time."""
from typing import Any, Callable, Protocol, Sequence

import torch
from torch import Tensor

from groundwork.memory import AdaptiveBatches
from microdoppler.data.latents import LatentCache, LatentScaling
from microdoppler.fidelity.sample_evaluator import SampleEvaluator
from microdoppler.study.arms import ImageSet


class Decoder(Protocol):
    """What this module needs of the VAE."""

    def decode_latents(self, latents: Tensor, /) -> Tensor:
        """Scaled latents (b, c, h, w) → images (b, 3 or 1, s, s) in [0, 1]."""


class Diffusion(Protocol):
    """What this module needs of the diffusion model. Its latents x are standardized, (b, c, h, w)."""

    @property
    def device(self) -> torch.device: ...

    def sample(self, classes: Tensor, /, *, generators: torch.Generator, **guidance: Any) -> Tensor:
        """One latent per class, for classes (b,) int64: (b, c, h, w)."""

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
    """Samples the same users, `labels`, from the same noise at every milestone, so that their pictures can be compared.

    diffusion: the model with averaged weights; cache: the training latents; scaling: standardizes latents for the
    diffusion model; evaluator: judges decoded samples; num_samples: number of images, shared evenly among these
    users and rounded down; guidance: keyword arguments of diffusion.sample.
    """

    def __init__(self, diffusion: Diffusion, vae: Decoder, cache: LatentCache, scaling: LatentScaling,
                 evaluator: SampleEvaluator, *, num_samples: int, guidance: dict, seed: int):
        self.diffusion, self.vae, self.cache, self.scaling = diffusion, vae, cache, scaling
        self.evaluator = evaluator
        self.guidance, self.seed = guidance, seed
        chosen = shown_labels(cache.labels, num_samples)
        self.labels = chosen.tolist()
        self.classes = chosen.repeat_interleave(max(1, num_samples // len(chosen)))

    def evaluate(self) -> tuple[dict[int, Tensor], Tensor, dict[str, float]]:
        """Generate and measure the n samples. Returns the images, {label: (n / users, 3 or 1, s, s) uint8 on the CPU};
        their standardized latents (n, c, h, w); and the metrics: class_gain, sharpness (relative to training
        images that went through the VAE; 1 is right), and those of SampleEvaluator.evaluate."""
        generator = torch.Generator().manual_seed(self.seed)
        classes = self.classes.to(self.diffusion.device)
        latents = self.diffusion.sample(classes, generators=generator, **self.guidance)
        images = self._decode(latents)
        metrics = {"class_gain": class_gain(self.diffusion, self._means, self.cache.labels, seed=self.seed),
                   "sharpness": sharpness(images) / sharpness(self._decode(self._means(self._training_indices())))}
        images = (images * 255).round().byte().cpu()
        metrics |= self.evaluator.evaluate(ImageSet(images, self.classes))
        return {label: images[self.classes == label] for label in self.labels}, latents, metrics

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
        def decode(part: Tensor) -> Tensor:
            return self.vae.decode_latents(self.scaling.restore(part.to(self.diffusion.device)))
        return AdaptiveBatches(4, "image").map(decode, latents)


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


def sharpness(images: Tensor) -> float:
    """Mean absolute difference of neighbouring pixels; images: (n, channels, h, w) in [0, 1]."""
    return ((images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean()) / 2).item()
