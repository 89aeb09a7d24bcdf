"""python -m microdoppler.learning_curve: the study at several numbers of real training images, on the same test images.

At each number, latents, generator, synthetic images and classifiers are made from these images alone. The VAE is the
same for all, so it may have seen more images than a small number allows: the report says so.
"""
import shutil
from dataclasses import replace
from pathlib import Path

from denoising_diffusion_pytorch.checkpoint import list_milestones, milestone_path
from groundwork.device import choose_device
from groundwork.errors import InputError
from groundwork.files import write_json
from groundwork.limits import Count, Size, checks_arguments
from groundwork.processes import init_distributed
from microdoppler.data.overlap import OVERLAPS_FILE
from microdoppler.data.split import fewer_training_images
from microdoppler.data.split_file import SPLIT_FILE
from microdoppler.figures.report import Picture, Section, Table, Verdict, render_report, save_figure
from microdoppler.pipeline.assembly import Data, open_data
from microdoppler.pipeline.classification import check_options, run_arms
from microdoppler.pipeline.constants import check_new_config
from microdoppler.pipeline.synthetic_folder import SAMPLES_OF_ALL, generate
from microdoppler.pipeline.training import train
from microdoppler.study.counts import CorrectCounts
from microdoppler.study.kinds import PRIMARY_KIND, REAL_ONLY
from microdoppler.study.learning_curve import curve_figure, replicated_accuracies, worth, worth_sentence
from microdoppler.study.runs import Run
from train_latent_cfg import PRESETS, Config

__all__ = ["PRESETS", "Config", "learning_curve"]       # for the command, microdoppler/learning_curve.py

FOLDER = "learning_curve"       # in results_folder
SHOWN = (REAL_ONLY, "real + classical", "real + cuts", PRIMARY_KIND)        # kinds of arms in the picture
METHOD = ("The test images are the same at every number of real images. The smaller numbers are the first images of "
          "each user's training run. The VAE is the same at every number. If it was trained on more images than these, "
          "the synthetic images of small numbers are a little too good.")


@checks_arguments
def learning_curve(config: Config, *, sizes: tuple[Count, ...] = (5, 10, 20), samples_per_user: Size = SAMPLES_OF_ALL,
                   seeds: Size | None = None) -> dict:
    """Measure what a synthetic set is worth: how many real images would help as much.

    Trains a generator and classifiers on several numbers of real images per user. When it is stopped and started again,
    it continues where it was. Several processes (accelerate launch) share the work among them.

    Args:
        sizes: numbers of real training images per user; all training images of the split come on top, as the last
        samples_per_user: synthetic images of each user, at each number of real images
        seeds: number of repetitions of every arm; default: classifier_seeds
    """
    check_new_config(config)
    check_options(config)
    processes = init_distributed(choose_device(config.device))
    with processes.main_process_first():        # it makes the split, which the others then read
        config, data = open_data(config)
    numbers = numbers_of_images(sizes, data)
    folder = config.results_folder / FOLDER
    counts = []
    for number in numbers:
        print(f"\n=== {number} real training images per user")
        with processes.main_process_first():
            own = config_with(config, data, number, folder / f"images_{number}")
        runs = study_with(own, samples_per_user, seeds)
        if runs is None:
            print("the learning curve goes on where it was when it is started again")
            return {}
        counts.append(CorrectCounts.of([run for run in runs if run.arm.kind.name in SHOWN]))
    return write_report(numbers, counts, folder) if processes.is_main_process else {}


def numbers_of_images(sizes: tuple[int, ...], data: Data) -> list[int]:
    """The numbers of training images per user, in rising order; the last is that of the whole split.

    Raises InputError when one of the sizes is too large.
    """
    largest = min(map(len, data.split.train_images.values()))
    if too_large := [size for size in sizes if size >= largest]:
        raise InputError(f"--sizes {too_large[0]}; expected less than {largest}, the training images of the split, "
                         "which are the last number")
    if not sizes:
        raise InputError("--sizes is empty; expected at least one number of images")
    return [*sorted(set(sizes)), largest]


def config_with(config: Config, data: Data, number: int, folder: Path) -> Config:
    """The Config of a study in `folder` with only `number` real training images of each user, and its split on disk."""
    own = replace(config, results_folder=folder / "results", latents_cache_folder=folder / "latents_cache",
                  images_per_user_train=number)
    split_path = own.latents_cache_folder / SPLIT_FILE
    if not split_path.exists():
        write_json(split_path, fewer_training_images(data.split, number).to_json())
        shutil.copy(config.latents_cache_folder / OVERLAPS_FILE, split_path.with_name(OVERLAPS_FILE))
    return own


def study_with(config: Config, samples_per_user: int, seeds: int | None) -> list[Run] | None:
    """The runs of a study; None if its training was stopped. Its synthetic images go beside its results."""
    synthetic = config.results_folder.with_name("synthetic")
    if not train(config, "latest" if list_milestones(config.results_folder) else None):
        return None
    newest = milestone_path(config.results_folder, list_milestones(config.results_folder)[-1])
    generate(checkpoint=newest, all_users=True, samples_per_user=samples_per_user, output_dir=synthetic,
             device=config.device)
    return run_arms(config, (synthetic,), seeds=seeds).runs


def write_report(numbers: list[int], counts: list[CorrectCounts], folder: Path) -> dict:
    """Write learning_curve.json, learning_curve.png and report.html to `folder`, and print the result.

    counts: of the runs at each number. Returns the content of learning_curve.json.
    """
    arms = {kind: arm for kind in SHOWN for arm in counts[0].correct if arm.partition(":")[0] == kind}
    curves = {kind: replicated_accuracies(counts, arm) for kind, arm in arms.items()}
    found = [worth(numbers, curves[REAL_ONLY], curves[PRIMARY_KIND], place) for place in range(len(numbers))]
    sentences = [worth_sentence(result, numbers, PRIMARY_KIND) for result in found]
    table = Table(["real images per user", *curves], [
        [str(number), *(f"{100 * rows[0, place]:.1f} %" for rows in curves.values())]
        for place, number in enumerate(numbers)], caption="Accuracy on the test images, mean over runs.")
    result = {"sizes": numbers, "worth": found, "accuracies": {kind: rows[0].tolist() for kind, rows in curves.items()}}
    write_json(folder / "learning_curve.json", result)
    save_figure(curve_figure(numbers, curves), folder / "learning_curve.png")
    verdict = Verdict(sentences[-2], "open", [sentences[-1], *sentences[:-2]],
                      Picture(folder / "learning_curve.png", "Accuracy over the number of real images"))
    render_report(folder / "report.html", "What are the synthetic images worth?", verdict, [
        Section("All numbers of images", tables=[table]), Section("Method", [METHOD])])
    print(f"\n{table.as_text()}\n\n{verdict.as_text()}\n\nreport: {folder / 'report.html'}")
    return result
