"""From a checkpoint to images: the averaged network with its VAE, ready to draw."""
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from assembly import build_diffusion, clipping_is_justified, guidance_of, open_vae
from denoising_diffusion_pytorch import GaussianDiffusion
from denoising_diffusion_pytorch.checkpoint import ema_unet_weights, load_checkpoint, load_unet_weights
from groundwork.device import autocast
from groundwork.errors import InputError
from groundwork.files import digest_tensors
from microdoppler.latents import LatentCache, LatentScaling, LatentStatistics, load_cached
from train_latent_cfg import Config, check_constants, config_of, config_to_plain
from vae.kl_vae import KL_VAE


@dataclass(frozen=True)
class Sampling:
    """Constants that take the place of the checkpoint's own; None keeps those."""
    noise_level: float | None = None  # 1 from noise alone; less: from training images noised so far (SDEdit)
    cond_scale: float | None = None  # guidance: 1 none, higher = more typical of the user and less diverse
    guidance_interval: tuple[float, float] | None = None  # of the timesteps, as shares; outside there is no guidance
    rescaled_phi: float | None = None  # how far guidance's gain in contrast is taken back, 0 … 1
    remove_parallel_component: bool | None = None  # drop the part of guidance that only raises contrast
    use_cfg_plus_plus: bool | None = None  # CFG++ guidance, with cond_scale in (0, 1]
    sampler: str | None = None  # dpmpp_2m, ddim or ddpm
    sampling_timesteps: int | None = None  # network evaluations per image
    ddim_sampling_eta: float | None = None  # ddim: 0 deterministic, 1 as noisy as ddpm
    seed: int | None = None  # with user and index it determines an image

    def applied_to(self, config: Config) -> Config:
        return replace(config, **{name: value for name, value in vars(self).items() if value is not None})

    @staticmethod
    def of(config: Config) -> dict:
        """The same constants of a Config."""
        plain = config_to_plain(config)
        return {field.name: plain[field.name] for field in fields(Sampling)}


@dataclass(frozen=True)
class ImageGenerator:
    """The averaged network of a checkpoint with its VAE and latent scaling, ready to draw."""
    config: Config
    diffusion: GaussianDiffusion
    vae: KL_VAE
    scaling: LatentScaling
    identity: dict      # what tells this model from others, for the manifest
    training: LatentCache | None    # what noise_level below 1 starts from

    @staticmethod
    def load(path: Path, device: torch.device, sampling: Sampling, vae_path: Path | None = None,
             latents_cache_folder: Path | None = None, force: bool = False) -> "ImageGenerator":
        checkpoint = load_checkpoint(path)
        config = sampling.applied_to(config_of(checkpoint))
        config = replace(config, vae_path=vae_path or config.vae_path,
                         latents_cache_folder=latents_cache_folder or config.latents_cache_folder)
        check_constants(config)
        weights = ema_unet_weights(checkpoint)
        diffusion = build_diffusion(config)
        load_unet_weights(diffusion.model, weights, path)
        vae = open_vae(config, device)
        fingerprint = vae.fingerprint()
        is_other_vae = checkpoint.get("vae_fingerprint") not in (None, fingerprint)
        if is_other_vae and not force:
            raise InputError(f"{path} was trained on the latents of another VAE than {config.vae_path}; give the right "
                             "one with --vae_path, or --force it")
        if "latent_statistics" in checkpoint:
            statistics = LatentStatistics.of(checkpoint["latent_statistics"], path)
            diffusion.clip_x_start = clipping_is_justified(config, statistics)
            scaling = statistics.scaling(config.standardize_latents)
            training = load_cached(config.latents_cache_folder, statistics) if config.noise_level < 1 else None
        elif config.noise_level < 1:
            raise InputError(f"{path} does not say which latents it was trained on; noise_level must be 1")
        else:       # the older format trained raw latents, and always clamped
            diffusion.clip_x_start, scaling = True, LatentScaling.identity(config.latent_channels)
            training = None
        identity = {"step": checkpoint["step"], "weights": digest_tensors(weights), "vae": fingerprint,
                    "split": checkpoint.get("split", {}), **({"forced": "another VAE"} if is_other_vae else {})}
        return ImageGenerator(config, diffusion.to(device).eval(), vae, scaling, identity, training)

    @torch.inference_mode()
    def draw(self, users: list[int], seeds: list[int]) -> torch.Tensor:
        """One image per (user, seed): (n, height, width, channels) uint8 on the CPU."""
        parts = self.draw_latents(users, seeds).split(self.config.vae_batch_size)
        images = torch.cat([self.vae.decode_latents(part) for part in parts])
        return (images * 255).round().byte().permute(0, 2, 3, 1).cpu()

    @torch.inference_mode()
    def draw_latents(self, users: list[int], seeds: list[int]) -> torch.Tensor:
        """One latent per (user, seed), as the VAE decodes them: (n, c, h, w) float32 on the device."""
        classes = torch.tensor(users, device=self.diffusion.device) - 1
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        with autocast(self.diffusion.device, self.config.amp):      # the VAE's activations may be too large for float16
            latents = self._standard_latents(classes, generators, guidance_of(self.config)).float()
        return self.scaling.restore(latents)

    def _standard_latents(self, classes: torch.Tensor, generators: list[torch.Generator],
                          guidance: dict) -> torch.Tensor:
        if self.training is None:
            return self.diffusion.sample(classes, generators=generators, **guidance)
        start = torch.cat([self.training.draw_any_of(label, generator)
                           for label, generator in zip(classes.tolist(), generators)])
        start = self.scaling.standardize(start).to(self.diffusion.device)
        last = max(0, round(self.config.noise_level * self.config.timesteps) - 1)
        return self.diffusion.vary(start, classes, t=last, generators=generators, **guidance)
