"""The evaluation classifier: trained on real training images only, it assesses synthetic images."""
import hashlib
from pathlib import Path
from typing import Collection

import torch
from torch import nn

from groundwork.device import convolution_format, half_precision, in_memory_format
from groundwork.errors import InputError
from groundwork.files import load_tensors, save_tensors
from groundwork.images import load_images
from groundwork.preparation import Preparation
from groundwork.progress import Progress
from microdoppler.data.overlap import Successor
from microdoppler.data.spectrograms import paths_and_labels
from microdoppler.data.split import Split
from microdoppler.study.arms import Arm, ImageSet
from microdoppler.study.augmentation import SuccessorIndex
from microdoppler.study.classifier import RECIPE_VERSION, build_classifier, train_classifier
from microdoppler.study.kinds import KINDS
from microdoppler.study.networks import Network, plan_network
from microdoppler.study.recipe import Recipe

RECIPE = Recipe(epochs=25, batch_size=16, lr=2e-3)
SEED = 1_000_003        # not one of the study's seeds: it must not be one of the classifiers that the study trains


def load_real(data_path: str | Path, images: dict[int, list[str]], successor_of: dict[str, Successor], image_size: int,
              label: str, channels: int = 3, preparation: Preparation = Preparation()) -> ImageSet:
    """Load real images at image_size pixels, with their successors.

    images: {user number: paths relative to data_path}; successor_of: {path: next window}; label: of the progress bar;
    channels: 3 for RGB or 1 for grey; preparation: how files become square arrays. Raises InputError when an image
    cannot be read.
    """
    paths, labels = paths_and_labels(images)
    return ImageSet(load_images(data_path, paths, image_size, label, channels, preparation), labels,
                    SuccessorIndex.among(paths, successor_of, image_size))


def load_validation(data_path: str | Path, split: Split, image_size: int, channels: int,
                    labels: Collection[int] | None = None) -> ImageSet | None:
    """The validation images of a split at image_size pixels; None if it has none. channels: 3 for RGB or 1 for grey;
    labels: of the users whose images are loaded; default: all."""
    images = {user: own if labels is None or split.labels[user] in labels else []
              for user, own in split.validation_images.items()}
    if not any(images.values()):
        return None
    return load_real(data_path, images, {}, image_size, "validation images", channels, split.preparation)


def load_or_train_evaluation_classifier(real: ImageSet, *, network: Network, num_classes: int, folder: str | Path,
                                        device: torch.device) -> nn.Module:
    """The evaluation classifier of the training images `real`, in evaluation mode on `device`.

    It is read from folder/recogniser-<digest>.pt, or trained and written there. The digest covers network, images
    and training.
    """
    made_from = [RECIPE_VERSION, str(network), real.digest, num_classes, RECIPE, SEED, device.type,
                 half_precision(device)]
    path = Path(folder) / f"recogniser-{hashlib.sha256(repr(made_from).encode()).hexdigest()[:12]}.pt"
    if path.exists():
        try:
            model = build_classifier(network, num_classes, SEED)
            model.load_state_dict(load_tensors(path))
            return in_memory_format(model.to(device), convolution_format(device)).eval()
        except (InputError, RuntimeError):      # damaged: it can be trained again
            pass
    print(f"evaluation classifier: {network}, trained once on {len(real.images)} images of {network.image_size} px")
    arm = Arm(KINDS["real + classical"], real)
    with Progress(total=arm.num_steps(RECIPE), desc="training the evaluation classifier", unit="step") as bar:
        model = train_classifier(arm.batches(RECIPE, num_classes, SEED, device), network=network,
                                 num_classes=num_classes, num_steps=arm.num_steps(RECIPE), lr=RECIPE.lr, seed=SEED,
                                 device=device, on_step=bar.update)
    save_tensors(path, model.state_dict())
    return model


def open_evaluation_classifier(data_path: str | Path, split: Split, successor_of: dict[str, Successor], *,
                               network: str, image_size: int, folder: str | Path, device: torch.device,
                               channels: int = 3) -> tuple[nn.Module, ImageSet]:
    """Load or train the evaluation classifier of a split. Returns (classifier, the real training images).

    network: its name in torchvision.models. image_size: pixels at which it looks at all images, as the study's
    classifiers do: on smaller ones it would not see what the VAE blurs. A ResNet18 of 31 x 50 images takes 56
    minutes of CPU time at 256 px and 10 at 96 px, so the presets for CPUs have fewer; it is trained once, and then
    looks at few images per milestone. successor_of: {path: next window}; folder: where the classifier is stored;
    channels: 3 for RGB or 1 for grey.
    """
    planned = plan_network(network, image_size)
    real = load_real(data_path, split.train_images, successor_of, image_size, "real training images", channels,
                     split.preparation)
    model = load_or_train_evaluation_classifier(real, network=planned, num_classes=len(split.users), folder=folder,
                                                device=device)
    return model, real
