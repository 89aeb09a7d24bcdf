"""python -m microdoppler.choose: choose constants on the validation part of the split, without test images.

See study/choice.py for the search. A candidate is measured as a study would do it: its images are generated, and
classifiers of the arm real + synthetic are trained and tried on validation images. How long classifiers train is chosen
before, by the arm real + classical: a length that suits synthetic images best would favour them. What exists is reused.
"""
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Sequence

import torch
from accelerate import PartialState

from denoising_diffusion_pytorch.checkpoint import list_milestones, milestone_path
from groundwork.command_line import command
from groundwork.device import choose_device, describe_work
from groundwork.errors import InputError, differences, shortened
from groundwork.files import read_json, write_json
from groundwork.limits import (Count, Positive, PositiveShare, TwoShares, Weight, check_limits, checks_arguments,
                               convert_fields, from_plain, to_plain)
from groundwork.lock import sole_writer
from groundwork.processes import init_distributed
from groundwork.seeding import derive_seed
from microdoppler.data.control_sets import draw_cuts
from microdoppler.data.spectrograms import paths_and_labels
from microdoppler.data.stitching import load_cuts
from microdoppler.data.synthetic_sets import check_sizes, find_synthetic
from microdoppler.figures.report import Picture, Section, Verdict, render_report, save_figure
from microdoppler.pipeline.assembly import Data, open_data, open_vae, training_cuts
from microdoppler.pipeline.classification import ONE_USER
from microdoppler.pipeline.constants import check_new_config
from microdoppler.pipeline.generation import ImageGenerator, Sampling
from microdoppler.pipeline.study_folds import load_synthetic, recipe_of
from microdoppler.pipeline.synthetic_folder import generate_all
from microdoppler.study.arms import Arm, ImageSet, arms_of
from microdoppler.study.choice import CONSTANTS, EPOCHS, Candidate, Measured, Step, choose_value, measure, search
from microdoppler.study.choice_report import choice_figure, chosen_line, references_table, steps_table
from microdoppler.study.counts import CorrectCounts
from microdoppler.study.evaluation_classifier import load_real, load_validation
from microdoppler.study.kinds import CLASSICAL, CUTS, KINDS, PRIMARY_KIND
from microdoppler.study.recipe import Recipe
from microdoppler.study.runs import Fold, Run, run_study
from train_latent_cfg import PRESETS, Config

__all__ = ["PRESETS", "Config", "choose"]       # for the command, microdoppler/choose.py

FOLDER = "choose"       # in results_folder
BATCH_SIZE = 64         # images generated at once, if memory allows
METHOD = ("Test images were not used. Each constant was tried with the chosen values of those before it. The chosen "
          "value is the first one, beginning with the default, that is not below the best by more than one standard "
          "error of their paired difference (Breiman et al. 1984).")


USUAL = {"noise_level": (1.0, 0.75, 0.5), "cond_scale": (1.0, 1.5, 3.0), "ratio": (1.0, 2.0, 4.0),
         "synthetic_shares": ((1.0, 0.0), (0.5, 0.5), (0.5, 0.0))}


@dataclass(frozen=True)
class Values:
    """The values to try. A single one fixes a constant. Default: that of the Config, and usual ones."""
    epochs: tuple[Count, ...] = ()  # of classifiers; default: classifier_epochs, and twice as many
    milestones: tuple[Count, ...] = ()  # of the training; default: the last, and those at two thirds and at a third
    noise_levels: tuple[PositiveShare, ...] = ()  # default: noise_level, 1, 0.75 and 0.5
    cond_scales: tuple[Weight, ...] = ()  # guidance; default: cond_scale, 1, 1.5 and 3
    ratios: tuple[Positive, ...] = ()  # synthetic images per real training image; default: 1, 2 and 4
    shares: tuple[TwoShares, ...] = ()  # pairs; default: classifier_synthetic_shares, 1 0, 0.5 0.5 and 0.5 0

    def __post_init__(self) -> None:
        convert_fields(self)


@dataclass(eq=False)
class ValidatedFold:
    """One fold: its generator's Config, its data, and the real images that classifiers train on and are tried on."""
    config: Config
    data: Data
    channels: int
    device: torch.device
    processes: PartialState
    real: ImageSet
    validation: ImageSet
    generated: dict[str, int] = field(default_factory=dict)     # {name of a synthetic set: images of each user}

    @staticmethod
    def open(config: Config, device: torch.device, processes: PartialState) -> "ValidatedFold":
        """The fold of a Config. Raises InputError when its split has no validation part."""
        config, vae = open_vae(config, device)
        config, data = open_data(config)
        split = data.split
        size = config.classifier_image_size
        validation = load_validation(data.path, split, size, vae.channels)
        if validation is None:
            raise InputError(f"the split in {config.latents_cache_folder} has no validation part, and constants must "
                             "not be chosen on test images: make a new split with --split_validation 0.2 and more "
                             "--images_per_user_train, and train on it")
        real = load_real(data.path, split.train_images, data.overlaps.successor_of, size, "training images",
                         vae.channels, split.preparation)
        return ValidatedFold(config, data, vae.channels, device, processes, real, validation)

    @property
    def folder(self) -> Path:
        """Where the synthetic sets of this fold are, and its Config with the chosen constants."""
        return self.config.results_folder / FOLDER

    def num_synthetic(self, ratio: float) -> int:
        """Synthetic images of each user, for a ratio to the real ones."""
        return max(1, round(ratio * max(map(len, self.data.split.train_images.values()))))

    def study_fold(self, arms: Sequence[Arm]) -> Fold:
        """What run_study trains and tries on validation images."""
        split = self.data.split
        paths, _ = paths_and_labels(split.validation_images)
        made_by = {f"split_{name}": value for name, value in split.settings.to_json().items()}
        return Fold(split.settings.fold, arms, self.validation, paths, self.data.overlaps.pass_names(paths),
                    {"data_path": str(self.config.data_path), "tested_on": "validation images", **made_by}, {},
                    split.users)

    def arm(self, candidate: Candidate) -> Arm:
        """Real + synthetic with the images of a candidate, which are generated where they are missing."""
        folder, count = self.folder / candidate.set_name, self.num_synthetic(candidate.ratio)
        if self.generated.get(candidate.set_name, 0) < count:
            self._generate(candidate, folder, count)
            self.generated[candidate.set_name] = count
        found = find_synthetic(folder, self.data.split.folders)
        images = {user: paths[:count] for user, paths in found.items()}
        check_sizes(folder, images, self.config.classifier_image_size, "classifier_image_size")
        return Arm(KINDS[PRIMARY_KIND], self.real, load_synthetic(
            folder, images, self.config.classifier_image_size, candidate.set_name, self.channels), candidate.name)

    def _generate(self, candidate: Candidate, folder: Path, count: int) -> None:
        checkpoint = milestone_path(self.config.results_folder, candidate.milestone)
        generator = ImageGenerator.load(     # with the constants that the proposed command of generate.py will use
            checkpoint, self.device, replace(Sampling.of(self.config), noise_level=candidate.noise_level,
                                             cond_scale=candidate.cond_scale),
            self.config.vae_path, self.config.latents_cache_folder)
        was, now = generator.identity["split"], self.data.split.identity()
        if was != now:
            raise InputError(f"{checkpoint} was trained on other images than this split's: "
                             f"{differences(was, now) or 'unknown ones'}; it may have seen validation images: go back "
                             "to its data_split.json")
        with sole_writer(folder) if self.processes.is_main_process else nullcontext():
            generate_all(generator, generator.legend.users, count, folder, checkpoint, BATCH_SIZE, self.processes)

    def references(self, ratio: float) -> list[Arm]:
        """Arms without synthetic images: real only, with classical augmentation, and with cuts, as many as synthetic
        images at this ratio."""
        cuts, labels = training_cuts(self.config, self.data)
        drawn = {user: draw_cuts([cuts[i] for i in (labels == label).nonzero()[:, 0].tolist()],
                                 self.num_synthetic(ratio), self.config.doppler_shift,
                                 derive_seed(self.config.seed, user)) for user, label in self.data.split.labels.items()}
        images = load_cuts(self.data.path, [cut for own in drawn.values() for cut in own],
                           self.config.classifier_image_size, self.channels, self.data.split.preparation)
        added = ImageSet(images, torch.tensor([self.data.split.labels[user] for user, own in drawn.items()
                                               for _ in own]))
        return arms_of(self.real, {CUTS: {"": added}}, (CLASSICAL,))


@checks_arguments
def choose(config: Config, *, values: Values = Values(), results: tuple[Path, ...] = (),
           seeds: int | None = None) -> Candidate:
    """Choose milestone, noise level, guidance, ratio and shares of synthetic images, and how long classifiers train, on
    validation images, for step 4.

    Writes a report to results_folder/choose, and there config.json with the chosen constants for --config. A repeated
    run generates and trains only what is missing. Several processes (accelerate launch) share images and runs among
    them.

    Args:
        results: results folders of several folds, whose mean counts; their config.json says where their data are. The
            constants are then the same in all of them. Default: results_folder
        seeds: number of classifiers of each candidate and fold; default: classifier_seeds
    """
    check_new_config(config)
    check_limits(values)
    seeds = config.classifier_seeds if seeds is None else seeds
    if seeds < 1:
        raise InputError(f"--seeds {seeds}; expected at least 1")
    device = choose_device(config.device)
    processes = init_distributed(device)
    print(describe_work(device, micro_batch=config.classifier_batch_size, processes=processes.num_processes))
    fewest = min(values.epochs or (config.classifier_epochs,))
    if warning := replace(recipe_of(config), epochs=fewest).warning:
        print(f"warning: {warning}")
    configs = [config_of_fold(config, folder) for folder in results] or [config]
    options = options_of(config, values, [one.results_folder for one in configs])
    folder = config.results_folder / FOLDER
    with sole_writer(folder) if processes.is_main_process else nullcontext():
        with processes.main_process_first():    # it may have to look for overlaps, which the others then read
            folds = [ValidatedFold.open(one, device, processes) for one in configs]
        check_folds(folds)
        study = _Study(config, folds, device, folder, range(config.seed, config.seed + seeds))
        study, of_epochs = study.with_chosen_epochs(values.epochs)
        chosen, steps = search(options, study.count)
        references = study.references(chosen)
        if processes.is_main_process:
            write_results(chosen, [*of_epochs, *steps], references, study)
    return chosen


def config_of_fold(config: Config, results_folder: Path) -> Config:
    """The Config of another fold: as its training was, with the classifier of `config`."""
    trained = from_plain(read_json(results_folder / "config.json"), config)
    own = {item.name: getattr(config, item.name) for item in fields(Config)
           if item.name.startswith("classifier") or item.name in ("device", "amp", "vae_batch_size")}
    return replace(trained, results_folder=results_folder, **own)


def options_of(config: Config, values: Values, results: Sequence[Path]) -> dict[str, list[Any]]:
    """{field of Candidate: values to try, the default first}. Raises InputError when a milestone is missing."""
    saved = sorted(set.intersection(*(set(list_milestones(folder)) for folder in results)))
    if not saved:
        raise InputError(f"{shortened(list(map(str, results)))} has no checkpoint; train first (train_latent_cfg.py)")
    if missing := [str(number) for number in values.milestones if number not in saved]:
        raise InputError(f"--milestones {' '.join(missing)}: there is no such checkpoint; saved are "
                         f"{shortened(list(map(str, saved)))}")
    thirds = [saved[(len(saved) * part - 1) // 3] for part in (1, 2, 3)]
    milestones = sorted(values.milestones or thirds, reverse=True)
    default = dict(zip(CONSTANTS, (milestones[0], config.noise_level, config.cond_scale, USUAL["ratio"][0],
                                   config.classifier_synthetic_shares)))
    given = dict(zip(CONSTANTS, (milestones, values.noise_levels, values.cond_scales, values.ratios, values.shares)))
    if config.classifier_mixing == "concat":        # which has no shares
        given["synthetic_shares"] = (default["synthetic_shares"],)
    tried = {constant: own or (default[constant], *USUAL[constant]) for constant, own in given.items()}
    return {constant: default_first(own, default[constant]) for constant, own in tried.items()}


def default_first(values: Sequence[Any], default: Any) -> list[Any]:
    """The values, each once, and the default before the others if it is among them."""
    return sorted(dict.fromkeys(values), key=lambda value: value != default)


def check_folds(folds: Sequence[ValidatedFold]) -> None:
    """Raises InputError when two are the same fold, or they have other users."""
    if len(folds[0].data.split.users) < 2:
        raise InputError(ONE_USER)
    numbers = [one.data.split.settings.fold for one in folds]
    if len(set(numbers)) < len(numbers):
        raise InputError(f"--results has folds {' '.join(map(str, numbers))}; expected each fold once, "
                         "with one training of its generator")
    if any(one.data.split.folders != folds[0].data.split.folders for one in folds):
        raise InputError("--results has folds of different users; expected the same data set in each")


@dataclass(frozen=True, eq=False)
class _Study:
    """Trains the classifiers of candidates in all folds, and remembers what it has measured."""
    config: Config
    folds: list[ValidatedFold]
    device: torch.device
    folder: Path
    seeds: range
    measured: dict[Candidate, list[Run]] = field(default_factory=dict)

    def count(self, candidates: Sequence[Candidate]) -> CorrectCounts:
        """The correctly classified validation images of each candidate."""
        for candidate in candidates:
            if candidate not in self.measured:
                self.measured[candidate] = self._runs([[one.arm(candidate)] for one in self.folds],
                                                      self.recipe(candidate))
                print_accuracy(candidate.name, CorrectCounts.of(self.measured[candidate]))
        return CorrectCounts.of([run for candidate in candidates for run in self.measured[candidate]])

    def references(self, chosen: Candidate) -> dict[str, Measured]:
        """{name of an arm: its accuracy}: of arms without synthetic images, and of the chosen candidate."""
        runs = self._runs([[*one.references(chosen.ratio), one.arm(chosen)] for one in self.folds], self.recipe(chosen))
        counts = CorrectCounts.of(runs)
        return {run.arm.kind.name: measure(counts, run.arm.name) for run in runs[:len(counts.correct)]}

    def with_chosen_epochs(self, given: Sequence[int]) -> tuple["_Study", list[Step]]:
        """The same study with the chosen number of epochs, and the step that chose it, if there are several."""
        default = self.config.classifier_epochs
        values = default_first(given or (default, 2 * default), default)
        chosen, steps = choose_value(EPOCHS, values, lambda: self._count_epochs(values))
        return replace(self, config=replace(self.config, classifier_epochs=chosen)), steps

    def _count_epochs(self, values: Sequence[int]) -> CorrectCounts:
        """The correctly classified validation images of real + classical after each number of epochs."""
        correct = {}
        for epochs in values:
            counts = CorrectCounts.of(self._runs([[Arm(KINDS["real + classical"], one.real)] for one in self.folds],
                                                 replace(recipe_of(self.config), epochs=epochs)))
            [(name, correct[f"{name}, {epochs} epochs"])] = counts.correct.items()
            print_accuracy(f"{name}, {epochs} epochs", counts)
        return replace(counts, correct=correct)

    def recipe(self, candidate: Candidate) -> Recipe:
        """How the classifiers of a candidate are trained."""
        return replace(recipe_of(self.config), synthetic_shares=candidate.synthetic_shares)

    def _runs(self, arms_of_folds: Sequence[Sequence[Arm]], recipe: Recipe) -> list[Run]:
        return run_study([one.study_fold(arms) for one, arms in zip(self.folds, arms_of_folds)],
                         num_classes=len(self.folds[0].data.split.users), device=self.device, folder=self.folder,
                         seeds=self.seeds, recipe=recipe)


def print_accuracy(name: str, counts: CorrectCounts) -> None:
    """Print the accuracy of the only arm of `counts`."""
    found = measure(counts, *counts.correct)
    print(f"{name}: {100 * found.accuracy:.1f} ± {100 * found.error:.1f} % of the validation images")


def write_results(chosen: Candidate, steps: list[Step], references: dict[str, Measured], study: _Study) -> None:
    """Write choice.json, choice.png and report.html, and each fold's config.json; print tables and what to run next."""
    folder, folds, epochs = study.folder, study.folds, study.config.classifier_epochs
    constants = {EPOCHS: epochs, **vars(chosen)}
    for one in folds:
        write_json(one.folder / "config.json", to_plain(replace(
            one.config, noise_level=chosen.noise_level, cond_scale=chosen.cond_scale,
            classifier_synthetic_shares=chosen.synthetic_shares, classifier_epochs=epochs)))
    write_json(folder / "choice.json", {
        "chosen": constants, "steps": [step.to_json() for step in steps],
        "references": {name: vars(found) for name, found in references.items()},
        "folds": [one.data.split.settings.fold for one in folds], "seeds": list(study.seeds)})
    tables = [*([steps_table(steps)] if steps else []), references_table(references)]
    pictures = []
    if steps:
        save_figure(choice_figure(steps, references), folder / "choice.png")
        pictures = [Picture(folder / "choice.png", "Each value that was tried, with its standard error; the chosen "
                            "ones are filled")]
    images = sum(len(one.validation.images) for one in folds)
    counted = (f"{images} validation images in {len(folds)} fold{'s' * (len(folds) > 1)}, {len(study.seeds)} "
               f"seed{'s' * (len(study.seeds) > 1)}")
    commands = next_commands(chosen, folds)
    render_report(folder / "report.html", "Constants chosen on validation images", Verdict(
        f"Chosen: {chosen_line(constants)}.", "open", [f"{counted}.", METHOD]), [
            Section("What was tried", tables=tables, pictures=pictures),
            Section("What to run next", commands)])
    print("\n" + "\n\n".join([*(table.as_text() for table in tables), f"chosen: {chosen_line(constants)} ({counted})"])
          + f"\nreport: {folder / 'report.html'}\nnext: " + "\nthen: ".join(commands))


def next_commands(chosen: Candidate, folds: Sequence[ValidatedFold]) -> list[str]:
    """The command lines that generate the chosen set of each fold, and the one that compares classifiers."""
    numbers = [one.data.split.settings.fold for one in folds]
    sets = [Path("synthetic_data") / (f"fold_{number}" if len(folds) > 1 else "") / "chosen" for number in numbers]
    generating = [command("generate.py", "--config", one.folder, "--checkpoint",
                          milestone_path(one.config.results_folder, chosen.milestone), "--all_users",
                          "--samples_per_user", one.num_synthetic(chosen.ratio), "--output_dir", output)
                  for one, output in zip(folds, sets)]
    several = ["--folds", *numbers] if len(folds) > 1 else []
    return [*generating, command("classify.py", "--config", folds[0].folder, *several, "--synthetic", *sets)]
