"""Measure how similar to real images synthetic images are, how diverse, how new, and whether their gait is right.

    python -m microdoppler.fidelity --data_path DATA --synthetic synthetic_data/checkpoint_75

Beside each metric of synthetic images stands the same metric of held-out real images, with an interval in which that of
a perfect generator would lie; see yardsticks.py.
"""
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from groundwork.device import choose_device, describe_work
from groundwork.errors import InputError
from groundwork.files import atomic_path, read_json, write_json
from groundwork.preparation import Preparation
from groundwork.images import load_images
from groundwork.limits import checks_arguments
from groundwork.progress import Progress
from microdoppler.data.audit import Match, pairs_figure
from microdoppler.data.control_sets import find_control
from microdoppler.data.spectrograms import paths_and_labels
from microdoppler.data.split_file import SplitOptions, load_split, locate_data, open_split
from microdoppler.data.synthetic_sets import (channels_of, check_sizes, facts_of, find_synthetic, match_to_folds,
                                              smallest_side, started_from)
from microdoppler.fidelity.distributions import separation
from microdoppler.fidelity.gait_physics import MIN_WALKING, cadence_share, describe_gait
from microdoppler.fidelity.report import (PAIRS_CAPTION, fidelity_verdict, gait_figure, near_copy_bars, novelty_figure,
                                          overview_figure, tables)
from microdoppler.fidelity.sample_evaluator import SampleEvaluator
from microdoppler.fidelity.texture import power_spectra, speckle_contrast
from microdoppler.fidelity.two_sample import two_sample_test
from microdoppler.fidelity.yardsticks import (Comparison, compare_features, compare_spectra, compare_values,
                                              mean_of_known, median_of_known, random_halves)
from microdoppler.figures.axes import SIMULATION_FILE, PictureAxes, known_axes
from microdoppler.figures.report import Picture, Section, render_report, save_figure
from microdoppler.simulate.gait import AXES as SIMULATED_AXES
from microdoppler.study.arms import ImageSet
from microdoppler.study.classifier import predict
from microdoppler.study.copies import CopyDetector, NearestTraining
from microdoppler.study.evaluation_classifier import (load_or_train_evaluation_classifier, load_real,
                                                      open_evaluation_classifier)
from microdoppler.study.networks import DEFAULT_NETWORK, check_network, plan_network

SHOWN_PAIRS = 4             # pairs of most similar images in the report
IMAGE_SIZE = 256            # pixels at which images are compared; smaller if the synthetic images are smaller
MIN_IMAGE_SIZE = 32         # pixels, as the least of Config.classifier_image_size


# {metric that each image has by itself: what makes one value of those of several images}; of the others: the median.
STATISTICS = {"recognised": mean_of_known, "copies": mean_of_known, "speckle": mean_of_known}
SHARES = ("recognised", "copies")       # metrics in 0 … 1


@dataclass(frozen=True, eq=False)
class EvaluatedSet:
    """n held-out real or synthetic images, with what is known about them.

    paths: relative to their data folder; features: (n, 512) float32, of the evaluation classifier; groups: (n,) str,
    the pass that each image comes from, or the training image that it is a variation of; values: {metric: (n,)}, those
    that each image has by itself. recognised: whether it is classified as its own user; speckle: see
    `speckle_contrast`; copies: whether it is a near-copy of a training image; nearest: its distance from the nearest of
    them; and those of `describe_gait`. spectra: as `power_spectra` returns them.
    """
    images: ImageSet
    paths: list[str]
    features: np.ndarray
    groups: np.ndarray
    values: dict[str, np.ndarray]
    spectra: dict[str, np.ndarray]

    def subset(self, chosen: torch.Tensor) -> "EvaluatedSet":
        """The images where `chosen` (n,) bool is True."""
        keep = chosen.numpy()
        return EvaluatedSet(ImageSet(self.images.images[chosen], self.images.labels[chosen]),
                            [path for path, kept in zip(self.paths, keep) if kept], self.features[keep],
                            self.groups[keep], {name: own[keep] for name, own in self.values.items()},
                            {name: own[keep] for name, own in self.spectra.items()})


def evaluate_images(root: Path, images: dict[int, list[str]], image_size: int, evaluator: SampleEvaluator,
                    groups: dict[str, str], label: str, channels: int,
                    preparation: Preparation = Preparation()) -> EvaluatedSet:
    """Load images at image_size pixels, and evaluate them: features, recognised, speckle and spectra.

    images: {user number: paths relative to root}; groups: {path: name of its group}, an image that is not in it is a
    group of its own; label: of the progress bar; channels: 3 for RGB or 1 for grey; preparation: how files become
    square arrays.
    """
    paths, labels = paths_and_labels(images)
    loaded = ImageSet(load_images(root, paths, image_size, label, channels, preparation), labels)
    recognised = evaluator.probabilities(loaded.images).argmax(dim=1) == labels
    return EvaluatedSet(loaded, paths, evaluator.features(loaded.images),
                        np.array([groups.get(path, path) for path in paths]),
                        {"recognised": recognised.numpy(), "speckle": speckle_contrast(loaded.images).numpy()},
                        power_spectra(loaded.images))


def compare_user(real: EvaluatedSet, synthetic: EvaluatedSet, rng: np.random.Generator) -> dict[str, Comparison]:
    """All metrics of a user's synthetic images beside those of its held-out real images: {metric: Comparison}.

    speckle is relative to the real images. rng: for the random halves of the passes.
    """
    names, passes = np.unique(real.groups, return_inverse=True)
    halves = random_halves(len(names), rng)
    comparisons = compare_features(real.features, synthetic.features, passes, synthetic.groups, halves, rng)
    for name, values in real.values.items():
        unit = mean_of_known(values) if name == "speckle" else 1.0
        comparisons[name] = compare_values(values / unit, synthetic.values[name] / unit, halves[:, passes],
                                           STATISTICS.get(name, median_of_known))
    for name, spectra in real.spectra.items():
        comparisons[name] = compare_spectra(spectra, synthetic.spectra[name], halves[:, passes], rng)
    return comparisons | {name: replace(comparisons[name], halvings=comparisons[name].halvings.clip(0, 1))
                          for name in SHARES if name in comparisons}


def plain(comparisons: dict[str, Comparison]) -> dict[str, dict[str, Any]]:
    """Comparisons as in fidelity.json: {"synthetic" or "real": {metric: value}, "interval": {metric: [low, high]}}."""
    return {"synthetic": {name: one.synthetic for name, one in comparisons.items()}
            | {"kid_error": comparisons["kid"].error},
            "real": {name: one.real for name, one in comparisons.items()},
            "interval": {name: list(one.interval) for name, one in comparisons.items() if one.interval}}


def measure(real: EvaluatedSet, synthetic: EvaluatedSet, detector: CopyDetector, axes: PictureAxes | None,
            users: list[int]) -> dict:
    """All metrics of synthetic images and, to compare with, of held-out real images.

    detector: tells near-copies of the training images; axes: of the images, None if nobody walks in them. The gait is
    measured only if the held-out real images show one. users: the user number of each label.

    Returns "users": {user number: as `plain` returns it}; "all": the same, of the mean over users; "copy_bars": the
    correlation from which on an image of a user counts as a near-copy, for each user, from known copies; empty if these
    are unknown; and for figures, with a value per image, "gait": {"synthetic" or "real": result of `describe_gait`} and
    "nearest": {"synthetic" or "real": NearestTraining}.
    """
    sets = {"synthetic": synthetic, "real": real}
    nearest = {"synthetic": detector.nearest(synthetic.images), "real": detector.nearest_of_held_out(real.images)}
    gaits: dict[str, dict[str, np.ndarray]] = {"synthetic": {}, "real": {}}
    gait = describe_gait(real.images.images.numpy(), axes) if axes else None
    if axes and gait and cadence_share(gait) >= MIN_WALKING:
        gaits = {"synthetic": describe_gait(synthetic.images.images.numpy(), axes), "real": gait}
    sets = {kind: replace(own, values=own.values | gaits[kind] | {
        "copies": nearest[kind].is_copy.numpy(), "nearest": nearest[kind].distance.numpy()})
        for kind, own in sets.items()}
    of_users, rng = {}, np.random.default_rng(0)
    for label in Progress(real.images.labels.unique(), desc="comparing", unit="user", delay=1, leave=False):
        own = {kind: evaluated.subset(evaluated.images.labels == label) for kind, evaluated in sets.items()}
        of_users[users[int(label)]] = compare_user(own["real"], own["synthetic"], rng)
    names = next(iter(of_users.values()))
    overall = {name: Comparison.mean_over_users([one[name] for one in of_users.values()]) for name in names}
    report: dict = {"users": {user: plain(comparisons) for user, comparisons in of_users.items()},
                    "all": plain(overall), "gait": gaits, "nearest": nearest,
                    "copy_bars": [scale.bar for scale in detector.scales.values()]}
    report["all"]["synthetic"]["kid_users"] = overall["kid"].num_users
    for kind, evaluated in sets.items():
        labels = evaluated.images.labels.numpy()
        report["all"][kind] |= {"num_images": len(labels), "separation": separation(evaluated.features, labels)}
        for user, metrics in report["users"].items():
            metrics[kind]["num_images"] = int((labels == users.index(user)).sum())
    if gait:
        report["all"]["real"]["cadence_share"] = cadence_share(gait)
    return report


def tell_apart(real: EvaluatedSet, synthetic: EvaluatedSet, training: ImageSet, training_passes: list[str],
               device: torch.device) -> dict[str, dict[str, Any]]:
    """The two-sample test of the synthetic images and, to compare with, of the training images, each against the
    held-out real images: {"synthetic" or "real": {"two_sample": AUC, "two_sample_spread": standard deviation over
    folds}, "interval": {"two_sample": that of a perfect generator}}. training_passes: the pass of each training image.
    """
    tests = {kind: two_sample_test(real.images, real.groups.tolist(), own, groups, device=device,
                                   label=f"telling held-out real from {name} images")
             for kind, name, own, groups in (("synthetic", "synthetic", synthetic.images, synthetic.groups.tolist()),
                                             ("real", "training", training, training_passes))}
    return {kind: {"two_sample": test.auc, "two_sample_spread": test.spread} for kind, test in tests.items()} | {
        "interval": {"two_sample": list(tests["real"].interval)}}


def closest_pairs(synthetic: EvaluatedSet, nearest: NearestTraining, training_paths: list[str]) -> list[Match]:
    """The SHOWN_PAIRS synthetic images that are most similar to a training image, the most similar first."""
    order = nearest.correlation.argsort(descending=True)[:SHOWN_PAIRS].tolist()
    return [Match(synthetic.paths[i], training_paths[int(nearest.index[i])], float(nearest.correlation[i]),
                  float(nearest.shift[i])) for i in order]


def may_show_walking(data_path: Path) -> bool:
    """False if a simulated data set's simulation.json names another kind of motion than a gait."""
    truth = read_json(data_path / SIMULATION_FILE) if (data_path / SIMULATION_FILE).exists() else {}
    return not isinstance(truth, dict) or truth.get("kind", "gait") == "gait"


@checks_arguments
def main(data_path: Path, synthetic: Path, *, split: Path = Path("latents_cache/data_split.json"),
         output: Path = Path("results/fidelity"), classifier: str = DEFAULT_NETWORK,
         classifier_image_size: int | None = None, window_seconds: float = 0.0,
         velocity_range_mps: tuple[float, float] = (0.0, 0.0), trts: bool = False, device: str = "auto") -> dict:
    """Compare synthetic images with held-out real images, which the model was not trained on.

    Writes fidelity.json, features.npz, pictures and report.html.

    Args:
        data_path: the real data set, with a folder per user
        synthetic: a folder that generate.py wrote
        split: the split that the model was trained on
        output: folder for the results
        classifier: network of the evaluation classifier, one of torchvision's classification models
        classifier_image_size: pixels at which images are compared, fewer are faster; default: 256, or the size of the
            synthetic images if smaller
        window_seconds: duration of an image; 0: from axes.json, else the simulator's
        velocity_range_mps: m/s at an image's lowest and highest row; set it with window_seconds
        trts: also train a classifier on the held-out real images, and say how many synthetic images it recognises
            (train on real, test on synthetic); it takes as long as the first evaluation classifier
        device: auto, cpu, cuda or cuda:<n>
    """
    check_network(classifier)
    size = classifier_image_size
    if size is not None and size < MIN_IMAGE_SIZE:
        raise InputError(f"--classifier_image_size {size}; expected at least {MIN_IMAGE_SIZE}")
    torch_device = choose_device(device)
    print(describe_work(torch_device))
    data_path, test_data = locate_data(data_path, None)
    load_split(split)       # of a new one it is certain that no model was trained on it
    opened = open_split(split, data_path, SplitOptions(test_data=test_data))
    division, overlaps = opened.split, opened.overlaps
    first = data_path / division.train_images[division.users[0]][0]
    axes = known_axes(data_path, window_seconds, velocity_range_mps, first, division.preparation)
    gait_axes = (axes or SIMULATED_AXES) if may_show_walking(data_path) else None
    synthetic_images = find_synthetic(synthetic, division.folders)
    image_size = min(IMAGE_SIZE, smallest_side(synthetic, synthetic_images)) if size is None else size
    check_sizes(synthetic, synthetic_images, image_size, "--classifier_image_size")
    channels = channels_of((synthetic,), division.folders)
    match_to_folds((synthetic,), {division.settings.fold: division})
    model, training = open_evaluation_classifier(data_path, division, overlaps.successor_of, network=classifier,
                                                 image_size=image_size, folder=split.parent, device=torch_device,
                                                 channels=channels)
    evaluator = SampleEvaluator(model, training)
    held_out_paths, _ = paths_and_labels(division.test_images)
    passes = dict(zip(held_out_paths, overlaps.pass_names(held_out_paths)))
    held_out = evaluate_images(data_path, division.test_images, image_size, evaluator, passes,
                               "held-out real images", channels, division.preparation)
    generated = evaluate_images(synthetic, synthetic_images, image_size, evaluator, started_from(synthetic),
                                "synthetic images", channels)
    detector = CopyDetector.of(find_control(synthetic), training, image_size, channels)
    report = measure(held_out, generated, detector, gait_axes, division.users) | {
        "made_by": facts_of(synthetic, division), "names": division.names}
    training_paths, _ = paths_and_labels(division.train_images)
    told = tell_apart(held_out, generated, training, overlaps.pass_names(training_paths), torch_device)
    for kind, figures in told.items():
        report["all"][kind] |= figures
    if trts:
        real = load_real(data_path, division.test_images, overlaps.successor_of, image_size, "held-out real images",
                         channels, division.preparation)
        other = load_or_train_evaluation_classifier(
            real, network=plan_network(classifier, image_size), device=torch_device, folder=split.parent,
            num_classes=len(division.users))
        report["trts"] = {name: recognised_by(other, images)
                          for name, images in (("synthetic", generated.images), ("training", training))}
    if report["gait"]["real"] and axes is None:
        print("note: speeds and cadences are in the simulator's units; give --window_seconds and --velocity_range_mps "
              "of your radar for right ones (the comparison needs none)")
    return write_results(report, held_out, generated, training_paths, data_path, synthetic, output, axes,
                         division.preparation)


def recognised_by(classifier: nn.Module, images: ImageSet) -> float:
    """The share of images, of the size that a classifier works at, that it assigns to their own user."""
    return (predict(classifier, images.images).argmax(dim=1) == images.labels).float().mean().item()


def save_features(path: Path, real: EvaluatedSet, synthetic: EvaluatedSet) -> None:
    """Write the features of both sets, real images first, as .npz.

    Arrays: features (n, d) float32, d = 512 of a ResNet18; labels (n,) int64, the user's place among the users; paths
    (n,) str, relative to the folder of the image's data set; is_synthetic (n,) bool.
    """
    with atomic_path(path) as temporary:
        np.savez(temporary, features=np.concatenate([real.features, synthetic.features]),
                 labels=torch.cat([real.images.labels, synthetic.images.labels]).numpy(),
                 paths=np.array(real.paths + synthetic.paths),
                 is_synthetic=np.repeat([False, True], [len(real.paths), len(synthetic.paths)]))


def write_results(report: dict, real: EvaluatedSet, synthetic: EvaluatedSet, training_paths: list[str], real_root: Path,
                  synthetic_root: Path, output: Path, axes: PictureAxes | None,
                  preparation: Preparation) -> dict:
    """Write fidelity.json, features.npz, the figures and report.html to `output`, and print tables and sentences.

    report: the result of `measure`, with "made_by" and "names" added; training_paths: paths of the training images, in
    their order; real_root, synthetic_root: the folders that paths are relative to; axes: of the images, None if
    unknown; preparation: of the real images. Returns the content of fidelity.json.
    """
    pairs = closest_pairs(synthetic, report["nearest"]["synthetic"], training_paths)
    plain = {name: report[name] for name in ("made_by", "users", "names", "all", "copy_bars", "trts")
             if name in report} | {
        "closest": [vars(pair) for pair in pairs]}
    write_json(output / "fidelity.json", plain)
    save_features(output / "features.npz", real, synthetic)
    save_figure(overview_figure(plain), output / "overview.png")
    save_figure(pairs_figure(pairs, synthetic_root, real_root, "synthetic", axes, Preparation(), preparation,
                             near_copy_bars(plain)), output / "closest_pairs.png")
    save_figure(novelty_figure(report["nearest"]), output / "novelty.png")
    shown, walk = tables(plain), []
    if report["gait"]["real"]:
        save_figure(gait_figure(report["gait"], {"synthetic": synthetic.images.labels, "real": real.images.labels},
                                report["names"]), output / "gait.png")
        walk = [Section("The walk", tables=shown[3:], pictures=[
            Picture(output / "gait.png", "Estimates from each picture; bars are medians")])]
    render_report(output / "report.html", f"How similar to real images, varied and new: {synthetic_root}",
                  fidelity_verdict(plain, output), [
        Section("Similarity and diversity", tables=shown[:2]),
        Section("Novelty", tables=shown[2:3], pictures=[
            Picture(output / "novelty.png", "How similar each image is to its nearest training image"),
            Picture(output / "closest_pairs.png", PAIRS_CAPTION)]),
        *walk])
    print("\n\n".join([*(table.as_text() for table in shown), fidelity_verdict(plain).as_text(),
                       f"report: {output / 'report.html'}"]))
    return plain
