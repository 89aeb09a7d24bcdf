"""Predict who is on the images of a folder, with a classifier that classify.py --save_models kept.

    python -m microdoppler.predict --model results/classify/models/real+classical.safetensors --images FOLDER
"""
import csv
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from groundwork.device import choose_device
from groundwork.errors import InputError, shortened
from groundwork.files import atomic_path
from groundwork.images import SUFFIXES, load_images, open_image
from groundwork.limits import checks_arguments
from groundwork.preparation import Preparation
from groundwork.progress import Progress
from microdoppler.data.folders import image_files
from microdoppler.data.spectrograms import class_of, drop_broken
from microdoppler.figures.report import Table
from microdoppler.study.trained_classifier import TrainedClassifier

AT_ONCE = 256       # images that are in memory at a time


@checks_arguments
def main(model: Path, images: Path, *, output: Path = Path("predictions.csv"), device: str = "auto") -> None:
    """Predict who is on the images of a folder, and how often that is right where the folders are known users.

    Args:
        model: a file that classify.py --save_models wrote
        images: a folder of images, or of folders of images; those called like a user of the classifier are scored
        output: table of all images: path, user, predicted user, confidence, and the probability of each user
        device: auto, cpu, cuda or cuda:<n>
    """
    classifier = TrainedClassifier.load(model, choose_device(device))
    folders = classifier.classes.folders
    print(f"classifier: {classifier}")
    paths, probabilities = predict_folder(classifier, images)
    labels = true_labels(images, paths, folders)
    write_predictions(output, paths, labels, probabilities, folders)
    print("\n".join([*result_lines(labels, probabilities, classifier.classes.names), f"written: {output}"]))


def predict_folder(classifier: TrainedClassifier, folder: Path) -> tuple[list[str], np.ndarray]:
    """Predict all images in a folder and in those below it.

    Returns (paths relative to the folder, probabilities (n, classes) float32). A folder that generate.py wrote holds
    prepared images; others are prepared as the classifier's data set was. Broken images are left out, and named.

    Raises InputError when there is no image, or too many are broken.
    """
    if not folder.is_dir():
        raise InputError(f"--images {folder} is no folder; expected a folder of images, or of a folder per user")
    paths = [path.relative_to(folder).as_posix() for path in image_files(folder)]
    if not paths:
        raise InputError(f"--images {folder} holds no image ({', '.join(sorted(SUFFIXES))}); give the folder that does")
    size, channels = classifier.network.image_size, classifier.classes.channels
    preparation = Preparation() if (folder / "manifest.json").exists() else classifier.classes.preparation
    decodable, warnings = drop_broken(folder, {0: paths}, preparation)
    paths = decodable[0]
    with open_image(folder / paths[0]) as first:
        if min(first.size) < size:
            warnings.append(f"{paths[0]} has {first.width} x {first.height} px and is enlarged to {size} px: the "
                            "classifier was not trained on enlarged images")
    for warning in warnings:
        print(f"warning: {warning}")
    parts = []
    with Progress(total=len(paths), desc="predicting", unit="image") as bar:
        for start in range(0, len(paths), AT_ONCE):
            own = paths[start:start + AT_ONCE]
            parts.append(classifier.predict(load_images(folder, own, size, None, channels, preparation)))
            bar.update(len(own))
    return paths, torch.cat(parts).numpy()


def true_labels(folder: Path, paths: list[str], folders: tuple[str, ...]) -> list[int | None]:
    """The label of each image: which of the classifier's `folders` it lies in; None if it lies in none of them.

    paths: relative to `folder`, which may itself be that of a user.
    """
    label_of = {class_of(name): label for label, name in enumerate(folders)}
    own_name = folder.resolve().name
    return [label_of.get(class_of(path.split("/")[0] if "/" in path else own_name)) for path in paths]


def write_predictions(output: Path, paths: list[str], labels: list[int | None], probabilities: np.ndarray,
                      folders: tuple[str, ...]) -> None:
    """Write a CSV file with a row per image; the column "user" is empty where it is unknown."""
    with atomic_path(output) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "user", "predicted", "confidence", *(f"probability_{name}" for name in folders)])
        for path, label, row in zip(paths, labels, probabilities):
            writer.writerow([path, "" if label is None else folders[label], folders[row.argmax()],
                             *(f"{value:.6f}" for value in (row.max(), *row))])


def result_lines(labels: list[int | None], probabilities: np.ndarray, names: tuple[str, ...]) -> list[str]:
    """What the predictions say: a table with a row per user, and the accuracy where users are known."""
    predicted, lines = probabilities.argmax(axis=1), []
    unknown = [i for i, label in enumerate(labels) if label is None]
    known = [(label, int(found)) for label, found in zip(labels, predicted) if label is not None]
    if known:
        rows, right = [], 0
        for label in sorted({label for label, _ in known}):
            own = Counter(found for true, found in known if true == label)
            right += own[label]
            others = [f"{names[other]} ({count})" for other, count in own.most_common() if other != label]
            rows.append([names[label], str(own.total()), f"{own[label]} ({own[label] / own.total():.1%})",
                         shortened(others, 3) or "-"])
        lines += [Table(["user", "images", "recognised", "mistaken for"], rows).as_text(),
                  f"accuracy: {100 * right / len(known):.1f} % of {len(known)} images of known users"]
    if unknown:
        counts = Counter(int(predicted[i]) for i in unknown)
        rows = [[names[label], str(count),
                 f"{np.mean([probabilities[i, label] for i in unknown if predicted[i] == label]):.2f}"]
                for label, count in sorted(counts.items())]
        lines += [f"{len(unknown)} images lie in no folder of a user of the classifier; they are taken for:",
                  Table(["user", "images", "mean confidence"], rows).as_text()]
    return lines
