"""What the classifiers of one arm are trained on: real images, synthetic ones or both, as they are or augmented."""
import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Iterator

import numpy as np
import torch
from torch import Tensor

from groundwork.seeding import seeded
from microdoppler.study.augmentation import SuccessorIndex, shift_and_mask, shift_in_time
from microdoppler.study.classifier import index_batches

REAL, SYNTHETIC, AUGMENT = range(3)     # what a generator is for, so that arms differ in nothing but what they name


@dataclass(frozen=True, eq=False)
class ImageSet:
    """images: (n, 3 or 1, size, size) uint8; labels: (n,) int64; sequel: what follows each image, where it is known."""
    images: Tensor
    labels: Tensor
    sequel: SuccessorIndex | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything a network gets to see, in its order."""
        content = hashlib.sha256(str(tuple(self.images.shape)).encode())
        sequel = [self.sequel.following, self.sequel.hop] if self.sequel else []
        for part in [*self.images, self.labels, *sequel]:
            content.update(part.contiguous().numpy())
        return content.hexdigest()


@dataclass(frozen=True, eq=False)
class Arm:
    """kind: what arms of several folds and sets have in common, e.g. "real + synthetic"; synthetic_name: which set it
    is; classical: whether images are augmented; is_selected: whether the synthetic images are those worth keeping."""
    kind: str
    real: ImageSet | None = None
    synthetic: ImageSet | None = None
    synthetic_name: str = ""
    classical: bool = False
    is_selected: bool = False

    @property
    def name(self) -> str:
        return f"{self.kind}: {self.synthetic_name}" if self.synthetic_name else self.kind

    @property
    def determines(self) -> list:
        """All of it that a trained classifier depends on."""
        return [part.digest if part else None for part in (self.real, self.synthetic)] + [self.classical]

    def batches(self, num_steps: int, batch_size: int, synthetic_shares: tuple[float, float],
                seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images (batch_size, 3, s, s) uint8, labels (batch_size,)) num_steps times.

        With both kinds of images, the share of synthetic ones goes from the first to the second number in a straight
        line, however many there are. Within a kind each image is drawn once before any is drawn again, in an order
        that follows from the seed.
        """
        first, last = {(True, True): synthetic_shares, (True, False): (0, 0),
                       (False, True): (1, 1)}[self.real is not None, self.synthetic is not None]
        shares = np.linspace(first, last, num_steps)
        num_synthetic = (shares * batch_size).round().astype(int).tolist()
        sizes = {REAL: [batch_size - count for count in num_synthetic], SYNTHETIC: num_synthetic}
        sources = [(part, index_batches(len(part.images), sizes[kind], seeded(seed, kind)))
                   for kind, part in ((REAL, self.real), (SYNTHETIC, self.synthetic)) if part]
        generator = seeded(seed, AUGMENT)
        for _ in range(num_steps):
            parts = [(part, next(order)) for part, order in sources]
            images = torch.cat([self._draw(part, chosen, generator) for part, chosen in parts])
            labels = torch.cat([part.labels[chosen] for part, chosen in parts])
            yield (shift_and_mask(images, generator) if self.classical else images), labels

    def _draw(self, part: ImageSet, chosen: Tensor, generator: torch.Generator) -> Tensor:
        if self.classical and part.sequel is not None:
            return shift_in_time(part.images, chosen, part.sequel, generator)
        return part.images[chosen]


def arms_of(real: ImageSet, sets: dict[str, ImageSet], selected: dict[str, ImageSet]) -> list[Arm]:
    """Every arm of one fold: the two without synthetic images, then three for each set, and two for what was selected
    of each."""
    arms = [Arm("real only", real), Arm("real + classical", real, classical=True)]
    for name, synthetic in sets.items():
        arms += [Arm("real + synthetic", real, synthetic, name),
                 Arm("real + classical + synthetic", real, synthetic, name, classical=True),
                 Arm("synthetic only", None, synthetic, name)]
    for name, synthetic in selected.items():
        arms += [Arm("real + selected", real, synthetic, name, is_selected=True),
                 Arm("real + classical + selected", real, synthetic, name, classical=True, is_selected=True)]
    return arms


BASELINE_OF = {"real + classical": "real only", "real + synthetic": "real only", "synthetic only": "real only",
               "real + selected": "real only", "real + classical + synthetic": "real + classical",
               "real + classical + selected": "real + classical"}
