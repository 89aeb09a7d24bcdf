"""Small data for several tests."""
import json

import numpy as np
import torch

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
