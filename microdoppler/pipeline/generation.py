"""From a checkpoint to images: the network with averaged (EMA) weights, and its VAE."""
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Sequence

import torch

from denoising_diffusion_pytorch import GaussianDiffusion
from denoising_diffusion_pytorch.checkpoint import (ema_unet_weights, list_milestones, load_checkpoint,
                                                    load_unet_weights, milestone_path)
from denoising_diffusion_pytorch.classifier_free_guidance import OnStep
from denoising_diffusion_pytorch.flat import convert_layers
from groundwork.device import autocast, choose_device, convolution_format, half_precision, in_memory_format
from groundwork.errors import InputError, shortened
from groundwork.files import digest_tensors
from groundwork.limits import Seed, checks_arguments, to_plain
from groundwork.memory import AdaptiveBatches
from groundwork.seeding import derive_seed
from microdoppler.data.latents import LatentCache, LatentScaling, LatentStatistics, load_cached
from microdoppler.data.stitching import window_of
from microdoppler.figures.legend import Legend
from microdoppler.pipeline.assembly import build_diffusion, clipping_is_justified, guidance_of, open_vae
from microdoppler.pipeline.constants import check_constants, config_of
from train_latent_cfg import Config
from vae.kl_vae import KL_VAE

MODEL_FILE, VAE_FILE = "model.safetensors", "vae.safetensors"       # in a folder that export.py wrote
MAX_BATCH = 64      # images that ImageGenerator.sample generates at once, if memory allows


@dataclass(frozen=True)
class Sampling:
    """Sampling constants that replace those of the checkpoint. None keeps the checkpoint's constant."""
    noise_level: float | None = None  # 1: start from noise alone; below 1: from noised training images (SDEdit)
    cond_scale: float | None = None  # guidance: 1 = none; higher = more typical of the user and less diverse
    guidance_interval: tuple[float, float] | None = None  # shares of the timesteps with guidance: 0 clean, 1 noise
    rescaled_phi: float | None = None  # how far the contrast that guidance adds is taken back: 0 = not, 1 = fully
    remove_parallel_component: bool | None = None  # drop the part of guidance that only raises contrast
    use_cfg_plus_plus: bool | None = None  # CFG++ guidance; cond_scale must then be in (0, 1]
    sampler: str | None = None  # dpmpp_2m, ddim, or ddpm (all timesteps)
    sampling_timesteps: int | None = None  # network evaluations per image with dpmpp_2m and ddim
    ddim_sampling_eta: float | None = None  # ddim: 0 deterministic, 1 as noisy as ddpm
    seed: int | None = None  # random seed; an image depends on it, the user and the image's number

    def applied_to(self, config: Config) -> Config:
        """`config` with these constants in it."""
        return replace(config, **{name: value for name, value in vars(self).items() if value is not None})

    @staticmethod
    def of(config: Config) -> "Sampling":
        """The sampling constants in a Config."""
        return Sampling(**{constant.name: getattr(config, constant.name) for constant in fields(Sampling)})

    @staticmethod
    def constants_of(config: Config) -> dict:
        """{name: plain value} of the sampling constants in a Config."""
        plain = to_plain(config)
        return {field.name: plain[field.name] for field in fields(Sampling)}


def find_checkpoint(path: str | Path) -> Path:
    """`path` if it is a file; in a folder, its model.safetensors or else its newest milestone.

    Raises InputError when the folder has neither, or does not exist.
    """
    path = Path(path)
    if path.is_file() or path.suffix in (".pt", ".safetensors"):
        return path
    if (path / MODEL_FILE).is_file():
        return path / MODEL_FILE
    if not (milestones := list_milestones(path)):
        found = f"no checkpoint in {path}, model-<m>.pt or {MODEL_FILE}" if path.is_dir() else f"{path} does not exist"
        raise InputError(f"{found}; train first (train_latent_cfg.py), or give --checkpoint the results_folder of a "
                         "training or one of its files")
    return milestone_path(path, milestones[-1])


def _vae_beside(path: Path) -> Path | None:
    """vae.safetensors in the folder of a model.safetensors, if it is there."""
    beside = path.with_name(VAE_FILE)
    return beside if path.suffix == beside.suffix and beside.is_file() else None


def image_seed(seed: int, user: int, index: int) -> int:
    """The seed of a user's image with this index (1, 2, …); user: 1, 2, …; seed: the run's seed."""
    return derive_seed(seed, user, index)


def ready_to_sample(diffusion: GaussianDiffusion, amp: bool, device: torch.device) -> GaussianDiffusion:
    """The diffusion model itself on the device, with its weights in the precision and memory format of sampling there,
    and with CUDA graphs.
    """
    if amp and (half := half_precision(device)):
        convert_layers(diffusion, half)
    diffusion.uses_graphs = True
    return in_memory_format(diffusion.to(device), convolution_format(device)).eval()


@dataclass(frozen=True)
class ImageGenerator:
    """Generates images: the network of a checkpoint with averaged (EMA) weights, its VAE and its latent scaling."""
    config: Config                          # of the checkpoint, with the constants of Sampling in it
    diffusion: GaussianDiffusion
    vae: KL_VAE
    scaling: LatentScaling
    identity: dict                          # step, hashes of the weights and of the VAE, split: for the manifest
    training_latents: LatentCache | None    # where noise_level below 1 starts from; None when it is 1
    legend: Legend                          # the users' numbers, folders and names
    own_sampling: dict                      # {name: plain value} of the checkpoint's own sampling constants

    @staticmethod
    def load(path: str | Path, device: str | torch.device = "auto", sampling: Sampling = Sampling(),
             vae_path: Path | None = None, latents_cache_folder: Path | None = None,
             force: bool = False) -> "ImageGenerator":
        """Load a checkpoint or a safetensors file; `path` may also be a folder with either (see find_checkpoint).

        device: auto, cpu, cuda or cuda:<n>. sampling: constants that replace the checkpoint's. vae_path: weights of the
        VAE; default: vae.safetensors beside a safetensors file, else the checkpoint's vae_path. latents_cache_folder:
        the encoded training images, which only a noise_level below 1 needs; default: the checkpoint's. force: accept
        another VAE than the model was trained with. Raises InputError when a file is missing or damaged, or does not
        belong to the checkpoint.
        """
        path = find_checkpoint(path)
        device = choose_device(device) if isinstance(device, str) else device
        checkpoint = load_checkpoint(path)
        own = config_of(checkpoint)
        config = sampling.applied_to(own)
        config = replace(config, vae_path=vae_path or _vae_beside(path) or config.vae_path,
                         latents_cache_folder=latents_cache_folder or config.latents_cache_folder)
        check_constants(config)
        if vae_path is None and not config.vae_path.exists():
            raise InputError(f"{path} was trained with the VAE {config.vae_path}, which is not there (seen from "
                             f"{Path.cwd()}); give the same VAE with --vae_path")
        weights = ema_unet_weights(checkpoint)
        diffusion = build_diffusion(config)
        load_unet_weights(diffusion.model, weights, path)
        config, vae = open_vae(config, device)
        is_other_vae = checkpoint.get("vae_fingerprint") not in (None, vae.fingerprint())
        if is_other_vae and not force:
            raise InputError(f"{path} was trained on the latents of another VAE than {config.vae_path}; give the right "
                             "one with --vae_path, or force it (generate.py --force)")
        if "latent_statistics" in checkpoint:
            statistics = LatentStatistics.of(checkpoint["latent_statistics"], path)
            diffusion.clip_x_start = clipping_is_justified(config, statistics)
            scaling = statistics.scaling(config.standardize_latents)
            training_latents = (load_cached(config.latents_cache_folder, statistics, checkpoint.get("latents"))
                                if config.noise_level < 1 else None)
        elif config.noise_level < 1:
            raise InputError(f"{path} does not say which latents it was trained on; noise_level must be 1")
        else:       # checkpoints of the older format were trained on raw latents, and always clamped x_start
            diffusion.clip_x_start, scaling = True, LatentScaling.identity(config.latent_channels)
            training_latents = None
        identity = {"step": checkpoint["step"], "weights": digest_tensors(weights), "vae": vae.digest(),
                    "vae_trained_on": vae.trained_on, "split": checkpoint.get("split", {}),
                    **({"forced": "another VAE"} if is_other_vae else {})}
        return ImageGenerator(config, ready_to_sample(diffusion, config.amp, device), vae, scaling, identity,
                              training_latents, Legend.of(checkpoint.get("legend"), config.num_users, path),
                              Sampling.constants_of(own))

    @checks_arguments
    def sample(self, user: int, count: int = 16, seed: Seed | None = None) -> torch.Tensor:
        """Images of one user (3 for the folder ID_3): (count, 3 or 1, height, width) float32 in [0, 1], on the CPU.

        They equal those that generate.py writes as ID_<user>/*1.png … *<count>.png with this seed; default: the
        checkpoint's seed. Raises InputError when the checkpoint has no such user, count is below 1, or seed is below 0.
        """
        if user not in self.legend.users or count < 1:
            raise InputError(f"user {user}, count {count}; expected one of the users "
                             f"{shortened([str(known) for known in self.legend.users])}, and at least 1 image")
        seed = self.config.seed if seed is None else seed
        seeds = [image_seed(seed, user, index) for index in range(1, count + 1)]
        images = AdaptiveBatches(MAX_BATCH, "image").map(self.sample_images, [user] * count, seeds)
        return images.permute(0, 3, 1, 2).float() / 255

    @torch.inference_mode()
    def sample_images(self, users: list[int], seeds: list[int]) -> torch.Tensor:
        """One image per pair (user, seed): (n, height, width, channels) uint8 on the CPU; seeds: as from image_seed."""
        return self.decode(self.sample_latents(users, seeds), seeds)

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        """The images of latents (n, c, h, w) from sample_latents: (n, height, width, channels) uint8 on the CPU.

        seeds: of the noise that the decoder of a sharp VAE makes speckle of.
        """
        size = self.config.vae_batch_size
        images = torch.cat([self.vae.decode_latents(latents[start:start + size], seeds[start:start + size])
                            for start in range(0, len(latents), size)])
        return (images * 255).round().byte().permute(0, 2, 3, 1).cpu()

    @torch.inference_mode()
    def sample_latents(self, users: list[int], seeds: list[int], on_step: OnStep | None = None) -> torch.Tensor:
        """One latent per pair (user, seed), scaled as the VAE decodes them: (n, c, h, w) float32 on the device.

        on_step(t, latents) is called at every sampling step with the current estimate of these latents. The last call
        gets the result.
        """
        def restore_and_report(t: int, x_start: torch.Tensor) -> None:
            assert on_step is not None
            on_step(t, self.scaling.restore(x_start.float()))

        guidance = guidance_of(self.config) | ({"on_step": restore_and_report} if on_step else {})
        labels = self.legend.labels
        classes = torch.tensor([labels[user] for user in users], device=self.diffusion.device)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        with autocast(self.diffusion.device, self.config.amp):      # the VAE chooses its precision itself
            latents = self._sample_standardized(classes, generators, guidance).float()
        return self.scaling.restore(latents)

    def start_of(self, user: int, seed: int) -> str | None:
        """The training window that this user's image with this seed starts from, as a path relative to the data folder;
        None if it starts from noise alone. seed: as from image_seed."""
        if self.training_latents is None or not self.training_latents.names:
            return None
        chosen = self.training_latents.any_of(self.legend.labels[user], torch.Generator().manual_seed(seed))
        return window_of(self.training_latents.names[int(chosen)])

    def _sample_standardized(self, classes: torch.Tensor, generators: list[torch.Generator],
                             guidance: dict) -> torch.Tensor:
        """Latents as the diffusion model gives them, (n, c, h, w), for classes (n,) int64 and a generator for each.

        They start from noise; with a noise_level below 1, from a noised training latent of the same class (SDEdit).
        """
        if self.training_latents is None:
            return self.diffusion.sample(classes, generators=generators, **guidance)
        cache = self.training_latents
        start = torch.cat([cache.draw(cache.any_of(label, generator), generator)[0]
                           for label, generator in zip(classes.tolist(), generators)])
        start = self.scaling.standardize(start).to(self.diffusion.device)
        t = max(0, round(self.config.noise_level * self.config.timesteps) - 1)
        return self.diffusion.vary(start, classes, t=t, generators=generators, **guidance)
