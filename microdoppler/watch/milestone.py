"""Evaluation at a milestone of training: samples of some users, and metrics that take little time."""
from functools import cached_property
from typing import Any, Callable, Protocol, Sequence

import torch
from torch import Tensor

from groundwork.memory import AdaptiveBatches
from groundwork.seeding import seeded
from microdoppler.data.latents import LatentCache, LatentScaling
from microdoppler.fidelity.sample_evaluator import SampleEvaluator
from microdoppler.fidelity.texture import compare_texture
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
    held_out: real images of these users that were not trained on, as large as the samples; None without any;
    evaluator: judges decoded samples; num_samples: number of samples that the figures are of, shared evenly among these
    users and rounded down; guidance: keyword arguments of diffusion.sample.
    """

    def __init__(self, diffusion: Diffusion, vae: Decoder, cache: LatentCache, scaling: LatentScaling,
                 windows: Callable[[Tensor], Tensor], held_out: ImageSet | None, evaluator: SampleEvaluator, *,
                 num_samples: int, guidance: dict, seed: int):
        self.diffusion, self.vae, self.cache, self.scaling = diffusion, vae, cache, scaling
        self.windows, self.held_out, self.evaluator = windows, held_out, evaluator
        self.guidance, self.seed = guidance, seed
        chosen = shown_labels(cache.labels, num_samples)
        self.labels = chosen.tolist()
        self.classes = chosen.repeat_interleave(max(1, num_samples // len(chosen)))

    def evaluate(self, step: int) -> tuple[dict[int, Tensor], Tensor, dict[str, float]]:
        """Generate and measure the n samples of this step. Returns the images, {label: (1 + n / users, 3 or 1, s, s)
        uint8 on the CPU}, the one from the same noise first; the standardized latents (n, c, h, w) of the others; and
        the metrics: num_samples, which is n; class_gain; those of compare_texture, beside training images before the
        VAE, and speckle_of_vae, these after it; those of SampleEvaluator.evaluate; and those of held-out real images,
        as held_out_…."""
        same = [seeded(self.seed, label) for label in self.labels]
        other = [seeded(self.seed, step, number) for number in range(len(self.classes))]
        classes = torch.cat([torch.tensor(self.labels), self.classes])
        latents = AdaptiveBatches(len(classes), "sample").map(self._sample, classes, same + other)
        decoded = self._decode(latents)
        images, of_same_noise = decoded[len(same):], decoded[:len(same)]
        metrics = {"num_samples": len(images),
                   "class_gain": class_gain(self.diffusion, self._means, self.cache.labels, seed=self.seed),
                   **compare_texture(images, self._training), "speckle_of_vae": self._speckle_of_vae,
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
        values = self.evaluator.yardstick(self.labels)
        if self.held_out is not None:
            chosen = _as_many_of_each(self.held_out.labels, self.classes)
            values |= compare_texture(self.held_out.images[chosen], self._training)
        return {f"held_out_{name}": value for name, value in values.items()}

    @cached_property
    def _training(self) -> Tensor:
        """Training images of these users before the VAE, (n, 3 or 1, s, s) uint8."""
        return self.windows(self._training_indices())

    @cached_property
    def _speckle_of_vae(self) -> float:
        """The speckle contrast of the same images after the VAE, by that before it."""
        return compare_texture(self._decode(self._means(self._training_indices())), self._training)["speckle"]

    def _means(self, indices: Tensor) -> Tensor:
        """Standardized posterior means of the training images at indices (b,): (b, c, h, w)."""
        return self.scaling.standardize(self.cache.scaled_means(indices))

    def _training_indices(self) -> Tensor:
        """As many training latents of each user as there are samples of it, spread over the recordings: (n,) int64."""
        return _as_many_of_each(self.cache.labels, self.classes)

    @torch.inference_mode()
    def _decode(self, latents: Tensor) -> Tensor:
        """The images of standardized latents (n, c, h, w): (n, 3 or 1, s, s) uint8 on the CPU."""
        def decode(part: Tensor, seeds: Sequence[int]) -> Tensor:
            return self.vae.decode_latents(self.scaling.restore(part.to(self.diffusion.device)), seeds)
        return (AdaptiveBatches(4, "image").map(decode, latents, range(len(latents))) * 255).round().byte().cpu()


def _as_many_of_each(labels: Tensor, classes: Tensor) -> Tensor:
    """The places of as many of the labels (m,) as there are of each in `classes`, spread evenly: (n,) int64. Of a label
    that has fewer, some come several times."""
    chosen = []
    for label in classes.unique():
        own = (labels == label).nonzero().flatten()
        if len(own):
            chosen.append(own[torch.linspace(0, len(own) - 1, int((classes == label).sum())).long()])
    return torch.cat(chosen)


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

