"""What a study needs of each fold: real, synthetic and control images, as arms, and the images to test on."""
from dataclasses import replace
from pathlib import Path

import torch

from groundwork.errors import InputError
from groundwork.images import load_images
from microdoppler.data.audit import audit_split
from microdoppler.data.control_sets import CUT, ControlSet, find_control
from microdoppler.data.other_images import OtherImages, find_condition, find_unseen_users
from microdoppler.data.spectrograms import paths_and_labels
from microdoppler.data.split import Split, split_images
from microdoppler.data.synthetic_sets import facts_of, find_synthetic, name_folders
from microdoppler.data.trainings import set_and_training
from microdoppler.figures.report import Table
from microdoppler.pipeline.assembly import Data, open_data
from microdoppler.study.arms import ImageSet, arms_of
from microdoppler.study.copies import CopyDetector
from microdoppler.study.evaluation_classifier import load_real, open_evaluation_classifier
from microdoppler.study.kinds import CUTS, CUTS_THROUGH_VAE, SELECTED, SYNTHETIC
from microdoppler.study.recipe import Recipe
from microdoppler.study.runs import Fold, TestSet
from microdoppler.study.selection import select_images
from microdoppler.study.trained_classifier import Classes
from train_latent_cfg import Config


def recipe_of(config: Config) -> Recipe:
    """The Recipe that a Config asks for."""
    return Recipe(network=config.classifier, epochs=config.classifier_epochs, batch_size=config.classifier_batch_size,
                  lr=config.classifier_lr, mixing=config.classifier_mixing, budget=config.classifier_budget,
                  synthetic_shares=config.classifier_synthetic_shares)


def open_splits(config: Config, folds: tuple[int, ...]) -> tuple[Config, Data, dict[int, Split]]:
    """The Config with the constants that were left open, the data set, and {fold: its split}.

    folds: as given, or () for that of the stored split alone; only this one is stored in data_split.json. Raises
    InputError when a fold is named twice, or when a random split or a given test set has several folds.
    """
    if len(set(folds)) < len(folds):
        raise InputError(f"--folds {' '.join(map(str, folds))}; expected each fold once")
    config, data = open_data(config)
    stored, settings = data.split, data.split.settings
    if len(folds) > 1 and (settings.strategy != "contiguous" or settings.test_data is not None):
        raise InputError("--folds needs a contiguous split; a random split and a given test set have no folds")
    splits = {fold: stored if fold == settings.fold else
              replace(split_images(stored.recordings, replace(settings, fold=fold), stored.folders), names=stored.names)
              for fold in folds or (settings.fold,)}
    for fold in splits.keys() - {settings.fold}:
        print(f"fold {fold}: {audit_split(splits[fold], data.overlaps).line}")
    return config, data, splits


def find_controls(sets: dict[int, dict[str, Path]], splits: dict[int, Split]) -> dict[int, ControlSet | None]:
    """{fold: what the generators of its synthetic sets were trained on}; None in all folds where one of them lacks it,
    because every fold has the same arms. A line says what is missing.

    sets: {fold: {name of a set: its folder}}; splits: {fold: its split}.
    """
    controls = {fold: _control_of(list(folders.values()), splits[fold]) for fold, folders in sets.items()}
    return controls if all(controls.values()) else dict.fromkeys(sets)


def _control_of(folders: list[Path], split: Split) -> ControlSet | None:
    """The control with the most cuts among those of synthetic sets of one fold; None if none has one for this split."""
    controls = []
    for folder in folders:
        if (control := find_control(folder)) and _is_of_split(control, split):
            controls.append(control)
        else:
            print(f"note: {folder} lacks a control for this split, the windows that its generator was trained on; "
                  "without one, there are no arms real + cuts: run generate.py again, which writes it")
    controls.sort(key=lambda control: sum(map(len, control.cuts.values())))
    for control in controls[:-1]:
        if any(cuts.items() - controls[-1].cuts[user].items() for user, cuts in control.cuts.items()):
            print(f"note: {control.folder} holds other windows than {controls[-1].folder}, which the arms real + cuts "
                  "are made of")
    return controls[-1] if controls else None


def _is_of_split(control: ControlSet, split: Split) -> bool:
    """Whether a control has cuts of all users, and all from training images of this split."""
    return list(control.cuts) == list(split.users) and all(
        {cut.path, cut.successor.path if cut.successor else cut.path} <= set(split.train_images[user])
        for user, cuts in control.cuts.items() for cut in cuts.values())


def load_fold(config: Config, number: int, data: Data, sets: dict[str, Path], control: ControlSet | None,
              min_confidence: float | None, channels: int, device: torch.device) -> tuple[Fold, list[Table]]:
    """Fold `number` with all its images and arms, and for each set a table of the images that --select keeps.

    sets: {name of a synthetic set: its folder}; min_confidence: the value of --select; channels: 3 or 1.
    """
    size, split, overlaps = config.classifier_image_size, data.split, data.overlaps
    real = load_real(data.path, split.train_images, overlaps.successor_of, size, f"fold {number}: training images",
                     channels, split.preparation)
    test = load_real(data.path, split.test_images, {}, size, f"fold {number}: test images", channels, split.preparation)
    synthetic = {name: load_synthetic(folder, find_synthetic(folder, split.folders), size, name, channels)
                 for name, folder in sets.items()}
    selected, tables = ({}, []) if min_confidence is None or not synthetic else select_sets(
        config, number, data, sets, synthetic, min_confidence, channels, device)
    added = {SYNTHETIC: synthetic, SELECTED: selected}
    if control:
        added |= {CUTS: {"": ImageSet(*control.raw_cuts(data.path, size, channels, split.preparation))},
                  CUTS_THROUGH_VAE: {"": ImageSet(*control.decoded(CUT, size, channels))}}
    arms = arms_of(real, added, config.classifier_augmentations)
    folder_of = {set_and_training(name): folder for name, folder in sets.items()}
    facts = {arm: facts_of(folder_of[arm.synthetic_name, arm.training], split)
             | ({"select": min_confidence} if arm.kind.added == SELECTED else {}) for arm in arms if arm.synthetic_name}
    facts |= {arm: {"control_folder": str(control.folder)} for arm in arms if control and arm.kind.is_control}
    test_paths, _ = paths_and_labels(split.test_images)
    made_by = {f"split_{name}": value for name, value in split.settings.to_json().items()}
    return Fold(number, arms, test, test_paths, overlaps.pass_names(test_paths),
                {"data_path": str(config.data_path), **made_by}, facts, split.users), tables


def classes_of(split: Split, channels: int) -> Classes:
    """What the classifiers of a split tell apart; channels: of the images, 3 or 1."""
    return Classes(tuple(split.folders[user] for user in split.users), tuple(split.names[user] for user in split.users),
                   channels, split.preparation)


def select_sets(config: Config, number: int, data: Data, sets: dict[str, Path], synthetic: dict[str, ImageSet],
                min_confidence: float, channels: int, device: torch.device) -> tuple[dict[str, ImageSet], list[Table]]:
    """The images of each synthetic set that --select keeps, {name of the set: images}, and a table of each set.

    Raises InputError when it keeps no image of a set.
    """
    split, selected, tables = data.split, {}, []
    classifier, training = open_evaluation_classifier(
        data.path, split, data.overlaps.successor_of, network=config.classifier,
        image_size=config.classifier_image_size, folder=config.latents_cache_folder, device=device, channels=channels)
    for name, images in synthetic.items():
        detector = CopyDetector.of(find_control(sets[name]), training, images.images.shape[-1], channels)
        selection = select_images(classifier, training.images.shape[-1], images, detector, min_confidence)
        if not selection.kept.any():
            raise InputError(f"--select {min_confidence:g} keeps no image of {sets[name]}: of "
                             f"{len(images.images)}, {int(selection.low_confidence.sum())} have a lower confidence "
                             f"and {int(selection.near_copies.sum())} are near-copies of training images")
        selected[name] = selection.kept_images
        tables.append(selection.table(f"{name}, fold {number}", split.names))
    return selected, tables


def load_synthetic(folder: Path, images: dict[int, list[str]], image_size: int, label: str,
                   channels: int) -> ImageSet:
    """The images of a synthetic set with their labels; images: {user: paths relative to folder}; label: of the progress
    bar; channels: 3 or 1."""
    paths, labels = paths_and_labels(images)
    return ImageSet(load_images(folder, paths, image_size, label, channels), labels)


def load_conditions(config: Config, data: Data, folders: tuple[Path, ...], channels: int) -> dict[str, TestSet]:
    """The images of the users under other conditions: {name of the condition's folder: images}."""
    return {name: load_other(config, find_condition(folder, data.path, data.split,
                                                    config.latents_cache_folder / f"condition_{number}"),
                             name, data.split, channels)
            for number, (name, folder) in enumerate(name_folders(list(folders)).items(), start=1)}


def load_unseen(config: Config, data: Data, channels: int) -> TestSet | None:
    """The images of the users that the split leaves out; None if it leaves out nobody."""
    found = find_unseen_users(data.path, data.split, config.latents_cache_folder / "unseen_users")
    return load_other(config, found, "unseen users", data.split, channels) if found else None


def load_other(config: Config, other: OtherImages, label: str, split: Split, channels: int) -> TestSet:
    """Load images that are neither trained on nor the split's test images; label: of the progress bar."""
    paths, _ = paths_and_labels(other.images)
    return TestSet(load_real(other.root, other.images, {}, config.classifier_image_size, label, channels,
                             split.preparation), [other.passes[path] for path in paths], paths)
