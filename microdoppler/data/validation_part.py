"""The validation part of a split: images of each user's training run on which constants are chosen, as by choose.

They are the last passes of the run, so that they are as independent of the training images as the test images are:
other recordings where the run has several, else windows after a guard.
"""
from typing import Sequence

from microdoppler.data.recordings import Recording

USUAL_SHARE = 0.2       # of each user's training run


def last_passes(run: Sequence[str], own: Sequence[Recording], share: float, guard: int) -> tuple[list[str], list[str]]:
    """(training, validation) images of a user: the validation part is about a `share` (0 to 0.5) of the run, its end.

    run: the images that may be trained on, in the order of the user's recordings `own`. The part begins with a
    recording if that makes it half to twice as large as wanted, and keeps it below half of the run. Otherwise it begins
    inside a recording, and `guard` windows before it are in neither part; there may then be too few to train on.
    """
    wanted = max(1, round(share * len(run)))
    inside, count, whole = set(run), 0, []
    for recording in reversed(own):
        count += len(inside.intersection(recording.images))
        if wanted <= 2 * count < len(run) and count <= 2 * wanted:
            whole.append(count)
    if whole:
        count = min(whole, key=lambda possible: abs(possible - wanted))
        return list(run[:-count]), list(run[-count:])
    return list(run[:max(0, len(run) - wanted - guard)]), list(run[-wanted:])


def leaves_too_few(num_training: int, num_run: int) -> bool:
    """Whether the validation part and its guard take half of a run of `num_run` images, or more."""
    return 2 * num_training <= num_run
