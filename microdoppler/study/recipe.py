"""The recipe of a study's classifiers: which network is trained, how long, and on which mixture of images."""
from dataclasses import dataclass

from groundwork.limits import Budget, Mixing
from microdoppler.study.networks import DEFAULT_NETWORK, plan_network

FEW_EPOCHS = 20     # with no more, classifiers may be far from trained: on the demo, 25 epochs reversed a verdict of 6


@dataclass(frozen=True)
class Recipe:
    """How the classifiers of all arms are trained.

    network: its name in torchvision.models; epochs: how often real only sees each of its images; batch_size: images per
    step; lr: the highest learning rate.

    mixing: how real images and those that an arm adds to them come into a batch. "shares": the share of added images
    changes linearly from synthetic_shares[0] in the first batch to synthetic_shares[1] in the last, however many images
    there are of each. "concat": all are shuffled together as one set.

    budget: "steps": every arm takes as many steps as real only; "epochs": every arm sees as many images as it has,
    `epochs` times.
    """
    epochs: int
    batch_size: int
    lr: float
    network: str = DEFAULT_NETWORK
    mixing: Mixing = "shares"
    budget: Budget = "steps"
    synthetic_shares: tuple[float, float] = (1.0, 0.0)

    def num_steps(self, num_real: int, num_own: int) -> int:
        """The optimisation steps of an arm. num_real: real training images of the fold; num_own: images of the arm."""
        return max(1, round(self.epochs * (num_real if self.budget == "steps" else num_own) / self.batch_size))

    @property
    def warning(self) -> str:
        """What to say of few epochs; "" for more."""
        return "" if self.epochs > FEW_EPOCHS else (
            f"classifier_epochs is {self.epochs}: the classifiers are hardly trained, and more epochs may reverse the "
            f"verdict. Set it above {FEW_EPOCHS}, better to where the accuracy no longer rises.")

    def method(self, image_size: int) -> list[str]:
        """How the classifiers are trained on images of image_size pixels, in sentences."""
        first, last = self.synthetic_shares
        return [f"{plan_network(self.network, image_size)} without pretraining, {image_size} px, batches of "
                f"{self.batch_size} images, learning rate {self.lr:g}. "
                + (f"Every arm takes as many steps as real only in {self.epochs} epochs." if self.budget == "steps" else
                   f"Every arm sees its own images {self.epochs} times, so that larger arms take more steps."),
                "Real and added images are shuffled together as one set." if self.mixing == "concat" else
                f"Where images are added to the real ones, their share goes from {first:.0%} in the first batch to "
                f"{last:.0%} in the last.", *filter(None, [self.warning])]
