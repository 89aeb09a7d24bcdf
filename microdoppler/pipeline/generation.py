"""From a checkpoint to images: the averaged network with its VAE, ready to draw."""
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from denoising_diffusion_pytorch import GaussianDiffusion
from denoising_diffusion_pytorch.checkpoint import (ema_unet_weights, list_milestones, load_checkpoint,
                                                    load_unet_weights, milestone_path)
from denoising_diffusion_pytorch.classifier_free_guidance import OnStep
from groundwork.device import autocast, choose_device
from groundwork.errors import InputError
from groundwork.files import digest_tensors
from groundwork.limits import to_plain
from groundwork.memory import AdaptiveBatches
from groundwork.seeding import derive_seed
from microdoppler.data.latents import LatentCache, LatentScaling, LatentStatistics, load_cached
from microdoppler.figures.legend import Legend
from microdoppler.pipeline.assembly import build_diffusion, clipping_is_justified, guidance_of, open_vae
from microdoppler.pipeline.constants import check_constants, config_of
from train_latent_cfg import Config
from vae.kl_vae import KL_VAE

MODEL_FILE, VAE_FILE = "model.safetensors", "vae.safetensors"       # of a folder that export.py wrote
DRAWN_AT_ONCE = 64      # images


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
        plain = to_plain(config)
        return {field.name: plain[field.name] for field in fields(Sampling)}


def find_checkpoint(path: str | Path) -> Path:
    """`path` itself; of a folder its model.safetensors, else its newest milestone. Raises InputError when it holds
    neither."""
    path = Path(path)
    if path.is_file() or path.suffix in (".pt", ".safetensors"):
        return path
    if (path / MODEL_FILE).is_file():
        return path / MODEL_FILE
    if not (milestones := list_milestones(path)):
        raise InputError(f"no checkpoint in {path}; train first, or give --checkpoint")
    return milestone_path(path, milestones[-1])


def _vae_beside(path: Path) -> Path | None:
    beside = path.with_name(VAE_FILE)
    return beside if path.suffix == beside.suffix and beside.is_file() else None


def image_seed(seed: int, user: int, index: int) -> int:
    """What a user's image of this index (1, 2, …) is drawn from."""
    return derive_seed(seed, user, index)


@dataclass(frozen=True)
class ImageGenerator:
    """The averaged network of a checkpoint with its VAE and latent scaling, ready to draw."""
    config: Config
    diffusion: GaussianDiffusion
    vae: KL_VAE
    scaling: LatentScaling
    identity: dict      # what tells this model from others, for the manifest
    training: LatentCache | None    # what noise_level below 1 starts from
    legend: Legend      # who its users are

    @staticmethod
    def load(path: str | Path, device: str | torch.device = "auto", sampling: Sampling = Sampling(),
             vae_path: Path | None = None, latents_cache_folder: Path | None = None,
             force: bool = False) -> "ImageGenerator":
        """From a checkpoint, a safetensors file, or a folder of either (see find_checkpoint).

        device: auto, cpu, cuda or cuda:<n>; sampling: what is to differ from the checkpoint's constants; vae_path: of
        the VAE, where it is neither beside a safetensors file nor at the checkpoint's vae_path; latents_cache_folder:
        likewise, for a noise_level below 1; force: take another VAE than the model was trained with. Raises InputError
        when a file is absent, damaged, or does not belong to the others.
        """
        path = find_checkpoint(path)
        device = choose_device(device) if isinstance(device, str) else device
        checkpoint = load_checkpoint(path)
        config = sampling.applied_to(config_of(checkpoint))
        config = replace(config, vae_path=vae_path or _vae_beside(path) or config.vae_path,
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
                             "one with --vae_path, or force it (generate.py --force)")
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
        return ImageGenerator(config, diffusion.to(device).eval(), vae, scaling, identity, training,
                              Legend.of(checkpoint.get("legend"), config.num_users, path))

    def sample(self, user: int, count: int = 16, seed: int | None = None) -> torch.Tensor:
        """Images of one user (1, 2, …): (count, 3 or 1, height, width) float32 in [0, 1], on the CPU.

        They are those that generate.py writes as ID_<user>/*1.png … *<count>.png with this seed; None: the
        checkpoint's. Raises InputError when the checkpoint does not know the user, or count is below 1.
        """
        if not 1 <= user <= self.config.num_users or count < 1:
            raise InputError(f"user {user}, count {count}; expected a user in 1 … {self.config.num_users}, and at "
                             "least 1 image")
        seed = self.config.seed if seed is None else seed
        seeds = [image_seed(seed, user, index) for index in range(1, count + 1)]
        images = AdaptiveBatches(DRAWN_AT_ONCE, "image").map(self.draw, [user] * count, seeds)
        return images.permute(0, 3, 1, 2).float() / 255

    @torch.inference_mode()
    def draw(self, users: list[int], seeds: list[int]) -> torch.Tensor:
        """One image per (user, seed): (n, height, width, channels) uint8 on the CPU."""
        return self.decode(self.draw_latents(users, seeds))

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """The images of draw_latents' latents, as draw returns them."""
        parts = latents.split(self.config.vae_batch_size)
        images = torch.cat([self.vae.decode_latents(part) for part in parts])
        return (images * 255).round().byte().permute(0, 2, 3, 1).cpu()

    @torch.inference_mode()
    def draw_latents(self, users: list[int], seeds: list[int], on_step: OnStep | None = None) -> torch.Tensor:
        """One latent per (user, seed), as the VAE decodes them: (n, c, h, w) float32 on the device.

        on_step(t, latents): is told at every timestep what they are estimated to be, in the end they themselves.
        """
        def restore_and_tell(t: int, x_start: torch.Tensor) -> None:
            assert on_step is not None
            on_step(t, self.scaling.restore(x_start.float()))

        guidance = guidance_of(self.config) | ({"on_step": restore_and_tell} if on_step else {})
        classes = torch.tensor(users, device=self.diffusion.device) - 1
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        with autocast(self.diffusion.device, self.config.amp):      # the VAE's activations may be too large for float16
            latents = self._standard_latents(classes, generators, guidance).float()
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
