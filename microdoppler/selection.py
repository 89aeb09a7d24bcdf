"""Which synthetic images to keep: those that a recogniser takes for their user, and that are no near-copies."""
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microdoppler.arms import ImageSet
from microdoppler.classifier import predict
from microdoppler.overlap import NEAR_COPY, SIZE, best_match, without_profile
from microdoppler.report import Table


def resize(images: Tensor, size: int) -> Tensor:
    """(n, 3, s, s) uint8 → (n, 3, size, size) uint8."""
    if images.shape[-1] == size:
        return images
    resized = F.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return resized.round().clamp(0, 255).byte()


def closest_training(images: ImageSet, training: ImageSet) -> Tensor:
    """(n,) float32: each image's correlation with the training image of its user that it resembles most, over time
    shifts, as in the overlap audit."""
    found = torch.zeros(len(images.images))
    for label in images.labels.unique():
        theirs = resize(training.images[training.labels == label], SIZE)
        own = resize(images.images[images.labels == label], SIZE)
        correlation, _ = best_match(without_profile(own, theirs), without_profile(theirs, theirs))
        found[images.labels == label] = correlation.max(dim=1).values
    return found


def own_confidence(recogniser: nn.Module, images: ImageSet, size: int) -> Tensor:
    """(n,) float32: the probability that the recogniser, at `size` pixels, gives to the user an image was drawn for."""
    return predict(recogniser, resize(images.images, size)).gather(1, images.labels[:, None])[:, 0]


def worth_keeping(images: ImageSet, confidence: Tensor, correlation: Tensor, least: float) -> Tensor:
    """(n,) bool: own_confidence of at least `least`, and closest_training below NEAR_COPY."""
    return (confidence >= least) & (correlation < NEAR_COPY)


def selection_table(images: ImageSet, confidence: Tensor, correlation: Tensor, least: float, name: str) -> Table:
    """How many images are kept of each user, and why the others are not."""
    kept = worth_keeping(images, confidence, correlation, least)
    rows = []
    for label in images.labels.unique().tolist():
        own = images.labels == label
        doubted, copies = (confidence[own] < least), (correlation[own] >= NEAR_COPY)
        rows.append([f"user {label + 1}", str(int(own.sum())), str(int(kept[own].sum())), str(int(doubted.sum())),
                     str(int(copies.sum()))])
    totals = np.array([[int(cell) for cell in row[1:]] for row in rows]).sum(axis=0)
    return Table([name, "images", "kept", f"confidence below {least:g}", "near-copies"],
                 [*rows, ["all", *map(str, totals)]])


def subset(images: ImageSet, kept: Tensor) -> ImageSet:
    return ImageSet(images.images[kept], images.labels[kept])
