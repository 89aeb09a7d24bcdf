"""Measure how similar to real images synthetic images are, how diverse, how new, and whether their gait is right.

    python -m microdoppler.fidelity --data_path DATA --synthetic synthetic_data/checkpoint_75

Beside each metric of synthetic images stands the same metric of real images, as the value to compare it with. Where a
metric compares two sets, the real ones are the two halves of the held-out passes.
"""
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from groundwork.device import choose_device, describe_work
from groundwork.errors import InputError
from groundwork.files import atomic_path, read_json, write_json
from groundwork.preparation import Preparation
from groundwork.images import load_images
from groundwork.limits import checks_arguments
from groundwork.progress import Progress
from microdoppler.data.audit import Match, pairs_figure
from microdoppler.data.spectrograms import paths_and_labels
from microdoppler.data.split_file import SplitOptions, load_split, locate_data, open_split
from microdoppler.data.synthetic_sets import (channels_of, check_sizes, facts_of, find_synthetic, match_to_folds,
                                              smallest_side)
from microdoppler.fidelity.distributions import (NEIGHBOURS, diversity_ratio, kernel_distance, precision_recall,
                                                 separation)
from microdoppler.fidelity.gait_physics import MIN_WALKING, cadence_share, describe_gait
from microdoppler.fidelity.sample_evaluator import SampleEvaluator, halves_by_pass
from microdoppler.fidelity.report import (PAIRS_CAPTION, fidelity_verdict, gait_figure, novelty_figure,
                                          overview_figure, tables)
from microdoppler.figures.axes import PictureAxes, known_axes
from microdoppler.figures.report import Picture, Section, render_report, save_figure
from microdoppler.simulate.dataset import SIMULATION_FILE
from microdoppler.study.arms import ImageSet
from microdoppler.study.evaluation_classifier import open_evaluation_classifier
from microdoppler.study.networks import DEFAULT_NETWORK, check_network
from microdoppler.study.selection import NearestTraining, nearest_training

SHOWN_PAIRS = 4             # pairs of most similar images in the report
IMAGE_SIZE = 256            # pixels at which images are compared; smaller if the synthetic images are smaller
MIN_IMAGE_SIZE = 32         # pixels, as the least of Config.classifier_image_size


@dataclass(frozen=True, eq=False)
class EvaluatedSet:
    """n held-out real or synthetic images, with what the evaluation classifier says about them.

    paths: relative to their data folder; features: (n, 512) float32; recognised: (n,) bool, whether the image is
    classified as its own user; passes: (n,) str, the pass that each image comes from.
    """
    images: ImageSet
    paths: list[str]
    features: np.ndarray
    recognised: torch.Tensor
    passes: np.ndarray

    def subset(self, chosen: torch.Tensor) -> "EvaluatedSet":
        """The images where `chosen` (n,) bool is True."""
        keep = chosen.numpy()
        return EvaluatedSet(ImageSet(self.images.images[chosen], self.images.labels[chosen]),
                            [path for path, kept in zip(self.paths, keep) if kept], self.features[keep],
                            self.recognised[chosen], self.passes[keep])


def evaluate_images(root: Path, images: dict[int, list[str]], image_size: int, evaluator: SampleEvaluator,
                    passes: dict[str, str], label: str, channels: int,
                    preparation: Preparation = Preparation()) -> EvaluatedSet:
    """Load images at image_size pixels, and evaluate them.

    images: {user number: paths relative to root}; passes: {path: name of its pass}, an image that is not in it is a
    pass of its own; label: of the progress bar; channels: 3 for RGB or 1 for grey; preparation: how files become
    square arrays.
    """
    paths, labels = paths_and_labels(images)
    loaded = ImageSet(load_images(root, paths, image_size, label, channels, preparation), labels)
    return EvaluatedSet(loaded, paths, evaluator.features(loaded.images),
                        evaluator.probabilities(loaded.images).argmax(dim=1) == labels,
                        np.array([passes.get(path, path) for path in paths]))


def feature_metrics(real: EvaluatedSet, synthetic: EvaluatedSet) -> dict[str, dict[str, float]]:
    """Precision, recall, diversity and share recognised, for one user or all: {"synthetic" or "real": {metric: value}}.

    Each half of the held-out passes is the reference once. "synthetic" compares the synthetic images with it, "real"
    compares the other half with it. The two values are averaged (diversity: geometric mean). Precision and recall
    depend on the number of images, so at most as many synthetic images are used as the other half has. NaN where there
    are too few images or passes.
    """
    results: dict[str, list[tuple[float, ...]]] = {"synthetic": [], "real": []}
    first, second = halves = split_in_halves(real)
    recognised = {"synthetic": synthetic.recognised.float().mean().item(),
                  "real": real.recognised.float().mean().item()}
    if not first.paths or not second.paths:     # all images are of one pass, so there are no two halves
        return {kind: {**dict.fromkeys(("precision", "recall", "diversity"), float("nan")), "recognised": share}
                for kind, share in recognised.items()}
    for reference, other in (halves, halves[::-1]):
        spread = np.linspace(0, len(synthetic.paths) - 1, min(len(synthetic.paths), len(other.paths))).round()
        same_number = synthetic.features[spread.astype(int)]
        for kind, features in (("synthetic", same_number), ("real", other.features)):
            enough = min(len(reference.features), len(features)) > NEIGHBOURS
            results[kind].append((*(precision_recall(reference.features, features) if enough else (np.nan, np.nan)),
                                  diversity_ratio(reference.features, features)))
    metrics = {}
    for kind, both in results.items():
        precision, recall, diversity = np.array(both).T     # each against the first half and against the second
        metrics[kind] = {"precision": float(precision.mean()), "recall": float(recall.mean()),
                         # Geometric mean: the two ratios of real images are a / b and b / a, which gives exactly 1.
                         "diversity": float(np.sqrt(diversity.prod())), "recognised": recognised[kind]}
    return metrics


def split_in_halves(real: EvaluatedSet) -> list[EvaluatedSet]:
    """The images of every other pass of each user, and the remaining images."""
    half = halves_by_pass(list(real.passes), real.images.labels)
    return [real.subset(half), real.subset(~half)]


def user_kid(real: EvaluatedSet, synthetic: EvaluatedSet) -> dict[str, tuple[float, float]]:
    """KID of one user: {"synthetic" or "real": (KID, standard error)}.

    "synthetic" compares synthetic with all held-out images, "real" one half of the held-out passes with the other. NaN
    where there are too few images or passes.
    """
    first, second = split_in_halves(real)
    return {"synthetic": kernel_distance(real.features, synthetic.features, real.passes, synthetic.passes),
            "real": kernel_distance(first.features, second.features, first.passes, second.passes)
            if second.paths else (float("nan"), float("nan"))}


def measure(real: EvaluatedSet, synthetic: EvaluatedSet, training: ImageSet, axes: PictureAxes | None,
            users: list[int]) -> dict:
    """All metrics of synthetic images and, to compare with, of held-out real images.

    training: the real training images; axes: of the images, None if nobody walks in them. The gait is measured only if
    the held-out real images show one. users: the user number of each label.

    Returns "users": {user number: {"synthetic" or "real": {metric: value}}}; "all": {"synthetic" or "real": {metric:
    value}}; and for figures, with a value per image, "gait": {"synthetic" or "real": result of `describe_gait`} and
    "nearest": {"synthetic" or "real": NearestTraining}.
    """
    report: dict = {"users": {}, "gait": {"synthetic": {}, "real": {}}, "nearest": {}}
    for kind, evaluated in (("synthetic", synthetic), ("real", real)):
        report["nearest"][kind] = nearest_training(evaluated.images, training)
    gait = describe_gait(real.images.images.numpy(), axes) if axes else None
    if axes and gait and cadence_share(gait) >= MIN_WALKING:
        report["gait"] = {"synthetic": describe_gait(synthetic.images.images.numpy(), axes), "real": gait}
    for label in Progress(real.images.labels.unique(), desc="comparing", unit="user", delay=1, leave=False):
        own = {"synthetic": synthetic.images.labels == label, "real": real.images.labels == label}
        own_sets = real.subset(own["real"]), synthetic.subset(own["synthetic"])
        metrics = _metrics(*own_sets, report, own)
        for kind, (kid, error) in user_kid(*own_sets).items():
            metrics[kind] |= {"kid": kid, "kid_error": error}
        report["users"][users[int(label)]] = metrics
    everyone = {"synthetic": torch.ones(len(synthetic.paths), dtype=torch.bool),
                "real": torch.ones(len(real.paths), dtype=torch.bool)}
    report["all"] = _metrics(real, synthetic, report, everyone)
    for kind, evaluated in (("synthetic", synthetic), ("real", real)):
        report["all"][kind]["separation"] = separation(evaluated.features, evaluated.images.labels.numpy())
    if gait:
        report["all"]["real"]["cadence_share"] = cadence_share(gait)
    for kind, means in means_over_users(report["users"]).items():
        report["all"][kind] |= means
    return report


def means_over_users(users: dict[int, dict]) -> dict[str, dict[str, float]]:
    """KID and diversity over all users: {"synthetic" or "real": kid, kid_error, kid_users, diversity}.

    Both are means over users. Computed on all images at once, they would also measure how different the users are. Only
    users count whose value is known for synthetic and for real images, so that both means are of the same users.
    kid_error is the standard error of the mean KID, NaN if that of a user is unknown, as with two passes in a half;
    kid_users is the number of users in the mean.
    """
    kids, errors, diversities = (
        {kind: np.array([metrics[kind][name] for metrics in users.values()]) for kind in ("synthetic", "real")}
        for name in ("kid", "kid_error", "diversity"))

    def known(*parts: dict[str, np.ndarray]) -> np.ndarray:
        """(users,) bool: whether all these values are finite."""
        return np.isfinite(np.stack([values for part in parts for values in part.values()])).all(axis=0)
    has_kid, has_diversity = known(kids), known(diversities)
    count = int(has_kid.sum())
    return {kind: {"kid": float(kids[kind][has_kid].mean()) if count else float("nan"),
                   "kid_error": float(np.linalg.norm(errors[kind][has_kid])) / count if count else float("nan"),
                   "kid_users": count,
                   "diversity": float(diversities[kind][has_diversity].mean()) if has_diversity.any() else float("nan")}
            for kind in ("synthetic", "real")}


def _metrics(real: EvaluatedSet, synthetic: EvaluatedSet, report: dict,
             chosen: dict[str, torch.Tensor]) -> dict[str, dict[str, float]]:
    """Metrics of features, novelty and gait, for one user or all: {"synthetic" or "real": {metric: value}}.

    real, synthetic: the images of this user, or all. report: has "nearest" and "gait" of all images. chosen:
    {"synthetic" or "real": (all images,) bool}, which of these belong to the user.
    """
    metrics = feature_metrics(real, synthetic)
    for kind, keep in chosen.items():
        nearest = report["nearest"][kind]
        metrics[kind] |= {"num_images": int(keep.sum()), "copies": nearest.is_copy[keep].float().mean().item(),
                          "nearest": 1 - nearest.correlation[keep].median().item()}
        for name, values in report["gait"][kind].items():
            own = values[keep.numpy()]
            metrics[kind][name] = float(np.median(own[np.isfinite(own)])) if np.isfinite(own).any() else float("nan")
    return metrics


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
         velocity_range_mps: tuple[float, float] = (0.0, 0.0), device: str = "auto") -> dict:
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
        window_seconds: duration of an image; 0: from simulation.json, else the simulator's
        velocity_range_mps: m/s at an image's lowest and highest row; set it with window_seconds
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
    gait_axes = (axes or PictureAxes.of_simulator()) if may_show_walking(data_path) else None
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
    generated = evaluate_images(synthetic, synthetic_images, image_size, evaluator, {}, "synthetic images", channels)
    report = measure(held_out, generated, training, gait_axes, division.users) | {
        "made_by": facts_of(synthetic, division),
                                                             "names": division.names}
    if report["gait"]["real"] and axes is None:
        print("note: speeds and cadences are in the simulator's units; give --window_seconds and --velocity_range_mps "
              "of your radar for right ones (the comparison needs none)")
    training_paths, _ = paths_and_labels(division.train_images)
    return write_results(report, held_out, generated, training_paths, data_path, synthetic, output, axes,
                         division.preparation)


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
    plain = {name: report[name] for name in ("made_by", "users", "names", "all")} | {
        "closest": [vars(pair) for pair in pairs]}
    write_json(output / "fidelity.json", plain)
    save_features(output / "features.npz", real, synthetic)
    save_figure(overview_figure(plain), output / "overview.png")
    save_figure(pairs_figure(pairs, synthetic_root, real_root, "synthetic", axes, Preparation(), preparation),
                output / "closest_pairs.png")
    save_figure(novelty_figure(report["nearest"]), output / "novelty.png")
    shown, walk = tables(plain), []
    if report["gait"]["real"]:
        save_figure(gait_figure(report["gait"], {"synthetic": synthetic.images.labels, "real": real.images.labels},
                                report["names"]), output / "gait.png")
        walk = [Section("The walk", tables=shown[2:], pictures=[
            Picture(output / "gait.png", "Estimates from each picture; bars are medians")])]
    render_report(output / "report.html", f"How similar to real images, varied and new: {synthetic_root}",
                  fidelity_verdict(plain, output), [
        Section("Similarity and diversity", tables=shown[:1]),
        Section("Novelty", tables=shown[1:2], pictures=[
            Picture(output / "novelty.png", "How similar each image is to its nearest training image"),
            Picture(output / "closest_pairs.png", PAIRS_CAPTION)]),
        *walk])
    print("\n\n".join([*(table.as_text() for table in shown), fidelity_verdict(plain).as_text(),
                       f"report: {output / 'report.html'}"]))
    return plain
