"""Select synthetic images: keep those that are classified as their user and are no near-copies of training images."""
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from microdoppler.figures.report import Table
from microdoppler.study.arms import ImageSet
from microdoppler.study.classifier import predict
from microdoppler.study.copies import CopyDetector, resize


@dataclass(frozen=True, eq=False)
class Selection:
    """Which of n synthetic images to keep, and why not the others.

    low_confidence: (n,) bool, whether the evaluation classifier gives the image's own user a probability below
    min_confidence; near_copies: (n,) bool, whether the image is a near-copy of a training image.
    """
    images: ImageSet
    low_confidence: Tensor
    near_copies: Tensor
    min_confidence: float

    @property
    def kept(self) -> Tensor:
        """(n,) bool."""
        return ~self.low_confidence & ~self.near_copies

    @property
    def kept_images(self) -> ImageSet:
        """The images to keep."""
        return ImageSet(self.images.images[self.kept], self.images.labels[self.kept])

    def table(self, name: str, users: dict[int, str]) -> Table:
        """How many images of each user are kept, and why the others are not.

        name: what the set is called in the header; users: {user number: name}, in the order of the labels.
        """
        labels, names = self.images.labels, list(users.values())
        rows = {names[label]: labels == label for label in labels.unique().tolist()}
        rows["all"] = torch.ones_like(self.kept)
        return Table([name, "images", "kept", f"confidence below {self.min_confidence:g}", "near-copies"],
                     [[user, *(str(int((own & part).sum()))
                               for part in (own, self.kept, self.low_confidence, self.near_copies))]
                      for user, own in rows.items()])


def select_images(classifier: nn.Module, image_size: int, images: ImageSet, detector: CopyDetector,
                  min_confidence: float) -> Selection:
    """Select among synthetic `images`. classifier: the evaluation classifier, which works at image_size pixels.

    min_confidence: the smallest probability (0 … 1) of an image's own user with which it is kept.
    """
    confidence = predict(classifier, resize(images.images, image_size)).gather(1, images.labels[:, None])[:, 0]
    return Selection(images, confidence < min_confidence, detector.nearest(images).is_copy, min_confidence)
