"""From the constants of a Config to the things they describe: what several scripts need."""
from typing import Sequence

import torch

from denoising_diffusion_pytorch import GaussianDiffusion, Unet
from denoising_diffusion_pytorch.trainer import Trainer
from groundwork.errors import InputError
from microdoppler.data.audit import audit_split
from microdoppler.data.latents import LatentCache, LatentScaling, LatentStatistics, check_range, load_or_encode
from microdoppler.data.overlap import Overlaps, load_or_find_overlaps
from microdoppler.data.spectrograms import labels_of
from microdoppler.data.split import Split, SplitSettings, describe, load_or_make_split
from microdoppler.data.stitching import plan_cuts, shift_each
from microdoppler.fidelity.sample_evaluator import SampleEvaluator
from microdoppler.figures.axes import known_axes
from microdoppler.figures.legend import Legend
from microdoppler.study.evaluation_classifier import open_evaluation_classifier
from train_latent_cfg import Config
from vae.kl_vae import KL_VAE


def split_settings(config: Config) -> SplitSettings:
    return SplitSettings(config.num_users, config.images_per_user_train, config.split_strategy, config.split_fold,
                         config.split_guard, config.seed, config.class_folders)


def open_split(config: Config) -> Split:
    """The split of this configuration, made on first use; prints what it is, and whether it leaks."""
    split, warnings = load_or_make_split(config.latents_cache_folder / "data_split.json", config.data_path,
                                         split_settings(config), config.class_names)
    audit = audit_split(split, open_overlaps(config))
    print("\n".join([*(f"warning: {warning}" for warning in warnings), describe(split), audit.line]))
    return split


def legend_of(config: Config, split: Split) -> Legend:
    """What pictures of this configuration's users are labelled with."""
    return Legend(split.classes, split.names,
                  known_axes(config.data_path, config.window_seconds, config.velocity_range_mps))


def open_overlaps(config: Config) -> Overlaps:
    """How the images of the data set overlap, found on first use."""
    return load_or_find_overlaps(config.data_path, config.num_users, config.latents_cache_folder,
                                 config.class_folders)


def open_sample_evaluator(config: Config, split: Split, device: torch.device, channels: int) -> SampleEvaluator:
    """The classifier of the real training images that synthetic ones of so many channels are judged by, trained on
    first use."""
    return SampleEvaluator(*open_evaluation_classifier(config.data_path, split, open_overlaps(config).following,
                                  image_size=config.classifier_image_size, folder=config.latents_cache_folder,
                                  device=device, channels=channels))


def open_vae(config: Config, device: torch.device) -> KL_VAE:
    """The VAE at vae_path, checked against image_size, latent_size and latent_channels."""
    vae = KL_VAE.load(config.vae_path, device=device)
    found = (vae.embed_dim, vae.latent_size(config.image_size))
    if found != (config.latent_channels, config.latent_size):
        raise InputError(f"{config.vae_path} makes {found[0]} x {found[1]} x {found[1]} latents of {config.image_size} "
                         f"px images; latent_channels = {config.latent_channels} and latent_size = "
                         f"{config.latent_size} expect otherwise: set them to what the VAE makes")
    return vae


def open_cache(config: Config, split: Split, vae: KL_VAE, device: torch.device) -> LatentCache:
    """The latents of the training images, encoded on first use. Refuses a range that auto_normalize would ruin."""
    paths, labels = labels_of(split.train_images)
    following = open_overlaps(config).following if config.cuts_per_hop > 1 else {}
    cuts = shift_each(plan_cuts(paths, following, config.cuts_per_hop), config.doppler_shift, config.seed)
    label_of = dict(zip(paths, labels.tolist()))
    labels = torch.tensor([label_of[cut.path] for cut in cuts])
    cache = load_or_encode(vae, config.data_path, cuts, labels, image_size=config.image_size,
                           folder=config.latents_cache_folder, batch_size=config.vae_batch_size, device=device)
    check_range(cache.statistics, auto_normalize=config.auto_normalize)
    if config.auto_normalize and config.standardize_latents:        # inside [0, 1], but not once standardized
        raise InputError("auto_normalize and standardize_latents are both True; set auto_normalize = False")
    return cache


def build_diffusion(config: Config) -> GaussianDiffusion:
    """The network and its diffusion. Raises InputError when the constants contradict each other."""
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
    """The trainer of a diffusion on fresh draws from the cache, scaled; a device with room enough holds the cache."""
    cache.keep_on(device)

    def draw_batch(indices: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        latents, labels = cache.draw(indices, generator)
        return scaling.standardize(latents), labels

    return Trainer(
        diffusion, draw_batch, len(cache), train_batch_size=config.train_batch_size,
        gradient_accumulate_every=config.gradient_accumulate_every, train_lr=config.train_lr,
        adam_betas=config.adam_betas, max_grad_norm=config.max_grad_norm, ema_decay=config.ema_decay,
        ema_update_every=config.ema_update_every, amp=config.amp, seed=config.seed, device=device, log_with=log_with,
        logging_folder=config.results_folder / "trackers")


def guidance_of(config: Config) -> dict:
    """How GaussianDiffusion.sample is to be guided."""
    return {name: getattr(config, name)
            for name in ("cond_scale", "guidance_interval", "rescaled_phi", "remove_parallel_component")}


def clipping_is_justified(config: Config, statistics: LatentStatistics) -> bool:
    """Clamping x_start to [-1, 1] is right for data within it, which standardized latents never are."""
    if config.standardize_latents:
        return False
    return config.auto_normalize or max(-statistics.min, statistics.max) <= 1
