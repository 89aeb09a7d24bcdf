"""How like real images synthetic ones are, how varied, how new, and whether their physics is right.

    python -m microdoppler.fidelity --real DATA --synthetic synthetic_data/checkpoint_75

Each figure stands beside the same figure of real images: of one half of the held-out passes against the other.
"""
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from groundwork.device import choose_device, describe_work
from groundwork.errors import InputError
from groundwork.files import atomic_path, read_json, write_json
from groundwork.images import load_images
from microdoppler.data.audit import Match, pairs_figure
from microdoppler.data.overlap import load_or_find_overlaps
from microdoppler.data.spectrograms import labels_of
from microdoppler.data.split import Split
from microdoppler.data.synthetic_sets import (channels_of, check_sizes, facts_of, find_synthetic, match_to_folds,
                                              smallest_side)
from microdoppler.fidelity.distributions import (NEIGHBOURS, diversity_ratio, kernel_distance, precision_recall,
                                                 separation)
from microdoppler.fidelity.gait_physics import describe_gait
from microdoppler.fidelity.sample_evaluator import SampleEvaluator, halves_by_pass
from microdoppler.fidelity.report import gait_figure, novelty_figure, sentences, tables
from microdoppler.figures.axes import SIMULATION_FILE, PictureAxes, simulated_axes
from microdoppler.figures.report import Picture, Section, render_report, save_figure
from microdoppler.study.arms import ImageSet
from microdoppler.study.evaluation_classifier import open_evaluation_classifier
from microdoppler.study.selection import NearestTraining, closest_training

SHOWN_PAIRS = 4
IMAGE_SIZE = 128
LEAST_IMAGE_SIZE = 32       # a ResNet18 halves a picture five times


@dataclass(frozen=True, eq=False)
class EvaluatedSet:
    """Real held-out or synthetic images with what was found in them; passes: (n,) which recording each is from."""
    images: ImageSet
    paths: list[str]
    features: np.ndarray
    recognised: torch.Tensor
    passes: np.ndarray

    def of(self, chosen: torch.Tensor) -> "EvaluatedSet":
        keep = chosen.numpy()
        return EvaluatedSet(ImageSet(self.images.images[chosen], self.images.labels[chosen]),
                    [path for path, kept in zip(self.paths, keep) if kept], self.features[keep],
                    self.recognised[chosen], self.passes[keep])


def evaluate_images(root: Path, images: dict[int, list[str]], image_size: int, evaluator: SampleEvaluator,
                    passes: dict[str, str], label: str, channels: int) -> EvaluatedSet:
    """Load {user: paths}; passes: {path: recording}, for paths that are not in it each image is its own."""
    paths, labels = labels_of(images)
    loaded = ImageSet(load_images(root, paths, image_size, label, channels), labels)
    return EvaluatedSet(loaded, paths, evaluator.features(loaded.images),
                        evaluator.probabilities(loaded.images).argmax(dim=1) == labels,
                        np.array([passes.get(path, path) for path in paths]))


def feature_figures(real: EvaluatedSet, synthetic: EvaluatedSet) -> dict[str, dict[str, float]]:
    """{"synthetic", "real": precision, recall, diversity, recognised}, for one user or all.

    Synthetic images against each half of the held-out passes, as many of them as the other half has, since precision
    and recall depend on numbers; and half against half.
    """
    results: dict[str, list[tuple[float, ...]]] = {"synthetic": [], "real": []}
    first, second = halves = split_in_halves(real)
    recognised = {"synthetic": synthetic.recognised.float().mean().item(),
                  "real": real.recognised.float().mean().item()}
    if not first.paths or not second.paths:     # all of one pass: nothing to hold against each other
        return {kind: {**dict.fromkeys(("precision", "recall", "diversity"), float("nan")), "recognised": share}
                for kind, share in recognised.items()}
    for reference, other in (halves, halves[::-1]):
        spread = np.linspace(0, len(synthetic.paths) - 1, min(len(synthetic.paths), len(other.paths))).round()
        drawn = synthetic.features[spread.astype(int)]
        for kind, features in (("synthetic", drawn), ("real", other.features)):
            enough = min(len(reference.features), len(features)) > NEIGHBOURS
            results[kind].append((*(precision_recall(reference.features, features) if enough else (np.nan, np.nan)),
                                  diversity_ratio(reference.features, features)))
    figures = {}
    for kind, both in results.items():
        precision, recall, diversity = np.array(both).T     # of a / b and b / a the geometric mean is 1
        figures[kind] = {"precision": float(precision.mean()), "recall": float(recall.mean()),
                         "diversity": float(np.sqrt(diversity.prod())), "recognised": recognised[kind]}
    return figures


def split_in_halves(real: EvaluatedSet) -> list[EvaluatedSet]:
    """Every other pass, and the rest."""
    half = halves_by_pass(list(real.passes), real.images.labels)
    return [real.of(half), real.of(~half)]


def user_kid(real: EvaluatedSet, synthetic: EvaluatedSet) -> dict[str, tuple[float, float]]:
    """{"synthetic", "real": (KID, standard error)} of one user: against all held-out images, and half against half."""
    first, second = split_in_halves(real)
    return {"synthetic": kernel_distance(real.features, synthetic.features, real.passes, synthetic.passes),
            "real": kernel_distance(first.features, second.features, first.passes, second.passes)
            if second.paths else (float("nan"), float("nan"))}


def measure(real: EvaluatedSet, synthetic: EvaluatedSet, training: ImageSet, axes: PictureAxes | None) -> dict:
    """All figures as plain values: per user and over all; `gait` and `nearest` hold a value per image, for figures.
    Without axes nobody walks in the pictures, and there is no gait."""
    report: dict = {"users": {}, "gait": {}, "nearest": {}}
    for kind, side in (("synthetic", synthetic), ("real", real)):
        report["nearest"][kind] = closest_training(side.images, training)
        report["gait"][kind] = describe_gait(side.images.images.numpy(), axes) if axes else {}
    for label in tqdm(real.images.labels.unique(), desc="comparing", unit="user", delay=1, leave=False, disable=None):
        own = {"synthetic": synthetic.images.labels == label, "real": real.images.labels == label}
        theirs = real.of(own["real"]), synthetic.of(own["synthetic"])
        figures = _figures(*theirs, report, own)
        for kind, (kid, error) in user_kid(*theirs).items():
            figures[kind] |= {"kid": kid, "kid_error": error}
        report["users"][int(label) + 1] = figures
    everyone = {"synthetic": torch.ones(len(synthetic.paths), dtype=torch.bool),
                "real": torch.ones(len(real.paths), dtype=torch.bool)}
    report["all"] = _figures(real, synthetic, report, everyone)
    for kind, side in (("synthetic", synthetic), ("real", real)):
        report["all"][kind]["separation"] = separation(side.features, side.images.labels.numpy())
    for kind, means in means_over_users(report["users"]).items():
        report["all"][kind] |= means
    return report


def means_over_users(users: dict[int, dict]) -> dict[str, dict[str, float]]:
    """{"synthetic", "real": KID with its standard error, of how many users, diversity}, since a mixture of persons is
    as varied as these are unlike. Both kinds of the same users, those with enough images of both: else the real figure
    would be no yardstick."""
    kids, errors, diversities = (
        {kind: np.array([figures[kind][name] for figures in users.values()]) for kind in ("synthetic", "real")}
        for name in ("kid", "kid_error", "diversity"))

    def known(*parts: dict[str, np.ndarray]) -> np.ndarray:
        return np.isfinite(np.stack([values for part in parts for values in part.values()])).all(axis=0)
    of_kid, of_diversity = known(kids, errors), known(diversities)
    count = int(of_kid.sum())
    return {kind: {"kid": float(kids[kind][of_kid].mean()) if count else float("nan"),
                   "kid_error": float(np.linalg.norm(errors[kind][of_kid])) / count if count else float("nan"),
                   "kid_users": count,
                   "diversity": float(diversities[kind][of_diversity].mean()) if of_diversity.any() else float("nan")}
            for kind in ("synthetic", "real")}


def _figures(real: EvaluatedSet, synthetic: EvaluatedSet, report: dict,
             chosen: dict[str, torch.Tensor]) -> dict[str, dict[str, float]]:
    figures = feature_figures(real, synthetic)
    for kind, keep in chosen.items():
        nearest = report["nearest"][kind]
        figures[kind] |= {"num_images": int(keep.sum()), "copies": nearest.is_copy[keep].float().mean().item(),
                          "nearest": 1 - nearest.correlation[keep].median().item()}
        for name, values in report["gait"][kind].items():
            own = values[keep.numpy()]
            figures[kind][name] = float(np.median(own[np.isfinite(own)])) if np.isfinite(own).any() else float("nan")
    return figures


def closest_pairs(synthetic: EvaluatedSet, nearest: NearestTraining, training_paths: list[str]) -> list[Match]:
    order = nearest.correlation.argsort(descending=True)[:SHOWN_PAIRS].tolist()
    return [Match(synthetic.paths[i], training_paths[int(nearest.index[i])], float(nearest.correlation[i]),
                  float(nearest.shift[i])) for i in order]


def shows_walking(real: Path) -> bool:
    """Whether steps are to be looked for: not where a simulation says that it is of something else."""
    truth = read_json(real / SIMULATION_FILE) if (real / SIMULATION_FILE).exists() else {}
    return not isinstance(truth, dict) or truth.get("kind", "gait") == "gait"


def picture_axes(real: Path, window_seconds: float | None, lowest_mps: float | None,
                 highest_mps: float | None) -> PictureAxes:
    """Those that are given; what is not is the simulator's."""
    given = {"window_seconds": window_seconds, "lowest_mps": lowest_mps, "highest_mps": highest_mps}
    known = {name: value for name, value in given.items() if value is not None}
    simulated = simulated_axes(real)
    if not known and simulated is None:
        print("note: speeds and cadences are in the simulator's units; give --window_seconds, --lowest_mps and "
              "--highest_mps of your radar for right ones (the comparison needs none)")
    return replace(simulated or PictureAxes.of_simulator(), **known)


def main(real: Path, synthetic: Path, *, split: Path = Path("latents_cache/data_split.json"),
         output: Path = Path("results/fidelity"), image_size: int | None = None, window_seconds: float | None = None,
         lowest_mps: float | None = None, highest_mps: float | None = None, device: str = "auto") -> dict:
    """Compare synthetic images with real ones that no model has seen.

    Writes fidelity.json, features.npz, pictures and report.html.

    Args:
        real: the data set, with ID_1 … ID_<n>
        synthetic: a folder that generate.py wrote
        split: the split that the model was trained on
        output: folder for the results
        image_size: pixels at which pictures are compared; default: 128, or what the synthetic images have
        window_seconds: duration of a picture; default: the simulator's
        lowest_mps: speed at the pictures' lower edge; default: the simulator's
        highest_mps: speed at the pictures' upper edge; default: the simulator's
        device: auto, cpu, cuda or cuda:<n>
    """
    if image_size is not None and image_size < LEAST_IMAGE_SIZE:
        raise InputError(f"--image_size {image_size}; expected at least {LEAST_IMAGE_SIZE}")
    torch_device = choose_device(device)
    print(describe_work(torch_device))
    axes = picture_axes(real, window_seconds, lowest_mps, highest_mps) if shows_walking(real) else None
    division = Split.from_json(read_json(split), split)
    drawn = find_synthetic(synthetic, division.classes)
    image_size = min(IMAGE_SIZE, smallest_side(synthetic, drawn)) if image_size is None else image_size
    check_sizes(synthetic, drawn, image_size, "--image_size")
    channels = channels_of((synthetic,), division.classes)
    match_to_folds((synthetic,), {division.settings.fold: division})
    overlaps = load_or_find_overlaps(real, len(division.users), split.parent, division.settings.class_folders)
    classifier, training = open_evaluation_classifier(real, division, overlaps.following, image_size=image_size,
                                                      folder=split.parent, device=torch_device, channels=channels)
    evaluator = SampleEvaluator(classifier, training)
    passes = {path: f"{path.split('/')[0]} pass {number}" for path, number in overlaps.pass_of.items()}
    held_out = evaluate_images(real, division.test_images, image_size, evaluator, passes,
                               "held-out real images", channels)
    found = evaluate_images(synthetic, drawn, image_size, evaluator, {}, "synthetic images", channels)
    report = measure(held_out, found, training, axes) | {"made_by": facts_of(synthetic, division),
                                                         "names": division.names}
    return write_results(report, held_out, found, labels_of(division.train_images)[0], real, synthetic, output)


def save_features(path: Path, real: EvaluatedSet, synthetic: EvaluatedSet) -> None:
    """features (n, 512) float32, labels (n,) int64 = user number - 1, paths (n,) below their data set's folder, and
    is_synthetic (n,) bool."""
    with atomic_path(path) as temporary:
        np.savez(temporary, features=np.concatenate([real.features, synthetic.features]),
                 labels=torch.cat([real.images.labels, synthetic.images.labels]).numpy(),
                 paths=np.array(real.paths + synthetic.paths),
                 is_synthetic=np.repeat([False, True], [len(real.paths), len(synthetic.paths)]))


def write_results(report: dict, real: EvaluatedSet, synthetic: EvaluatedSet, training_paths: list[str], real_root: Path,
                  synthetic_root: Path, output: Path) -> dict:
    """fidelity.json, features.npz, three pictures, report.html; prints the tables. Returns the plain part of the
    report."""
    pairs = closest_pairs(synthetic, report["nearest"]["synthetic"], training_paths)
    plain = {name: report[name] for name in ("made_by", "users", "names", "all")} | {
        "closest": [vars(pair) for pair in pairs]}
    write_json(output / "fidelity.json", plain)
    save_features(output / "features.npz", real, synthetic)
    save_figure(pairs_figure(pairs, synthetic_root, real_root, "synthetic"), output / "closest_pairs.png")
    save_figure(novelty_figure(report["nearest"]), output / "novelty.png")
    shown, walk = tables(plain), []
    if report["gait"]["real"]:
        save_figure(gait_figure(report["gait"], {"synthetic": synthetic.images.labels, "real": real.images.labels},
                                report["names"]), output / "gait.png")
        walk = [Section("The walk", tables=shown[2:], pictures=[
            Picture(output / "gait.png", "Estimates from each picture; bars are medians")])]
    render_report(output / "report.html", f"Fidelity, diversity and novelty of {synthetic_root}", [
        Section("Result", sentences(plain), shown[:1]),
        Section("Novelty", tables=shown[1:2], pictures=[
            Picture(output / "novelty.png", "How like its nearest training image each image is"),
            Picture(output / "closest_pairs.png", "The synthetic images most like a training image, above it")]),
        *walk])
    print("\n\n".join([*(table.as_text() for table in shown), *sentences(plain), f"report: {output / 'report.html'}"]))
    return plain
