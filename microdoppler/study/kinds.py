"""The kinds of arms: what a classifier of each kind is trained on, and what it is compared with.

Real images get company in two ways: synthetic images, or the classical ones. These are augmentation, and the windows
that the generator was trained on ("cuts": stitched windows, shifted in Doppler). A difference between real + synthetic
and real only holds both what diffusion adds and what the cuts add, so the cuts are its main baseline.
"""
from dataclasses import dataclass
from typing import get_args

from groundwork.limits import Augmentation

CLASSICAL, MIXUP, CUTMIX = get_args(Augmentation)                          # how images are augmented
CUTS, CUTS_THROUGH_VAE = "cuts", "cuts through the VAE"                    # what is added to the real images
SYNTHETIC, SELECTED = "synthetic", "selected"


@dataclass(frozen=True)
class Kind:
    """One kind of arm.

    has_real: whether it trains on the real training images; added: the images that it trains on beside them, or "";
    augmentation: how all of them are augmented, or ""; baselines: names of the kinds that it is compared with.
    """
    name: str
    has_real: bool = True
    added: str = ""
    augmentation: str = ""
    baselines: tuple[str, ...] = ()

    @property
    def is_synthetic(self) -> bool:
        """Whether it trains on images of a synthetic set, so that there is an arm for each set."""
        return self.added in (SYNTHETIC, SELECTED)

    @property
    def is_control(self) -> bool:
        """Whether it trains on what the generator was trained on."""
        return self.added in (CUTS, CUTS_THROUGH_VAE)


REAL_ONLY = "real only"

KINDS = {kind.name: kind for kind in (
    Kind(REAL_ONLY),
    Kind("real + classical", augmentation=CLASSICAL, baselines=(REAL_ONLY,)),
    Kind("real + MixUp", augmentation=MIXUP, baselines=(REAL_ONLY,)),
    Kind("real + CutMix", augmentation=CUTMIX, baselines=(REAL_ONLY,)),
    Kind("real + cuts", added=CUTS, baselines=(REAL_ONLY,)),
    Kind("real + cuts through the VAE", added=CUTS_THROUGH_VAE, baselines=("real + cuts",)),
    Kind("real + synthetic", added=SYNTHETIC, baselines=("real + cuts", "real + cuts through the VAE", REAL_ONLY)),
    Kind("real + classical + synthetic", added=SYNTHETIC, augmentation=CLASSICAL, baselines=("real + classical",)),
    Kind("real + MixUp + synthetic", added=SYNTHETIC, augmentation=MIXUP, baselines=("real + MixUp",)),
    Kind("real + CutMix + synthetic", added=SYNTHETIC, augmentation=CUTMIX, baselines=("real + CutMix",)),
    Kind("synthetic only", has_real=False, added=SYNTHETIC, baselines=(REAL_ONLY,)),
    Kind("real + selected", added=SELECTED, baselines=("real + cuts", "real + cuts through the VAE", REAL_ONLY)),
    Kind("real + classical + selected", added=SELECTED, augmentation=CLASSICAL, baselines=("real + classical",)))}

# The classical arms. The best of them is what real + best classical + synthetic is held against.
CLASSICAL_KINDS = tuple(kind for kind in KINDS.values() if kind.augmentation and not kind.added)

# The contrast that the study is about, named before the data are looked at: what diffusion adds to its own training
# windows. If a study has no cuts (a synthetic set of unknown origin), real only takes their place.
PRIMARY_KIND, PRIMARY_BASELINES = "real + synthetic", ("real + cuts", REAL_ONLY)
