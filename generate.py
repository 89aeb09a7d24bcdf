"""Step 4: draw new spectrograms of each user from a checkpoint."""
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from accelerate import PartialState
from tqdm import tqdm

from assembly import build_diffusion, clipping_is_justified, guidance_of, open_vae
from denoising_diffusion_pytorch import GaussianDiffusion
from denoising_diffusion_pytorch.checkpoint import (ema_unet_weights, list_milestones, load_checkpoint,
                                                    load_unet_weights, milestone_path)
from denoising_diffusion_pytorch.trainer import join_processes
from groundwork.command_line import run
from groundwork.device import autocast, choose_device, describe_work
from groundwork.errors import InputError, differences
from groundwork.files import TEMPORARY, check_inside, digest_tensors, read_json, write_json
from groundwork.images import load_image, save_image
from groundwork.lock import LOCK, OWNER, sole_writer
from groundwork.memory import Parts
from groundwork.seeding import derive_seed
from microdoppler.latents import LatentCache, LatentScaling, LatentStatistics, load_cached
from microdoppler.pictures import image_grid
from microdoppler.report import save_figure
from train_latent_cfg import Config, check_constants, config_of, config_to_plain
from vae.kl_vae import KL_VAE

MANIFEST = "manifest.json"
BEFORE_THERE_WAS_A_CHOICE = {"noise_level": 1.0, "guidance_interval": [0.0, 1.0]}
GRID_COLUMNS = 8


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
        """One image per (user, seed): (n, height, width, 3) uint8 on the CPU."""
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


def choose_users(all_users: bool, user_id: tuple[int, ...], num_users: int) -> list[int]:
    if all_users == bool(user_id):
        raise InputError("give either --all_users or --user_id with users' numbers")
    unknown = [user for user in user_id if not 1 <= user <= num_users]
    if unknown:
        raise InputError(f"--user_id {' '.join(map(str, unknown))} is unknown to this checkpoint; "
                         f"its users are 1 … {num_users}")
    return list(range(1, num_users + 1)) if all_users else sorted(set(user_id))


def open_manifest(output_dir: Path, settings: dict) -> dict:
    """The manifest of output_dir, new or gone on with. Raises InputError when the images there were made otherwise."""
    path = output_dir / MANIFEST
    if not path.exists():
        if output_dir.is_dir() and any(
                path.name not in (LOCK, OWNER) and not TEMPORARY.fullmatch(path.name) for path in output_dir.iterdir()):
            raise InputError(f"{output_dir} is not empty and has no {MANIFEST}; choose another --output_dir")
        return {**settings, "images": {}}
    manifest = read_json(path)
    if not (isinstance(manifest, dict) and isinstance(manifest.get("images"), dict)):
        raise InputError(f"{path} is no manifest of ours; choose another --output_dir")
    check_inside(manifest["images"], path)
    changed = differences({"forced": None} | BEFORE_THERE_WAS_A_CHOICE | manifest, {"forced": None} | settings)
    if changed:
        raise InputError(f"{output_dir} holds images made with {changed}; choose another --output_dir")
    return manifest


def newest_checkpoint(folder: Path) -> Path:
    milestones = list_milestones(folder)
    if not milestones:
        raise InputError(f"no checkpoint in {folder}; train first, or give --checkpoint")
    return milestone_path(folder, milestones[-1])


def main(*, checkpoint: Path | None = None, all_users: bool = False, samples_per_user: int = 50,
         user_id: tuple[int, ...] = (), num_samples: int = 16, output_dir: Path = Path("synthetic_data/samples"),
         sampling: Sampling = Sampling(), batch_size: int = 64, device: str = "auto", vae_path: Path | None = None,
         latents_cache_folder: Path | None = None, save_grid: bool = False, force: bool = False):
    """Draw spectrograms from a checkpoint, step 4 of 5. Run again, it makes only what is missing.

    Launched as several processes (accelerate launch), they share the images out among them. Options that default to
    None keep what the checkpoint was trained with.

    Args:
        checkpoint: model-<m>.pt; default: the newest in the results folder
        all_users: draw samples_per_user images of every user
        samples_per_user: images of each user, with --all_users
        user_id: draw num_samples images of these users, numbered as their folders are (1, 2, …)
        num_samples: images of each user, with --user_id
        output_dir: gets ID_<n>/*.png and manifest.json
        batch_size: images drawn at once; changes an image by rounding at most
        device: auto, cpu, cuda or cuda:<n>
        vae_path: weights of the VAE, where they are not at the checkpoint's vae_path
        latents_cache_folder: the encoded training images, for noise_level below 1, likewise
        save_grid: also write grid.png, a row per user
        force: draw even through another VAE than the model was trained with; the manifest will say so
    """
    torch_device = choose_device(device)
    processes = join_processes(torch_device)
    checkpoint = checkpoint or newest_checkpoint(Config.results_folder)
    count = samples_per_user if all_users else num_samples
    if count < 1 or batch_size < 1:
        raise InputError(f"{count} images per user, batch_size {batch_size}: expected at least 1 of each")
    generator = ImageGenerator.load(checkpoint, torch_device, sampling, vae_path, latents_cache_folder, force)
    users = choose_users(all_users, user_id, generator.config.num_users)
    print(describe_work(torch_device, amp=generator.config.amp, at_once=batch_size, processes=processes.num_processes))
    with sole_writer(output_dir) if processes.is_main_process else nullcontext():
        names = draw_all(generator, users, count, output_dir, checkpoint, batch_size, processes)
        if save_grid and processes.is_main_process:
            save_figure(draw_grid(output_dir, names, users, generator.config.image_size), output_dir / "grid.png")
    print(f"next: python classify.py --synthetic {output_dir}")


def draw_all(generator: ImageGenerator, users: list[int], count: int, output_dir: Path, checkpoint: Path,
             batch_size: int, processes: PartialState) -> list[str]:
    """Draw what output_dir lacks of `count` images of each user; returns the names of all."""
    settings = Sampling.of(generator.config)
    processes.wait_for_everyone()       # until the main one has locked the folder
    manifest = open_manifest(output_dir, generator.identity | settings) | {"checkpoint": str(checkpoint)}
    print(f"{checkpoint}, step {manifest['step']}: " + ", ".join(f"{name} {value}" for name, value in settings.items()))
    wanted = {f"ID_{user}/ID{user}_synthetic_Doppler{index}.png": (user, derive_seed(settings["seed"], user, index))
              for user in users for index in range(1, count + 1)}
    missing = [name for name in wanted if not (output_dir / name).exists()]
    manifest["images"] |= {name: {"user": user, "seed": seed} for name, (user, seed) in wanted.items()}
    processes.wait_for_everyone()       # until all have looked, before any writes
    if processes.is_main_process:
        write_json(output_dir / MANIFEST, manifest)
    processes.wait_for_everyone()       # no image before the manifest that tells what it is
    own = missing[processes.process_index::processes.num_processes]
    draw_missing(generator, {name: wanted[name] for name in own}, output_dir, batch_size,
                 is_heard=processes.is_main_process)
    processes.wait_for_everyone()
    print(f"{len(missing)} images drawn, {len(wanted) - len(missing)} were there already: {output_dir}")
    return list(wanted)


def draw_missing(generator: ImageGenerator, wanted: dict[str, tuple[int, int]], output_dir: Path, batch_size: int,
                 is_heard: bool) -> None:
    """Draw and write {name: (user, seed)}; files of one batch are written while the next one is drawn."""
    names, writing, parts = list(wanted), [], Parts(batch_size, "image")
    with (ThreadPoolExecutor() as writers,
          tqdm(total=len(names), desc="drawing", unit="image", disable=None if is_heard else True) as bar):
        for start in range(0, len(names), batch_size):
            batch = names[start:start + batch_size]
            images = parts.map(generator.draw, *map(list, zip(*(wanted[name] for name in batch))))
            wait(writing)       # a full disk is heard of now, not at the end
            writing = [writers.submit(save_image, output_dir / name, image.numpy())
                       for name, image in zip(batch, images)]
            bar.update(len(batch))
        wait(writing)


def wait(writing: list[Future]) -> None:
    """For all of them; raises what they raised."""
    for future in writing:
        future.result()


def draw_grid(output_dir: Path, names: list[str], users: list[int], image_size: int):
    rows = []
    for user in users:
        own = [name for name in names if name.startswith(f"ID_{user}/")][:GRID_COLUMNS]
        images = [torch.from_numpy(load_image(output_dir / name, image_size).copy()).permute(2, 0, 1) for name in own]
        rows.append((f"user {user}", images))
    return image_grid(rows, [], str(output_dir))


if __name__ == "__main__":
    run(main)
