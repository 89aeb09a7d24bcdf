"""Build what a Config describes: split, legend, VAE, latent cache, network, trainer. Several scripts use these."""
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Sequence

import torch

from denoising_diffusion_pytorch import GaussianDiffusion, Unet
from denoising_diffusion_pytorch.trainer import Trainer
from groundwork.errors import InputError
from microdoppler.data.audit import audit_split
from microdoppler.data.latents import LatentCache, LatentScaling, LatentStatistics, check_range, load_or_encode
from microdoppler.data.overlap import Overlaps
from microdoppler.data.spectrograms import paths_and_labels
from microdoppler.data.split import Split, describe
from microdoppler.data.split_file import SPLIT_FILE, SplitOptions, locate_data, open_split
from microdoppler.data.stitching import Cut, add_doppler_shifts, load_cuts, plan_cuts
from microdoppler.fidelity.sample_evaluator import SampleEvaluator
from microdoppler.figures.axes import known_axes
from microdoppler.figures.legend import Legend
from microdoppler.pipeline.constants import check_latent_size
from microdoppler.study.evaluation_classifier import load_validation, open_evaluation_classifier
from train_latent_cfg import Config
from vae.kl_vae import KL_VAE

USUAL_IMAGE_SIZE = 256      # pixels, where neither the Config nor the file of the VAE says it


@dataclass(frozen=True)
class Data:
    """The data set of a Config: its images, how they are split, and which of them overlap."""
    path: Path                  # Config.data_path, or the folder train in it
    split: Split
    overlaps: Overlaps


def open_data(config: Config) -> tuple[Config, Data]:
    """The data set with the split in latents_cache_folder/data_split.json, which is made on first use.

    Returns also the Config in which the constants that were left open are as the split says. Prints how order and
    recordings were found, a description of the split, warnings, and the result of the audit: whether test images
    overlap training images. Raises InputError when the split was made with other constants.
    """
    path, test_data = locate_data(config.data_path, config.test_data)
    given = {field.name: getattr(config, field.name) for field in fields(SplitOptions)}
    options = SplitOptions(**given | {"num_users": config.num_users or None, "test_data": test_data,
                                      "class_folders": config.class_folders or None})
    opened = open_split(config.latents_cache_folder / SPLIT_FILE, path, options, config.class_names)
    print("\n".join([*opened.lines, describe(opened.split), audit_split(opened.split, opened.overlaps).line]))
    found: dict[str, Any] = vars(SplitOptions.of(opened.split.settings)) | {"seed": config.seed}
    return replace(config, data_path=path, **found), Data(path, opened.split, opened.overlaps)


def legend_of(config: Config, split: Split) -> Legend:
    """The users' names and, if known, the axes of their images, for labels in pictures."""
    first = config.data_path / split.train_images[split.users[0]][0]
    return Legend(split.folders, split.names, known_axes(config.data_path, config.window_seconds,
                                                         config.velocity_range_mps, first, split.preparation))


def open_sample_evaluator(config: Config, data: Data, device: torch.device, channels: int) -> SampleEvaluator:
    """The evaluator of synthetic images with this number of channels (3 or 1). Its evaluation classifier is trained on
    the real training images on first use, and stored in latents_cache_folder. The validation images, if the split has
    some, are its held-out ones: test images are not looked at before the study."""
    classifier, training = open_evaluation_classifier(
        data.path, data.split, data.overlaps.successor_of, network=config.classifier,
        image_size=min(config.classifier_image_size, config.image_size), folder=config.latents_cache_folder,
        device=device, channels=channels)
    held_out = load_validation(data.path, data.split, training.images.shape[-1], channels)
    paths, _ = paths_and_labels(data.split.validation_images)
    return SampleEvaluator(classifier, training, held_out, data.overlaps.pass_names(paths))


def open_vae(config: Config, device: torch.device) -> tuple[Config, KL_VAE]:
    """The VAE at vae_path, and the Config with the sizes of its images and latents where they were left open.

    Raises InputError when the VAE does not fit image_size, latent_size and latent_channels.
    """
    vae = KL_VAE.load(config.vae_path, device, config.amp)
    image_size = config.image_size or vae.image_size or USUAL_IMAGE_SIZE
    found = {"latent_channels": vae.embed_dim, "latent_size": vae.latent_size(image_size)}
    for name, value in found.items():
        if getattr(config, name) not in (0, value):
            latents = f"{vae.embed_dim} x {found['latent_size']} x {found['latent_size']}"
            raise InputError(f"{name} is {getattr(config, name)}, but {config.vae_path} makes {latents} latents of "
                             f"{image_size} px images: set {name} to {value}, or to 0, or give another --vae_path")
    config = replace(config, image_size=image_size, latent_channels=found["latent_channels"],
                     latent_size=found["latent_size"])
    check_latent_size(config)
    return config, vae


def load_windows(config: Config, data: Data, channels: int, indices: torch.Tensor) -> torch.Tensor:
    """The images that the latents at indices (n,) int64 were encoded from: (n, channels, s, s) uint8."""
    cuts, _ = training_cuts(config, data)
    return load_cuts(data.path, [cuts[i] for i in indices.tolist()], config.image_size, channels,
                     data.split.preparation)


def training_cuts(config: Config, data: Data) -> tuple[list[Cut], torch.Tensor]:
    """The n windows that a diffusion model is trained on, and their labels (n,) int64."""
    paths, labels = paths_and_labels(data.split.train_images)
    successor_of = data.overlaps.successor_of if config.cuts_per_hop > 1 else {}
    cuts = add_doppler_shifts(plan_cuts(paths, successor_of, config.cuts_per_hop), config.doppler_shift, config.seed)
    label_of = dict(zip(paths, labels.tolist()))
    return cuts, torch.tensor([label_of[cut.path] for cut in cuts])


def open_cache(config: Config, data: Data, vae: KL_VAE, device: torch.device) -> LatentCache:
    """The latents of all training windows, encoded on first use and stored in latents_cache_folder.

    With cuts_per_hop above 1, windows between recorded neighbours are added. doppler_shift moves each window up or down
    by a random share of its height. Raises InputError when auto_normalize is True and the latents are outside [0, 1].
    """
    cuts, labels = training_cuts(config, data)
    cache = load_or_encode(vae, data.path, cuts, labels, image_size=config.image_size,
                           preparation=data.split.preparation, folder=config.latents_cache_folder,
                           batch_size=config.vae_batch_size, device=device)
    check_range(cache.statistics, auto_normalize=config.auto_normalize)
    if config.auto_normalize and config.standardize_latents:        # standardized latents leave [0, 1]
        raise InputError("auto_normalize and standardize_latents are both True; set auto_normalize = False")
    return cache


def build_diffusion(config: Config) -> GaussianDiffusion:
    """The diffusion model with its U-Net, untrained. Raises InputError when the constants contradict each other."""
    try:
        unet = Unet(config.dim, config.num_users, dim_mults=config.dim_mults, channels=config.latent_channels,
                    cond_drop_prob=config.cond_drop_prob, attn_dim_head=config.attn_dim_head,
                    attn_heads=config.attn_heads)
        return GaussianDiffusion(
            unet, image_size=config.latent_size, timesteps=config.timesteps, objective=config.objective,
            beta_schedule=config.beta_schedule, min_snr_loss_weight=config.min_snr_loss_weight,
            min_snr_gamma=config.min_snr_gamma, min_loss_weight=config.min_loss_weight,
            offset_noise_strength=config.offset_noise_strength,
            auto_normalize=config.auto_normalize, sampler=config.sampler,
            sampling_timesteps=config.sampling_timesteps, ddim_sampling_eta=config.ddim_sampling_eta,
            use_cfg_plus_plus=config.use_cfg_plus_plus)
    except ValueError as error:
        raise InputError(str(error)) from None


def build_trainer(config: Config, diffusion: GaussianDiffusion, cache: LatentCache, scaling: LatentScaling,
                  device: torch.device, log_with: Sequence[str] = ()) -> Trainer:
    """The trainer of a diffusion model. Every batch has new samples of the posteriors in the cache, scaled.

    The cache is copied to the device if there is enough room. log_with: names of accelerate's trackers.
    """
    cache.keep_on(device)

    def get_batch(indices: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        latents, labels = cache.draw(indices, generator)
        return scaling.standardize(latents), labels

    return Trainer(
        diffusion, get_batch, len(cache), train_batch_size=config.train_batch_size,
        gradient_accumulate_every=config.gradient_accumulate_every, train_lr=config.train_lr,
        adam_betas=config.adam_betas, max_grad_norm=config.max_grad_norm, ema_decay=config.ema_decay,
        ema_update_every=config.ema_update_every, amp=config.amp, seed=config.seed, device=device,
        draws_on_device=cache.resident is not None, log_with=log_with,
        logging_folder=config.results_folder / "trackers")


def guidance_of(config: Config) -> dict:
    """The guidance constants, as keyword arguments of GaussianDiffusion.sample."""
    return {name: getattr(config, name)
            for name in ("cond_scale", "guidance_interval", "rescaled_phi", "remove_parallel_component")}


def clipping_is_justified(config: Config, statistics: LatentStatistics) -> bool:
    """Whether sampling may clamp x_start to [-1, 1]: only where the training data lies in this range. Standardized
    latents never do."""
    if config.standardize_latents:
        return False
    return config.auto_normalize or max(-statistics.min, statistics.max) <= 1
