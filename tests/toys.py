"""Small data for several tests."""
import json

import numpy as np
import torch

from microdoppler.data.recordings import Recording
from microdoppler.data.spectrograms import find_classes, find_images
from microdoppler.data.split import split_images
from microdoppler.study.arms import ImageSet

RAMP = np.linspace(0, 255, 64, dtype=np.uint8)[None].repeat(64, axis=0)         # dark at the left, bright at the right
RGB = np.stack([RAMP] * 3, axis=-1)


def toy_set(per_class: int, seed: int) -> ImageSet:
    """Noise images (2 * per_class, 3, 32, 32) uint8, brighter in the upper half (label 0) or lower half (label 1)."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 100, (2 * per_class, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.arange(2 * per_class) % 2
    images[labels == 0, :, :16] += 100
    images[labels == 1, :, 16:] += 100
    return ImageSet(images, labels)


def edited(text, edit):
    """The JSON text after edit(value) has changed its value in place."""
    value = json.loads(text)
    edit(value)
    return json.dumps(value)


def find_users(root, num_users=0, class_folders=None):
    """{user: paths} of the images in the folders of `root`."""
    return find_images(root, find_classes(root, num_users, class_folders))


def one_recording(names):
    """{user: one recording of these images, numbered 0, 1, …}, from {user: paths in time order}."""
    return {user: [Recording("one", own, list(range(len(own))))] for user, own in names.items()}


def split_of(names, settings):
    """The split of images {user: paths}, those of a user in one recording."""
    return split_images(one_recording(names), settings, {user: f"ID_{user}" for user in names})
