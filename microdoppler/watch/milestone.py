"""What to look at when training reaches a milestone: samples of some users, and cheap figures of their health."""
from typing import Any, Callable, Protocol, Sequence

import torch
from torch import Tensor

from groundwork.memory import AdaptiveBatches
from microdoppler.data.latents import LatentCache, LatentScaling
from microdoppler.fidelity.sample_evaluator import SampleEvaluator
from microdoppler.study.arms import ImageSet


class Decoder(Protocol):
    def decode_latents(self, latents: Tensor, /) -> Tensor:
        """Scaled latents (b, c, h, w) → images (b, 3, s, s) in [0, 1]."""


class Diffusion(Protocol):
    """Of standardized latents (b, c, h, w)."""

    @property
    def device(self) -> torch.device: ...

    def sample(self, classes: Tensor, /, *, generators: torch.Generator, **guidance: Any) -> Tensor:
        """Latents of classes (b,)."""

    def draw(self, shape: Sequence[int], generator: torch.Generator, /) -> dict[str, Tensor]:
        """All that is random in the loss of a batch of this shape."""

    def __call__(self, x: Tensor, /, *, classes: Tensor, **draws: Tensor) -> Tensor:
        """The loss."""


class MilestoneWatcher:
    """Draws the same users from the same noise at every milestone, so that pictures can be compared through time.

    diffusion: the averaged model; cache: the training latents; scaling: from these to the diffusion's; evaluator: of
    decoded samples; num_samples: images in all, spread over `users` (rows); guidance: for sample().
    """

    def __init__(self, diffusion: Diffusion, vae: Decoder, cache: LatentCache, scaling: LatentScaling,
                 evaluator: SampleEvaluator, *, num_samples: int, guidance: dict, seed: int):
        self.diffusion, self.vae, self.cache, self.scaling = diffusion, vae, cache, scaling
        self.evaluator = evaluator
        self.guidance, self.seed = guidance, seed
        labels = cache.labels.unique()
        rows = min(len(labels), round(num_samples ** 0.5))
        chosen = labels[torch.linspace(0, len(labels) - 1, rows).round().long()]
        self.users = (chosen + 1).tolist()
        self.classes = chosen.repeat_interleave(max(1, num_samples // rows))

    def evaluate(self) -> tuple[dict[int, Tensor], Tensor, dict[str, float]]:
        """({user: samples (columns, 3, s, s) uint8 on the CPU}, their standardized latents (n, c, h, w), {class_gain,
        sharpness, and SampleEvaluator.evaluate's figures})."""
        generator = torch.Generator().manual_seed(self.seed)
        classes = self.classes.to(self.diffusion.device)
        latents = self.diffusion.sample(classes, generators=generator, **self.guidance)
        images = self._decode(latents)
        health = {"class_gain": class_gain(self.diffusion, self._means, self.cache.labels, seed=self.seed),
                  "sharpness": sharpness(images) / sharpness(self._decode(self._means(self._some_training())))}
        images = (images * 255).round().byte().cpu()
        health |= self.evaluator.evaluate(ImageSet(images, self.classes))
        return {user: images[self.classes == user - 1] for user in self.users}, latents, health

    def _means(self, indices: Tensor) -> Tensor:
        return self.scaling.standardize(self.cache.scaled_means(indices))

    def _some_training(self) -> Tensor:
        """The indices of as many training latents of the same users, spread over their recordings."""
        picks = []
        for label in self.classes.unique():
            own = (self.cache.labels == label).nonzero().flatten()
            count = int((self.classes == label).sum())
            picks.append(own[torch.linspace(0, len(own) - 1, count).long()])
        return torch.cat(picks)

    @torch.inference_mode()
    def _decode(self, latents: Tensor) -> Tensor:
        def decode(part: Tensor) -> Tensor:
            return self.vae.decode_latents(self.scaling.restore(part.to(self.diffusion.device)))
        return AdaptiveBatches(4, "image").map(decode, latents)


@torch.inference_mode()
def class_gain(diffusion: Diffusion, latents: Callable[[Tensor], Tensor], labels: Tensor, *, seed: int,
               most: int = 64) -> float:
    """The relative rise of the denoising loss when the network is told a wrong user; about 0 = it ignores the user.

    On at most `most` of the latents with labels (n,), which latents(indices (b,)) fetches as (b, c, h, w), at the same
    noise for both.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(labels), generator=generator)[:most]
    x, right, users = latents(chosen).to(diffusion.device), labels[chosen], labels.unique()
    if len(users) < 2:
        return 0.0
    shift = torch.randint(1, len(users), right.shape, generator=generator)
    wrong = users[(torch.searchsorted(users, right) + shift) % len(users)]
    draws = {key: value.to(diffusion.device) for key, value in diffusion.draw(x.shape, generator).items()}
    draws["drop_mask"] = torch.zeros_like(draws["drop_mask"])
    loss = {name: diffusion(x, classes=classes.to(diffusion.device), **draws).item()
            for name, classes in (("right", right), ("wrong", wrong))}
    return loss["wrong"] / loss["right"] - 1


def sharpness(images: Tensor) -> float:
    """The mean absolute difference of neighbouring pixels of (n, 3, h, w) in [0, 1]."""
    return ((images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean()) / 2).item()
