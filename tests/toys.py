"""Small data that several tests learn from."""
import torch

from microdoppler.arms import ImageSet


def toy_set(per_class: int, seed: int) -> ImageSet:
    """Noise whose brighter half is the upper one (label 0) or the lower one (label 1)."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 100, (2 * per_class, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.arange(2 * per_class) % 2
    images[labels == 0, :, :16] += 100
    images[labels == 1, :, 16:] += 100
    return ImageSet(images, labels)
