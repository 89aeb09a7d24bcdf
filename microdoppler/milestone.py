"""What to look at when training reaches a milestone: samples of some users, and three cheap figures of health."""
import torch
from torch import Tensor

from microdoppler.latents import LatentCache, LatentScaling

OVERLAP = 4     # windows closer than this in time share columns (75 % overlap), and are no independent recordings


class MilestoneWatcher:
    """Draws the same users from the same noise at every milestone, so that pictures can be compared through time.

    diffusion: the averaged model, with sample(), draw() and its loss, on standardized latents; vae: decode_latents();
    cache: the training latents; scaling: between the two; num_samples: images in all, spread over `users` (rows);
    guidance: for sample().
    """

    def __init__(self, diffusion, vae, cache: LatentCache, scaling: LatentScaling, *, num_samples: int,
                 guidance: dict, seed: int):
        self.diffusion, self.vae, self.cache, self.scaling = diffusion, vae, cache, scaling
        self.guidance, self.seed = guidance, seed
        labels = cache.labels.unique()
        rows = min(len(labels), round(num_samples ** 0.5))
        chosen = labels[torch.linspace(0, len(labels) - 1, rows).round().long()]
        self.users = (chosen + 1).tolist()
        self.classes = chosen.repeat_interleave(max(1, num_samples // rows))

    def look(self) -> tuple[dict[int, Tensor], dict[str, float]]:
        """({user: samples (columns, 3, s, s) uint8 on the CPU}, {class_gain, sharpness, nearest_ratio})."""
        generator = torch.Generator().manual_seed(self.seed)
        classes = self.classes.to(self.diffusion.device)
        latents = self.diffusion.sample(classes, generators=generator, **self.guidance)
        images = self._decode(latents)
        means = self.scaling.standardize(self.cache.scaled_means())
        health = {"class_gain": class_gain(self.diffusion, means, self.cache.labels, seed=self.seed),
                  "sharpness": sharpness(images) / sharpness(self._decode(self._some_training(means))),
                  "nearest_ratio": nearest_ratio(latents.cpu(), self.classes, means, self.cache.labels,
                                            self.cache.times)}
        images = (images * 255).round().byte().cpu()
        return {user: images[self.classes == user - 1] for user in self.users}, health

    def _some_training(self, means: Tensor) -> Tensor:
        """As many training latents of the same users, spread over their recordings."""
        picks = []
        for label in self.classes.unique():
            own = (self.cache.labels == label).nonzero().flatten()
            count = int((self.classes == label).sum())
            picks.append(own[torch.linspace(0, len(own) - 1, count).long()])
        return means[torch.cat(picks)]

    @torch.inference_mode()
    def _decode(self, latents: Tensor) -> Tensor:
        return torch.cat([self.vae.decode_latents(self.scaling.restore(part.to(self.diffusion.device)))
                          for part in latents.split(4)])


@torch.inference_mode()
def class_gain(diffusion, latents: Tensor, labels: Tensor, *, seed: int, most: int = 64) -> float:
    """The relative rise of the denoising loss when the network is told a wrong user; about 0 = it ignores the user.

    On at most `most` of the latents (n, c, h, w) with labels (n,), at the same noise for both.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(latents), generator=generator)[:most]
    x, right, users = latents[chosen].to(diffusion.device), labels[chosen], labels.unique()
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


def nearest_ratio(samples: Tensor, classes: Tensor, latents: Tensor, labels: Tensor, times: Tensor) -> float:
    """How far samples (m, c, h, w) lie from the nearest training latents (n, c, h, w; begun at times (n,), in hops) of
    their user, in units of how far training windows that do not overlap lie from each other (medians); well below 1 =
    copies.
    """
    to_training, among_training = [], []
    for label in classes.unique():
        own = latents[labels == label].flatten(1)
        to_training.append(torch.cdist(samples[classes == label].flatten(1), own).min(dim=1).values)
        place = times[labels == label]
        between = torch.cdist(own, own).masked_fill((place[:, None] - place).abs() < OVERLAP, torch.inf)
        nearest = between.min(dim=1).values
        among_training.append(nearest[nearest.isfinite()])
    yardstick = torch.cat(among_training)
    return (torch.cat(to_training).median() / yardstick.median()).item() if len(yardstick) else float("nan")
