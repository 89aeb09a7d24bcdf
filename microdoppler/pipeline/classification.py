"""Does the synthetic data help? ResNet18 on real images, with and without augmentation and synthetic sets."""
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from groundwork.device import choose_device, describe_work
from groundwork.errors import InputError
from groundwork.files import write_json
from groundwork.images import load_images
from groundwork.lock import sole_writer
from microdoppler.data.audit import audit_split
from microdoppler.data.overlap import Overlaps
from microdoppler.data.spectrograms import find_classes, labels_of
from microdoppler.data.split import Split, split_images
from microdoppler.data.synthetic_sets import channels_of, check_sizes, facts_of, find_synthetic, match_to_folds
from microdoppler.figures.report import Picture, Section, Table, render_report, save_figure
from microdoppler.pipeline.assembly import open_overlaps, open_split, split_settings
from microdoppler.pipeline.constants import check_constants
from microdoppler.study.arms import ImageSet, arms_of
from microdoppler.study.evaluation_classifier import load_real, open_evaluation_classifier
from microdoppler.study.report import accuracy_figure, conclusion, confusion_figure, result_tables
from microdoppler.study.runs import Fold, run_study
from microdoppler.study.selection import select_images
from microdoppler.study.summary import summarize
from train_latent_cfg import Config


def classify(config: Config, *, synthetic: tuple[Path, ...] = (), folds: tuple[int, ...] = (), seeds: int | None = None,
         select: float | None = None, force: bool = False) -> dict[str, Any]:
    """Train classifiers on real and synthetic images and compare them, step 5 of 5.

    Arms: real only, real + classical augmentation, and for each synthetic set real + synthetic, real + classical +
    synthetic, synthetic only; every arm with the same number of steps. Run again, only missing runs are made.

    Args:
        synthetic: folders that generate.py wrote. Of several folds, each needs its own, drawn by a model of that fold;
            folders of the same name are one set
        folds: which thirds of the recordings to train on, e.g. 0 1 2; default: split_fold
        seeds: repeats of every arm and fold; default: classifier_seeds
        select: adds arms with those synthetic images only that a classifier of the real training images assigns to
            their user with at least this confidence (0 … 1) and that are no near-copies of training images
        force: with one fold, take sets too whose model was trained on another split; runs.csv will say so
    """
    check_constants(config)
    if config.num_users < 2:
        raise InputError("num_users is 1; expected 2 or more: one person cannot be mistaken for another")
    seeds = config.classifier_seeds if seeds is None else seeds
    if seeds < 1:
        raise InputError(f"--seeds {seeds}; expected at least 1")
    if select is not None and not 0 <= select <= 1:
        raise InputError(f"--select {select:g}; expected a confidence in 0 … 1")
    if select is not None and not synthetic:
        raise InputError("--select needs --synthetic: it says which synthetic images to keep")
    device = choose_device(config.device)
    classes = find_classes(config.data_path, config.num_users, config.class_folders)
    print(describe_work(device, at_once=config.classifier_batch_size))
    for path in synthetic:
        check_sizes(path, find_synthetic(path, classes), config.classifier_image_size, "classifier_image_size")
    overlaps, splits = open_splits(config, folds)
    sets, channels = match_to_folds(synthetic, splits, force), channels_of(synthetic, classes)
    folder = config.results_folder / "classify"
    with sole_writer(folder):
        opened, tables = zip(*(open_fold(config, fold, split, overlaps, sets[fold], select, channels, device)
                               for fold, split in splits.items()))
        runs = run_study(
            opened, num_classes=config.num_users, device=device, folder=folder,
            seeds=range(config.seed, config.seed + seeds),
            recipe={"num_steps": config.classifier_steps, "batch_size": config.classifier_batch_size,
                    "lr": config.classifier_lr, "synthetic_shares": config.classifier_synthetic_shares})
        summary = summarize(runs, next(iter(splits.values())).names)
        kept = [table for own in tables for table in own]
        write_report(summary, config, opened, kept, folder)
    shown = [*result_tables(summary), *kept]
    print("\n" + "\n\n".join([*(table.as_text() for table in shown), conclusion(summary)])
          + f"\n\nreport: {folder / 'report.html'}")
    return summary


def open_splits(config: Config, folds: tuple[int, ...]) -> tuple[Overlaps, dict[int, Split]]:
    """The data set's overlaps, and the split of each fold; other folds than split_fold are not written to disk."""
    if len(set(folds)) < len(folds):
        raise InputError(f"--folds {' '.join(map(str, folds))}; expected each fold once")
    if len(folds) > 1 and config.split_strategy != "contiguous":
        raise InputError("--folds needs split_strategy contiguous; a random split has no folds")
    settings = {fold: replace(split_settings(config), fold=fold) for fold in folds or (config.split_fold,)}
    own = open_split(config)
    overlaps = open_overlaps(config)
    splits = {fold: own if fold == config.split_fold else replace(split_images(overlaps.names, wanted), names=own.names)
              for fold, wanted in settings.items()}
    for fold in splits.keys() - {config.split_fold}:
        print(f"fold {fold}: {audit_split(splits[fold], overlaps).line}")
    return overlaps, splits


def open_fold(config: Config, number: int, split: Split, overlaps: Overlaps, sets: dict[str, Path],
              least: float | None, channels: int, device: torch.device) -> tuple[Fold, list[Table]]:
    """One fold with all its images loaded, and a table for each set of what --select keeps."""
    size = config.classifier_image_size
    real = load_real(config.data_path, split.train_images, overlaps.following, size,
                     f"fold {number}: training images", channels)
    test = load_real(config.data_path, split.test_images, {}, size, f"fold {number}: test images", channels)
    opened = {name: load_synthetic(folder, find_synthetic(folder, split.classes), size, name, channels)
              for name, folder in sets.items()}
    selected, tables = {}, []
    if least is not None and opened:
        classifier, training = open_evaluation_classifier(
            config.data_path, split, overlaps.following, image_size=size, folder=config.latents_cache_folder,
            device=device, channels=channels)
        for name, images in opened.items():
            choice = select_images(classifier, images, training, least)
            if not choice.kept.any():
                raise InputError(f"--select {least:g} keeps no image of {sets[name]}: of {len(images.images)}, "
                                 f"{int(choice.doubted.sum())} have a lower confidence and "
                                 f"{int(choice.copies.sum())} are near-copies of training images")
            selected[name] = choice.kept_images
            tables.append(choice.table(f"{name}, fold {number}", split.names))
    test_paths, _ = labels_of(split.test_images)
    passes = [f"{path.split('/')[0]} pass {overlaps.pass_of[path]}" for path in test_paths]
    arms = arms_of(real, opened, selected)
    facts = {arm.name: facts_of(sets[arm.synthetic_name], split) | ({"select": least} if arm.is_selected else {})
             for arm in arms if arm.synthetic_name}
    return Fold(number, arms, test, passes,
                {"data_path": str(config.data_path),
                 **{f"split_{name}": value for name, value in vars(split.settings).items()}}, facts), tables


def load_synthetic(folder: Path, images: dict[int, list[str]], image_size: int, label: str,
                   channels: int) -> ImageSet:
    paths, labels = labels_of(images)
    return ImageSet(load_images(folder, paths, image_size, label, channels), labels)


def write_report(summary: dict, config: Config, folds: tuple[Fold, ...], kept: list[Table], folder: Path) -> None:
    """summary.json, accuracy.png, confusion.png and report.html."""
    drawn_by = [{"name": arm.synthetic_name, "fold": fold.number, **fold.facts[arm.name]}
                for fold in folds for arm in fold.arms if arm.kind == "synthetic only"]
    write_json(folder / "summary.json", {**summary, "selection": [vars(table) for table in kept], "sets": drawn_by})
    save_figure(accuracy_figure(summary), folder / "accuracy.png")
    save_figure(confusion_figure(summary), folder / "confusion.png")
    first, last = config.classifier_synthetic_shares
    method = (f"ResNet18 without pretraining, {config.classifier_image_size} px, {config.classifier_steps} steps of "
              f"{config.classifier_batch_size} images in every arm, learning rate {config.classifier_lr}; with both "
              f"kinds of images, the share of synthetic ones goes from {first:.0%} in the first batch to {last:.0%} in "
              "the last. Classical augmentation: windows cut at any time from stitched neighbours of one pass, "
              "small Doppler shifts, one stretch of time and one of Doppler masked.")
    counts = [f"Fold {fold.number}: {len(real.images)} real training and {len(fold.test.images)} test "
              f"images of {len(set(fold.passes))} passes." for fold in folds if (real := fold.arms[0].real)]
    sets = dict.fromkeys(f"Fold {fold.number}, {arm.synthetic_name}: {fold.facts[arm.name]['synthetic_folder']}"
                         for fold in folds for arm in fold.arms if arm.synthetic_name)
    render_report(folder / "report.html", "Does the synthetic data help?", [
        Section("Result", [conclusion(summary)],
                result_tables(summary),
                [Picture(folder / "accuracy.png", "Test accuracy of each arm, and its difference from the baseline")]),
        Section("Who is mistaken for whom", pictures=[
            Picture(folder / "confusion.png", "Confusion of real only and of the most accurate other arm, all runs")]),
        *([Section("Selected synthetic images", tables=kept)] if kept else []),
        Section("Method", [method, *counts, *sets]),
    ])
