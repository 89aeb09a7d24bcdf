"""Generators with known faults, made of simulated walkers: a perfect one, collapsed, copying and blurring ones, and
persons who walk at another pace."""
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import affine_transform, gaussian_filter
from torch import nn

from microdoppler.data.stitching import cut_between, shift_in_doppler
from microdoppler.radar.spectrogram import render_image
from microdoppler.simulate import gait
from microdoppler.study.arms import ImageSet
from microdoppler.study.classifier import normalise

SIZE, USERS = 48, 3
KINDS = {"training": 3, "held-out": 6, "new": 24}       # passes of each user


@cache
def windows(kind: str) -> tuple[ImageSet, np.ndarray]:
    """The windows of the training passes or of the held-out passes, with the name of the pass of each. Of the new
    passes a window each, at random: that is what a perfect generator makes. Of held-out passes every third window,
    to save time."""
    images, passes = [], []
    for user in range(USERS):
        for number in range(KINDS[kind]):
            rng = np.random.default_rng([list(KINDS).index(kind), user, number])
            person = gait.random_person(user + 1, 0)
            scene = gait.random_pass(person, rng)
            spectrogram = gait.simulate_pass(person, scene, gait.RADAR, rng)
            places = {"training": range(scene.num_windows), "held-out": range(0, scene.num_windows, 3),
                      "new": [int(rng.integers(scene.num_windows))]}[kind]
            images.append([render_image(spectrogram[:, start:start + gait.WINDOW_COLUMNS], gait.RADAR.levels_db, SIZE)
                           for start in (place * gait.HOP_COLUMNS for place in places)])
            passes += [f"user {user} {kind} {number}"] * len(places)
    pixels = torch.from_numpy(np.concatenate(images)).permute(0, 3, 1, 2)
    return ImageSet(pixels, torch.tensor([int(name.split()[1]) for name in passes])), np.array(passes)


def collapsed(perfect: ImageSet, distinct: int) -> ImageSet:
    """The same `distinct` images of each user again and again, with a little noise."""
    own = [perfect.images[perfect.labels == user] for user in range(USERS)]
    repeated = torch.cat([images[torch.arange(len(images)) % distinct] for images in own])
    noise = 4 * torch.randn(repeated.shape, generator=torch.Generator().manual_seed(0))
    return ImageSet((repeated + noise).clamp(0, 255).byte(), perfect.labels)


def copying(perfect: ImageSet, training: ImageSet, passes: np.ndarray, share: float) -> ImageSet:
    """A share of the images are copies of training windows, half a hop later; every other one is moved in Doppler."""
    images, rng = perfect.images.clone(), np.random.default_rng(0)
    has_next = torch.from_numpy(np.append(passes[1:] == passes[:-1], False))
    hop = torch.full((len(passes),), round(SIZE * gait.HOP_COLUMNS / gait.WINDOW_COLUMNS))
    later = cut_between(training.images, training.images.roll(-1, dims=0), hop, hop // 2)
    for user in range(USERS):
        own = (perfect.labels == user).nonzero()[:, 0]
        own = own[:round(share * len(own))]
        chosen = ((training.labels == user) & has_next).nonzero()[:, 0].numpy()
        copies = later[torch.from_numpy(rng.permutation(chosen)[:len(own)])]
        images[own] = shift_in_doppler(copies, torch.arange(len(own)) % 2)
    return ImageSet(images, perfect.labels)


def blurring(perfect: ImageSet, sigma: float) -> ImageSet:
    """A low-pass filter; sigma: of its Gaussian, in pixels."""
    return ImageSet(torch.from_numpy(gaussian_filter(perfect.images.numpy(), (0, 0, sigma, sigma))), perfect.labels)


def walking(perfect: ImageSet, steps: float, speed: float) -> ImageSet:
    """So many times as many steps in a second, so many times as fast. After the last column time runs backwards."""
    still = SIZE * gait.AXES.highest_mps / (gait.AXES.highest_mps - gait.AXES.lowest_mps)       # the row of speed 0
    images = affine_transform(perfect.images.numpy(), (1, 1, 1 / speed, steps), (0, 0, still - still / speed, 0),
                              order=1, mode="mirror")
    return ImageSet(torch.from_numpy(images), perfect.labels)


def network_that_knows(images: ImageSet) -> nn.Module:
    """A small network in place of the evaluation classifier, trained in seconds until it knows these images by heart.
    Its layer "avgpool" gives the features, as that of a ResNet."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = nn.Sequential()
        for number, (before, after) in enumerate(((3, 16), (16, 32), (32, 64)), start=1):
            network.add_module(f"level{number}", nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1),
                                                               nn.BatchNorm2d(after), nn.ReLU()))
        network.add_module("avgpool", nn.AdaptiveAvgPool2d(1))
        network.add_module("last", nn.Sequential(nn.Flatten(), nn.Linear(64, USERS)))
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
        for _ in range(250):
            chosen = torch.randint(len(images.images), (32,))
            loss = F.cross_entropy(network(normalise(images.images[chosen], torch.device("cpu"))),
                                   images.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()
