"""monitor_training.py: report on a training run while it runs or afterwards."""
import dataclasses
import math
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import torch
from rich.live import Live
from tyro.constructors import PrimitiveConstructorSpec

from denoising_diffusion_pytorch.classifier_free_guidance import BETA_SCHEDULES, min_snr_weight
from groundwork.errors import InputError
from groundwork.files import read_json
from groundwork.limits import checks_arguments
from groundwork.progress import can_redraw
from microdoppler.figures.report import save_figure
from microdoppler.watch.diagnosis import diagnose
from microdoppler.watch.metrics import Metrics, read_metrics
from microdoppler.watch.page import find_samples, write_page
from microdoppler.watch.plot import plot
from microdoppler.watch.progress import is_complete, progress, verdict
from microdoppler.watch.run_settings import RunSettings
from microdoppler.watch.screen import TrainingScreen
from train_latent_cfg import PRESETS, Config

WATCH_SECONDS = 5.0
# The type of --watch, which may be given without a number; it then means WATCH_SECONDS.
Seconds = Annotated[float | None, PrimitiveConstructorSpec(
    nargs="*", metavar="[SECONDS]", instance_from_str=lambda given: float(" ".join(given) or WATCH_SECONDS),
    is_instance=lambda value: value is None or isinstance(value, (int, float)),
    str_from_instance=lambda value: [] if value is None else [f"{value:g}"])]
RAW_STD = 0.18      # usual std of raw latents; config.json says whether they are raw, but not their std


def zero_output_loss(config: dict) -> float:
    """The mean weighted loss of a network that outputs zero: E_t[weight(t) * E[target^2]].

    config: the contents of config.json. The latents are taken to have variance 1 (standardized), 1/3 (auto_normalize:
    uniform in [-1, 1]) or RAW_STD^2. Weights: min-SNR (Hang et al. 2023).
    """
    variance = 1.0 if config["standardize_latents"] else 1 / 3 if config["auto_normalize"] else RAW_STD ** 2
    alphas_cumprod = torch.cumprod(1 - BETA_SCHEDULES[config["beta_schedule"]](config["timesteps"]), dim=0)
    gamma = config["min_snr_gamma"] if config["min_snr_loss_weight"] else None
    target_power: dict[str, torch.Tensor | float] = {
        "pred_v": alphas_cumprod + (1 - alphas_cumprod) * variance, "pred_x0": variance, "pred_noise": 1.0}
    weight = min_snr_weight(alphas_cumprod, config["objective"], gamma).clamp(min=config["min_loss_weight"])
    return (weight * target_power[config["objective"]]).mean().item()


def read_settings(path: Path) -> RunSettings:
    """The constants that the diagnosis needs, from the run's config.json at `path`. Raises InputError when it is not
    one."""
    config = read_json(path)
    names = {field.name for field in dataclasses.fields(RunSettings)} - {"zero_output_loss", "usual_cond_drop_prob"}
    try:
        config = {"min_loss_weight": 0.0, **config}     # value of runs that did not have this constant
        usual = PRESETS.get(config.get("preset", ""), Config()).cond_drop_prob
        return RunSettings(**{name: config[name] for name in names}, usual_cond_drop_prob=usual,
                           zero_output_loss=zero_output_loss(config))
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is not what train_latent_cfg.py writes ({type(error).__name__}: {error}); "
                         "it is written anew when training is started or resumed") from None


def read_run(folder: Path) -> tuple[Metrics, RunSettings, str]:
    """The metrics and settings of the run in results folder `folder`, and the report on them as text."""
    metrics, settings = read_metrics(folder / "metrics.jsonl"), read_settings(folder / "config.json")
    return metrics, settings, "\n".join([*progress(metrics, settings), "",
                                         verdict(diagnose(metrics, settings), metrics, settings)])


def write_pictures(folder: Path, metrics: Metrics, settings: RunSettings, html: Path | None) -> str:
    """Write folder/training.png once there are metrics, and the page to `html` if it is given. Returns a line about the
    figure: where it is, or a warning if the folder is read-only, as someone else's results may be."""
    figure, line = None, ""
    if len(metrics.training["step"]):
        figure = folder / "training.png"
        try:
            save_figure(plot(metrics, settings), figure)
            line = f"figure: {figure}"
        except OSError as error:
            figure, line = None, f"warning: {figure} was not written ({error.strerror})"
    if html:
        write_page(html, folder=folder, progress=progress(metrics, settings), findings=diagnose(metrics, settings),
                   verdict=verdict([], metrics, settings), plot=figure,
                   samples=find_samples(folder, settings.save_and_sample_every, settings.train_num_steps),
                   is_complete=is_complete(metrics, settings))
    return line


def build_screen(folder: Path, metrics: Metrics, settings: RunSettings) -> TrainingScreen:
    """What a terminal shows of the run."""
    findings = diagnose(metrics, settings)
    return TrainingScreen(f"training in {folder}", min(1.0, metrics.step / settings.train_num_steps),
                          progress(metrics, settings), verdict(findings, metrics, settings), not findings,
                          metrics.training["loss"])


def wait_for_training(folder: Path, seconds: float) -> None:
    """Wait until training has begun. Before that, images are split and encoded, which takes minutes.

    seconds: time between two looks at the folder.
    """
    def has_begun() -> bool:
        return all((folder / name).exists() for name in ("config.json", "metrics.jsonl"))
    if not has_begun():
        print(f"waiting for training to begin in {folder} (python train_latent_cfg.py); Ctrl-C ends", flush=True)
    while not has_begun():
        time.sleep(seconds)


@checks_arguments
def monitor(config: Config, *, watch: Seconds = None, html: Path | None = None) -> None:
    """Report the progress of training, problems, and what to do about them. Also writes results/training.png.

    Args:
        watch: repeat after each interval of so many seconds, 5 if no number is given, until training is complete. A
            terminal shows one screen that is updated in place; otherwise each change gets a new report
        html: also write an HTML page to this file. It shows the samples of all milestones, and reloads itself until
            training is complete
    """
    if watch is not None and not 0 < watch < math.inf:
        raise InputError(f"--watch {watch:g}; expected a number of seconds above 0")
    folder, shown, figure_line = config.results_folder, None, ""
    try:
        if watch:
            wait_for_training(folder, watch)
        with Live(screen=True, refresh_per_second=1) if watch and can_redraw(sys.stdout) else nullcontext() as live:
            while True:
                metrics, settings, text = read_run(folder)
                if text != shown:
                    before, figure_line = figure_line, write_pictures(folder, metrics, settings, html)
                    if live:
                        live.update(build_screen(folder, metrics, settings), refresh=True)
                    else:
                        print(("\n" if shown else "") + text, flush=True)
                        if figure_line != before:       # once, not with each report
                            print("\n" + figure_line, flush=True)
                    shown = text
                if watch is None or is_complete(metrics, settings):
                    break
                time.sleep(watch)
        if live:
            print(f"{text}\n\n{figure_line}")
    except KeyboardInterrupt:       # the usual way to end --watch
        print()
