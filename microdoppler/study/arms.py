"""Arms of the study: the training images of one kind (see kinds.py) in one fold, and the batches that are drawn from
them."""
import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Collection, Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from groundwork.memory import free_memory
from groundwork.seeding import seeded
from microdoppler.data.trainings import set_and_training
from microdoppler.study.augmentation import MIXTURES, SuccessorIndex, shift_and_mask, shift_in_time, take
from microdoppler.study.classifier import index_batches
from microdoppler.study.kinds import CLASSICAL, CUTMIX, KINDS, MIXUP, Kind
from microdoppler.study.recipe import Recipe

# One stream of random numbers per purpose: arms with the same seed then differ only in what their names say
REAL, ADDED, AUGMENT = range(3)
DEVICE_SHARE = 0.25     # of a device's free memory, for the images of an arm: training needs the rest


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

    real: the real training images of the fold, also where the kind does not train on them: their number sets how long
    an arm is trained; added: the images that the kind trains on beside them; synthetic_name: the name of the synthetic
    set that they are from, or ""; training: the number of the training of the generator that made them, where its
    folder has one (see trainings.py), or 0.
    """
    kind: Kind
    real: ImageSet
    added: ImageSet | None = None
    synthetic_name: str = ""
    training: int = 0

    @property
    def name(self) -> str:
        """The kind, with the name of the synthetic set if there is one. All trainings of a generator have the same."""
        return f"{self.kind.name}: {self.synthetic_name}" if self.synthetic_name else self.kind.name

    @property
    def parts(self) -> list[ImageSet]:
        """What the arm trains on: the real images, if it does, and the added ones, if there are any."""
        return [part for part in (self.real if self.kind.has_real else None, self.added) if part]

    @property
    def key_parts(self) -> list:
        """Everything about this arm that a trained classifier depends on; it goes into the key of a run."""
        return [*(part.digest for part in self.parts), self.kind.has_real, self.kind.augmentation]

    def num_steps(self, recipe: Recipe) -> int:
        """The optimisation steps of a classifier of this arm."""
        return recipe.num_steps(len(self.real.images), sum(len(part.images) for part in self.parts))

    def batches(self, recipe: Recipe, num_classes: int, seed: int,
                device: torch.device = torch.device("cpu")) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield a batch for each step: images (batch_size, 3 or 1, s, s) uint8, and the probability of each class as
        target, (batch_size, num_classes) float32 on the CPU.

        Images are shuffled in epochs: every image comes once before any comes again. All randomness follows from the
        seed, and is the same for every device. device: where the images are put together, and lie afterwards. It is the
        CPU if they would take more than DEVICE_SHARE of the free memory of `device`.
        """
        generator, parts = seeded(seed, AUGMENT), self._parts_on(device)
        for chosen in self._indices(recipe, seed):
            images = torch.cat([self._select(part, own, generator) for part, own in zip(parts, chosen)])
            labels = torch.cat([part.labels[own] for part, own in zip(parts, chosen)])
            targets = F.one_hot(labels, num_classes).float()
            if self.kind.augmentation == CLASSICAL:
                images = shift_and_mask(images, generator)
            elif self.kind.augmentation:
                images, targets = MIXTURES[self.kind.augmentation](images, targets, generator)
            yield images, targets

    def _parts_on(self, device: torch.device) -> list[ImageSet]:
        """The parts, with their images on `device` if they fit there; see `batches`."""
        size = sum(part.images.nbytes for part in self.parts)
        if device.type == "cpu" or size > DEVICE_SHARE * free_memory(device):
            return self.parts
        return [replace(part, images=part.images.to(device)) for part in self.parts]

    def _indices(self, recipe: Recipe, seed: int) -> Iterator[list[Tensor]]:
        """For each step, the indices (b,) int64 of the images that it takes from each of the arm's parts."""
        sizes, num_steps = [len(part.images) for part in self.parts], self.num_steps(recipe)
        if recipe.mixing == "concat" or len(sizes) == 1:
            firsts = [0, sizes[0]][:len(sizes)]
            for drawn in index_batches(sum(sizes), [recipe.batch_size] * num_steps, seeded(seed, REAL)):
                yield [drawn[(drawn >= first) & (drawn < first + size)] - first for first, size in zip(firsts, sizes)]
        else:
            shares = np.linspace(*recipe.synthetic_shares, num_steps)
            num_added = (shares * recipe.batch_size).round().astype(int).tolist()
            num_real = [recipe.batch_size - count for count in num_added]
            yield from map(list, zip(*(index_batches(size, counts, seeded(seed, stream)) for size, counts, stream
                                       in zip(sizes, (num_real, num_added), (REAL, ADDED)))))

    def _select(self, part: ImageSet, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """The chosen (b,) images of a set; shifted in time if the arm does so and their successors are known."""
        if self.kind.augmentation == CLASSICAL and part.successors is not None:
            return shift_in_time(part.images, chosen, part.successors, generator)
        return take(part.images, chosen)


def arms_of(real: ImageSet, added: Mapping[str, Mapping[str, ImageSet]],
            augmentations: Collection[str] = (CLASSICAL, MIXUP, CUTMIX)) -> list[Arm]:
    """Every arm of one fold whose added images are there and whose augmentation, if any, is asked for; in the order of
    KINDS.

    added: {what is added, as in `Kind.added`: {name of the synthetic set that the images are from, or "": images}}.
    Each training of a generator has a set, and an arm, of its own.
    """
    sets: dict[str, Mapping[str, ImageSet | None]] = {"": {"": None}, **added}
    return [Arm(kind, real, images, *set_and_training(name)) for kind in KINDS.values()
            if kind.augmentation in ("", *augmentations) for name, images in sets.get(kind.added, {}).items()]
