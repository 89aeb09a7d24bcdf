"""Arms of the study: what a classifier is trained on. Real images, synthetic ones or both, augmented or not."""
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

# One stream of random numbers per purpose: arms with the same seed then differ only in what their names say
REAL, SYNTHETIC, AUGMENT = range(3)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with their labels.

    images: (n, 3 or 1, size, size) uint8; labels: (n,) int64 = user number - 1; successors: the next window of each
    image, where it is known.
    """
    images: Tensor
    labels: Tensor
    successors: SuccessorIndex | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that a network gets from this set, in its order."""
        content = hashlib.sha256(str(tuple(self.images.shape)).encode())
        successors = [self.successors.index, self.successors.hop] if self.successors else []
        for part in [*self.images, self.labels, *successors]:
            content.update(part.contiguous().numpy())
        return content.hexdigest()


@dataclass(frozen=True, eq=False)
class Arm:
    """The training images of one arm in one fold.

    kind: what arms with different folds and synthetic sets have in common, such as "real + synthetic"; synthetic_name:
    the name of the synthetic set; classical: whether images are augmented, see augmentation.py; is_selected: whether
    the synthetic images were selected, see selection.py.
    """
    kind: str
    real: ImageSet | None = None
    synthetic: ImageSet | None = None
    synthetic_name: str = ""
    classical: bool = False
    is_selected: bool = False

    @property
    def name(self) -> str:
        """The kind, with the name of the synthetic set if there is one."""
        return f"{self.kind}: {self.synthetic_name}" if self.synthetic_name else self.kind

    @property
    def key_parts(self) -> list:
        """Everything about this arm that a trained classifier depends on; it goes into the key of a run."""
        return [part.digest if part else None for part in (self.real, self.synthetic)] + [self.classical]

    def batches(self, num_steps: int, batch_size: int, synthetic_shares: tuple[float, float],
                seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield num_steps batches: images (batch_size, 3 or 1, s, s) uint8, labels (batch_size,) int64.

        In an arm with real and synthetic images, the share of synthetic ones in a batch changes linearly from
        synthetic_shares[0] in the first batch to synthetic_shares[1] in the last, however many images there are of each
        kind. Each kind is shuffled in epochs: every image comes once before any comes again. All randomness follows
        from the seed.
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
            images = torch.cat([self._select(part, chosen, generator) for part, chosen in parts])
            labels = torch.cat([part.labels[chosen] for part, chosen in parts])
            yield (shift_and_mask(images, generator) if self.classical else images), labels

    def _select(self, part: ImageSet, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """The chosen (b,) images of a set; shifted in time if the arm augments and their successors are known."""
        if self.classical and part.successors is not None:
            return shift_in_time(part.images, chosen, part.successors, generator)
        return part.images[chosen]


def arms_of(real: ImageSet, sets: dict[str, ImageSet], selected: dict[str, ImageSet]) -> list[Arm]:
    """Every arm of one fold: two without synthetic images, three for each synthetic set, two for each selected set.

    sets, selected: {name of a set: its images}; `selected` has those images of a set that the selection kept.
    """
    arms = [Arm("real only", real), Arm("real + classical", real, classical=True)]
    for name, synthetic in sets.items():
        arms += [Arm("real + synthetic", real, synthetic, name),
                 Arm("real + classical + synthetic", real, synthetic, name, classical=True),
                 Arm("synthetic only", None, synthetic, name)]
    for name, synthetic in selected.items():
        arms += [Arm("real + selected", real, synthetic, name, is_selected=True),
                 Arm("real + classical + selected", real, synthetic, name, classical=True, is_selected=True)]
    return arms


# {kind: the kind that it is compared with}
BASELINE_OF = {"real + classical": "real only", "real + synthetic": "real only", "synthetic only": "real only",
               "real + selected": "real only", "real + classical + synthetic": "real + classical",
               "real + classical + selected": "real + classical"}
