"""Animations for generate.py --animate: how an image is denoised, or interpolation between users."""
import copy
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from groundwork.errors import InputError
from groundwork.memory import AdaptiveBatches
from groundwork.progress import Progress
from microdoppler.figures.film import Frame, save_film
from microdoppler.pipeline.generation import ImageGenerator, image_seed

MAX_STEPS_SHOWN = 60            # sampling steps; ddpm has a thousand
DENOISING_SECONDS, RESULT_SECONDS = 4.0, 2.5        # of all steps together, and of the last frame
FRAMES_PER_USER = 8             # one of the user, and those on the way to the next user
USER_SECONDS, BETWEEN_SECONDS = 0.8, 0.1            # of a frame of a user, and of a frame on the way


def save_animation(path: Path, generator: ImageGenerator, users: list[int], batch_size: int) -> None:
    """Write the animation: for one user, how the first image is denoised; for several users, a loop from each user to
    the next. batch_size: frames that are generated at once, if memory allows."""
    batches = AdaptiveBatches(batch_size, "frame", label="decoding")
    frames = (denoising_frames(generator, users[0], batches) if len(users) == 1
              else interpolation_frames(generator, users, batches))
    save_film(path, frames, generator.legend.axes)
    print(f"{path}: {len(frames)} frames, {sum(frame.seconds for frame in frames):.1f} s")


def denoising_frames(generator: ImageGenerator, user: int, batches: AdaptiveBatches) -> list[Frame]:
    """The estimate of the user's first image (index 1) at each sampling step; the last frame is that image."""
    estimates: list[tuple[int, Tensor]] = []
    with Progress(desc="denoising", unit="step", delay=1, leave=False) as bar:
        def keep(t: int, latents: Tensor) -> None:
            estimates.append((t, latents))
            bar.update()

        generator.sample_latents([user], [first_seed(generator, user)], on_step=keep)
    name = generator.legend.figure_names[user]
    steps = evenly_spaced(len(estimates), MAX_STEPS_SHOWN)
    seeds = [first_seed(generator, user)] * len(steps)
    images = batches.map(generator.decode, torch.cat([estimates[step][1] for step in steps]), seeds)
    frames = []
    for step, image in zip(steps, images):
        noise_level = (estimates[step][0] + 1) / generator.config.timesteps
        title = f"{name}\nstep {step + 1} of {len(estimates)}, noise level {noise_level:.2f}"
        frames.append(Frame(image, title, DENOISING_SECONDS / len(steps)))
    return [*frames[:-1], replace(frames[-1], seconds=RESULT_SECONDS)]


def interpolation_frames(generator: ImageGenerator, users: list[int], batches: AdaptiveBatches) -> list[Frame]:
    """A loop through the users. All frames are sampled from the noise of the first user's first image (index 1).

    Raises InputError when noise_level is below 1: the frames would start from training images of different users.
    """
    if generator.config.noise_level < 1:
        raise InputError(f"noise_level is {generator.config.noise_level}; an animation between users starts from noise "
                         "alone: give --noise_level 1")
    count = FRAMES_PER_USER * len(users)
    images = batches.map(with_interpolated_classes(generator, users).sample_images, list(range(1, count + 1)),
                       [first_seed(generator, users[0])] * count)
    frames = []
    for i, image in enumerate(images):
        number, step = divmod(i, FRAMES_PER_USER)
        current, following = (generator.legend.figure_names[users[n % len(users)]] for n in (number, number + 1))
        title = f"{current} → {following}\n{100 * step / FRAMES_PER_USER:.0f} %" if step else f"{current}\n"
        frames.append(Frame(image, title, BETWEEN_SECONDS if step else USER_SECONDS))
    return frames


def with_interpolated_classes(generator: ImageGenerator, users: list[int]) -> ImageGenerator:
    """A generator with the same network whose user k (1, 2, …) is frame k of the loop.

    The class embedding of a frame lies on the straight line between those of two neighbouring users. Linear
    interpolation is right here: unlike noise, learnt embeddings have no norm that must be kept.
    """
    weight = generator.diffusion.model.classes_emb.weight.detach()
    labels = generator.legend.labels
    embeddings = weight[[labels[user] for user in users]]
    shares = torch.arange(FRAMES_PER_USER, device=weight.device)[:, None] / FRAMES_PER_USER
    mixed = torch.lerp(embeddings[:, None], embeddings.roll(-1, dims=0)[:, None], shares)
    diffusion = copy.deepcopy(generator.diffusion)
    diffusion.model.classes_emb = nn.Embedding.from_pretrained(mixed.flatten(0, 1))
    frames = range(1, len(mixed.flatten(0, 1)) + 1)
    legend = replace(generator.legend, classes={frame: "" for frame in frames})
    return replace(generator, diffusion=diffusion, legend=legend)


def first_seed(generator: ImageGenerator, user: int) -> int:
    """The seed of the user's first image (index 1)."""
    return image_seed(generator.config.seed, user, 1)


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most `most` of the indices 0 … count - 1, evenly spaced, including the last."""
    shown = min(count, most)
    return [(i + 1) * count // shown - 1 for i in range(shown)]
