"""Step 1: check the range of the VAE's latents, which decides auto_normalize, and the VAE's reconstructions."""
import numpy as np
from torch import Tensor

from groundwork.command_line import command
from groundwork.device import choose_device, describe_work
from groundwork.errors import InputError
from groundwork.files import write_json
from groundwork.images import load_images
from groundwork.limits import checks_arguments
from microdoppler.data.latents import is_unit_range
from microdoppler.data.spectrograms import paths_and_labels
from microdoppler.fidelity.sample_evaluator import sharpness
from microdoppler.figures.pictures import image_grid
from microdoppler.figures.report import save_figure
from microdoppler.pipeline.assembly import legend_of, open_data, open_vae
from microdoppler.pipeline.constants import check_new_config, option_words
from microdoppler.watch.sample_findings import BLURRED_BELOW
from train_latent_cfg import Config
from vae.quality import measure_quality

GOOD_MSE, ACCEPTABLE_MSE = 0.01, 0.05       # mean squared error of pixels in [0, 1]; PSNR 20 dB and 13 dB
MOST_OF_TIME_MEAN = 0.5     # of time_mean_mse; with a larger error, a VAE is poor, however dark the images are
NUM_SHOWN = 8       # images in vae_reconstruction.png


def time_mean_mse(images: Tensor) -> float:
    """The mean squared error of pixels in [0, 1] when each row of the images, (n, c, s, s) uint8, is replaced by its
    mean over time. It is what a VAE reaches that keeps the average spectrum of an image, but no movement."""
    return sum((image.float() / 255).var(dim=-1, correction=0).mean().item() for image in images) / len(images)


def judge(quality: dict) -> dict:
    """Whether auto_normalize may be True, and a verdict on the reconstruction; quality: as measure_quality returns it,
    with time_mean_mse."""
    mse = quality["mse"]
    verdict = "good" if mse < GOOD_MSE else "acceptable" if mse < ACCEPTABLE_MSE else "poor"
    if mse > MOST_OF_TIME_MEAN * quality["time_mean_mse"]:
        verdict = "poor"
    return {"auto_normalize": is_unit_range(quality["min"], quality["max"]), "verdict": verdict}


def report(quality: dict, config: Config) -> str:
    """The measurements as text; quality: of measure_quality, with the keys of `judge` added."""
    inside = quality["auto_normalize"]
    lines = [f"latents {tuple(quality['shape'])}: min {quality['min']:.4f}, max {quality['max']:.4f}, "
             f"mean {quality['mean']:.4f}, std {quality['std']:.4f}"]
    for i, values in enumerate(zip(*(quality[f"channel_{name}"] for name in ("min", "max", "mean", "std")))):
        lines.append(f"  channel {i}: " + "min {:.4f}, max {:.4f}, mean {:.4f}, std {:.4f}".format(*values))
    lines.append("auto_normalize may be True only with standardize_latents False: latents are inside [0, 1]" if inside
                 else "auto_normalize must be False: it maps [0, 1] to [-1, 1], and these latents are not inside it")
    if not config.standardize_latents and not inside and quality["std"] < 0.5:
        lines.append(f"standardize_latents is False: std {quality['std']:.2f} against noise of 1 wastes most of the "
                     "noise schedule; True is better")
    lines.append(f"reconstruction: MSE {quality['mse']:.5f}, PSNR {quality['psnr_db']:.1f} dB: {quality['verdict']} "
                 f"(< {GOOD_MSE} good, < {ACCEPTABLE_MSE} acceptable)")
    lines.append(f"without movement: MSE {quality['time_mean_mse']:.5f} (each row of an image at its mean over time); "
                 f"a VAE with more than {MOST_OF_TIME_MEAN} of that is poor")
    lines.append(f"sharpness: {quality['sharpness']:.2f} times that of the images; below {BLURRED_BELOW} the VAE "
                 "blurs, and with it all synthetic images")
    if quality["verdict"] == "poor":
        lines.append("next: train a VAE on these images, or train it for longer: docs/own_vae.md")
    return "\n".join(lines)


@checks_arguments
def check_vae(config: Config, *, num_images: int = 100) -> dict:
    """Check the VAE before training, step 1 of 5. Exit status 1 when it reconstructs poorly.

    Args:
        num_images: number of training images to encode, spread over all users
    """
    if num_images < 1:
        raise InputError(f"num_images is {num_images}; expected at least 1")
    check_new_config(config)
    device = choose_device(config.device)
    print(describe_work(device, amp=config.amp, micro_batch=config.vae_batch_size))
    given = config
    config, vae = open_vae(config, device)
    config, data = open_data(config)
    split = data.split
    legend = legend_of(config, split)
    paths, labels = paths_and_labels(split.train_images)
    chosen = np.unique(np.linspace(0, len(paths) - 1, min(num_images, len(paths))).astype(int))
    images = load_images(data.path, [paths[i] for i in chosen], config.image_size, "reading", vae.channels,
                         split.preparation)
    quality, reconstructions = measure_quality(vae, images, batch_size=config.vae_batch_size, seed=config.seed)
    quality["time_mean_mse"] = time_mean_mse(images)
    quality["sharpness"] = (sharpness(reconstructions).mean() / sharpness(images).mean()).item()
    quality |= judge(quality)
    print(report(quality, config))

    write_json(config.results_folder / "vae_range.json", {"vae_path": str(config.vae_path), **quality})
    shown = np.unique(np.linspace(0, len(images) - 1, min(NUM_SHOWN, len(images))).astype(int))
    grid = image_grid([("original", list(images[shown])), ("reconstruction", list(reconstructions[shown]))],
                      [legend.figure_names[split.users[int(labels[chosen[i]])]] for i in shown],
                      f"MSE {quality['mse']:.5f}, PSNR {quality['psnr_db']:.1f} dB", legend.axes)
    save_figure(grid, config.results_folder / "vae_reconstruction.png")
    print(f"written: {config.results_folder}/vae_range.json, vae_reconstruction.png")
    if quality["verdict"] != "poor":
        print("next: " + command("train_latent_cfg.py", *option_words(given, vars(given))))
    return quality
