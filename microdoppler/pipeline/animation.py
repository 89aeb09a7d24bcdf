"""How an image comes about, and what lies between users, as a film: generate.py --animate."""
import copy
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from groundwork.errors import InputError
from groundwork.memory import AdaptiveBatches
from microdoppler.figures.film import Frame, save_film
from microdoppler.pipeline.generation import ImageGenerator, image_seed

MOST_STEPS_SHOWN = 60           # of ddpm's thousand
DENOISING_SECONDS, RESULT_SECONDS = 4.0, 2.5
FRAMES_PER_USER = 8            # the user's own, and those on the way to the next
USER_SECONDS, BETWEEN_SECONDS = 0.8, 0.1


def save_animation(path: Path, generator: ImageGenerator, users: list[int], batch_size: int) -> None:
    """Of one user how its first image is denoised, of several a loop from each to the next; batch_size frames are
    drawn at once, as far as memory allows."""
    parts = AdaptiveBatches(batch_size, "frame", label="drawing")
    frames = (denoising_frames(generator, users[0], parts) if len(users) == 1
              else interpolation_frames(generator, users, parts))
    save_film(path, frames, generator.legend.axes)
    print(f"{path}: {len(frames)} frames, {sum(frame.seconds for frame in frames):.1f} s")


def denoising_frames(generator: ImageGenerator, user: int, parts: AdaptiveBatches) -> list[Frame]:
    """What each sampling step takes the user's image of index 1 to be; the last frame is that image."""
    estimates: list[tuple[int, Tensor]] = []
    with tqdm(desc="denoising", unit="step", delay=1, leave=False, disable=None) as bar:
        def keep(t: int, latents: Tensor) -> None:
            estimates.append((t, latents))
            bar.update()

        generator.draw_latents([user], [first_seed(generator, user)], on_step=keep)
    steps = spread(len(estimates), MOST_STEPS_SHOWN)
    images = parts.map(generator.decode, torch.cat([estimates[step][1] for step in steps]))
    frames = []
    for step, image in zip(steps, images):
        noise_level = (estimates[step][0] + 1) / generator.config.timesteps
        title = f"{generator.legend.names[user]}\nstep {step + 1} of {len(estimates)}, noise level {noise_level:.2f}"
        frames.append(Frame(image, title, DENOISING_SECONDS / len(steps)))
    return [*frames[:-1], replace(frames[-1], seconds=RESULT_SECONDS)]


def interpolation_frames(generator: ImageGenerator, users: list[int], parts: AdaptiveBatches) -> list[Frame]:
    """A loop through the users, all drawn from the noise of the first one's image of index 1.

    Raises InputError when images are not drawn from noise alone: they would begin with images of different users.
    """
    if generator.config.noise_level < 1:
        raise InputError(f"noise_level is {generator.config.noise_level}; an animation between users starts from noise "
                         "alone: give --noise_level 1")
    count = FRAMES_PER_USER * len(users)
    images = parts.map(with_classes_between(generator, users).draw, list(range(1, count + 1)),
                       [first_seed(generator, users[0])] * count)
    frames = []
    for i, image in enumerate(images):
        number, step = divmod(i, FRAMES_PER_USER)
        here, there = (generator.legend.names[users[n % len(users)]] for n in (number, number + 1))
        title = f"{here} → {there}\n{100 * step / FRAMES_PER_USER:.0f} %" if step else f"{here}\n"
        frames.append(Frame(image, title, BETWEEN_SECONDS if step else USER_SECONDS))
    return frames


def with_classes_between(generator: ImageGenerator, users: list[int]) -> ImageGenerator:
    """A generator of the same network whose user k is frame k of the loop: guidance and all treat it as any user.

    The class embeddings of neighbours are mixed along a straight line: the network has learnt them freely, without a
    norm that a mixture would have to keep, unlike noise.
    """
    learnt = generator.diffusion.model.classes_emb.weight.detach()
    here = learnt[[user - 1 for user in users]]
    shares = torch.arange(FRAMES_PER_USER, device=learnt.device)[:, None] / FRAMES_PER_USER
    mixed = torch.lerp(here[:, None], here.roll(-1, dims=0)[:, None], shares)
    diffusion = copy.deepcopy(generator.diffusion)
    diffusion.model.classes_emb = nn.Embedding.from_pretrained(mixed.flatten(0, 1))
    return replace(generator, diffusion=diffusion)


def first_seed(generator: ImageGenerator, user: int) -> int:
    return image_seed(generator.config.seed, user, 1)


def spread(count: int, most: int) -> list[int]:
    """At most so many of the indices 0 … count - 1, evenly spaced, the last among them."""
    shown = min(count, most)
    return [(i + 1) * count // shown - 1 for i in range(shown)]
