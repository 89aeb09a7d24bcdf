"""A ResNet18 trained on the real training images alone: what synthetic images are judged by."""
import hashlib
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from groundwork.device import half_precision, in_memory_format
from groundwork.errors import InputError
from groundwork.files import load_tensors, save_tensors
from groundwork.images import load_images
from microdoppler.data.overlap import Successor
from microdoppler.data.spectrograms import labels_of
from microdoppler.data.split import Split
from microdoppler.study.arms import Arm, ImageSet
from microdoppler.study.augmentation import SuccessorIndex
from microdoppler.study.classifier import RECIPE_VERSION, build_classifier, train_classifier

LARGEST = 96            # pixels: enough to tell walkers apart, and a ninth of the work of 256
EPOCHS = 25
BATCH_SIZE = 16
LR = 2e-3
SEED = 1_000_003        # none of the study's, whose classifiers it must not resemble


def load_real(data_path: str | Path, images: dict[int, list[str]], following: dict[str, Successor], image_size: int,
              label: str, channels: int = 3) -> ImageSet:
    """{user: paths} as images of image_size that know what follows them; channels as load_image's."""
    paths, labels = labels_of(images)
    return ImageSet(load_images(data_path, paths, image_size, label, channels), labels,
                    SuccessorIndex.among(paths, following, image_size))


def load_or_train_recogniser(real: ImageSet, *, num_classes: int, folder: str | Path,
                             device: torch.device) -> nn.Module:
    """The evaluation classifier of these training images: read from folder/recogniser-<digest>.pt, else trained."""
    determines = [RECIPE_VERSION, real.digest, num_classes, EPOCHS, BATCH_SIZE, LR, SEED, device.type,
                  half_precision(device)]
    path = Path(folder) / f"recogniser-{hashlib.sha256(repr(determines).encode()).hexdigest()[:12]}.pt"
    if path.exists():
        try:
            model = build_classifier(num_classes, SEED)
            model.load_state_dict(load_tensors(path))
            return in_memory_format(model.to(device), torch.channels_last).eval()
        except (InputError, RuntimeError):      # damaged: it can be made again
            pass
    num_steps = max(1, EPOCHS * len(real.images) // BATCH_SIZE)
    arm = Arm("real + classical", real, classical=True)
    with tqdm(total=num_steps, desc="training the evaluation classifier", unit="step", disable=None) as bar:
        model = train_classifier(arm.batches(num_steps, BATCH_SIZE, (0, 0), SEED), num_classes=num_classes,
                                 num_steps=num_steps, lr=LR, seed=SEED, device=device, on_step=bar.update)
    save_tensors(path, model.state_dict())
    return model


def open_evaluation_classifier(data_path: str | Path, split: Split, following: dict[str, Successor], *, image_size: int,
                    folder: str | Path, device: torch.device, channels: int = 3) -> tuple[nn.Module, ImageSet]:
    """(the evaluation classifier of a split's training images, those images at the size that it works at, which is
    image_size, LARGEST at most)."""
    real = load_real(data_path, split.train_images, following, min(LARGEST, image_size), "real training images",
                     channels)
    model = load_or_train_recogniser(real, num_classes=max(split.users), folder=folder, device=device)
    return model, real
