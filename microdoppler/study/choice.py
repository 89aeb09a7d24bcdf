"""Choose the constants of generation, and of the mixture that classifiers train on, by accuracy on validation images.

How long the classifiers train comes first, by real + classical: a length that suits synthetic images best would favour
them. Everything else is a Candidate, measured by real + synthetic.

The search goes coordinate by coordinate: one constant after another, each step with the best values so far. It tries 11
candidates where a full grid of three values each would try 243. More candidates would not only take longer: the best of
many on the same few validation passes is best by chance more often. The order is that of the effects: the milestone
changes all images, the shares only how they are mixed.

A step takes the simplest value that is not worse than the best by more than one standard error (Breiman et al. 1984,
section 3.4.3). Here it is the error of the paired difference of the two, since both are measured with the same seeds on
the same passes. The default is the simplest value, then the order is that in which the values are given.
"""
from dataclasses import dataclass, replace
from typing import Any, Callable, Mapping, Sequence

import numpy as np

from microdoppler.study.counts import CorrectCounts, accuracies, accuracy_differences
from microdoppler.study.variance import Variance

NOTHING = "always wrong"        # an arm that is never right: a difference from it is an accuracy


@dataclass(frozen=True)
class Candidate:
    """What is chosen. The names of the fields are keys in choice.json.

    milestone: of the diffusion model; noise_level, cond_scale: sampling constants; ratio: synthetic images per real
    training image; synthetic_shares: share of synthetic images in the first and the last batch.
    """
    milestone: int
    noise_level: float
    cond_scale: float
    ratio: float
    synthetic_shares: tuple[float, float]

    @property
    def set_name(self) -> str:
        """The name of the folder with the synthetic images, which do not depend on ratio and shares."""
        return f"milestone_{self.milestone}_noise_{self.noise_level:g}_guidance_{self.cond_scale:g}"

    @property
    def name(self) -> str:
        """All values in words."""
        return (f"milestone {self.milestone}, noise {self.noise_level:g}, guidance {self.cond_scale:g}, ratio "
                f"{self.ratio:g}, shares {described(self.synthetic_shares)}")


EPOCHS = "classifier_epochs"
# {field of Candidate: its name in tables}, in the order of the search
CONSTANTS = {"milestone": "milestone", "noise_level": "noise level", "cond_scale": "guidance",
             "ratio": "synthetic images per real one", "synthetic_shares": "synthetic shares"}
NAMES = {EPOCHS: "epochs", **CONSTANTS}     # of all that has a step


def described(value: Any) -> str:
    """A value of a constant in tables."""
    return " to ".join(f"{share:g}" for share in value) if isinstance(value, tuple) else f"{value:g}"


@dataclass(frozen=True)
class Measured:
    """An accuracy, as a fraction, with its standard error; and how far it is below the best of its step, likewise."""
    accuracy: float
    error: float
    below_best: float = 0.0
    below_best_error: float = 0.0


@dataclass(frozen=True)
class Step:
    """One step of the search. tried: {value of the constant: its accuracy}, the simplest value first."""
    constant: str
    tried: dict[Any, Measured]
    chosen: Any

    def to_json(self) -> dict[str, Any]:
        """The step as JSON's types."""
        return {"constant": self.constant, "chosen": self.chosen,
                "tried": [{"value": value, **vars(measured)} for value, measured in self.tried.items()]}


def search(options: Mapping[str, Sequence[Any]], count: Callable[[Sequence[Candidate]], CorrectCounts]
           ) -> tuple[Candidate, list[Step]]:
    """Choose one constant after another. Returns the candidate that was chosen, and the steps.

    options: {field of Candidate: values to try, the simplest first}, in the order of the search; count: trains
    classifiers, and returns the correctly classified validation images of the arms, one for each candidate in their
    order. A constant with one value has no step.
    """
    chosen = Candidate(**{constant: values[0] for constant, values in options.items()})
    steps: list[Step] = []
    for constant, values in options.items():
        candidates = {value: replace(chosen, **{constant: value}) for value in values}
        value, step = choose_value(constant, values, lambda: count(list(candidates.values())))
        chosen, steps = candidates[value], [*steps, *step]
    return chosen, steps


def choose_value(constant: str, values: Sequence[Any], count: Callable[[], CorrectCounts]) -> tuple[Any, list[Step]]:
    """Choose the value of one constant. Returns it, and the step; no step where there is one value only, and then
    nothing is counted.

    values: the simplest first; count: trains classifiers, and returns the correctly classified validation images of one
    arm for each value in their order.
    """
    if len(values) == 1:
        return values[0], []
    measured, best = simplest_of_the_best(count())
    return values[best], [Step(constant, dict(zip(values, measured)), values[best])]


def simplest_of_the_best(counts: CorrectCounts) -> tuple[list[Measured], int]:
    """The accuracy of each arm, and the place of the first arm that is not worse than the best by more than one
    standard error of their paired difference."""
    arms = list(counts.correct)
    best = max(arms, key=lambda arm: accuracies(counts, arm).mean())
    measured = [replace(measure(counts, arm), **dict(zip(("below_best", "below_best_error"),
                                                         _difference(counts, best, arm)))) for arm in arms]
    return measured, next(place for place, found in enumerate(measured) if found.below_best <= found.below_best_error)


def measure(counts: CorrectCounts, arm: str) -> Measured:
    """The accuracy of an arm, and its standard error over folds, seeds and passes."""
    return Measured(*_difference(replace(counts, correct=counts.correct | {NOTHING: np.zeros(counts.shape)}), arm,
                                 NOTHING))


def _difference(counts: CorrectCounts, arm: str, baseline: str) -> tuple[float, float]:
    """The mean paired difference of accuracy of an arm from a baseline, and its standard error."""
    difference = float(accuracy_differences(counts, arm, baseline).mean())
    return difference, float(np.sqrt(Variance.of(counts, arm, baseline).total))
