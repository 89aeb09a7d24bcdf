"""Step 4: draw new spectrograms of each user from a checkpoint."""
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from assembly import build_diffusion, clipping_is_justified, open_vae, split_settings
from denoising_diffusion_pytorch import GaussianDiffusion
from denoising_diffusion_pytorch.checkpoint import (ema_unet_weights, list_milestones, load_checkpoint,
                                                    load_unet_weights, milestone_path)
from groundwork.command_line import run
from groundwork.device import choose_device
from groundwork.errors import InputError, differences
from groundwork.files import digest_tensors, read_json, write_json
from groundwork.images import load_image, save_image
from groundwork.seeding import derive_seed
from microdoppler.latents import LatentScaling, LatentStatistics
from microdoppler.pictures import image_grid
from microdoppler.report import save_figure
from train_latent_cfg import Config, check_constants, config_of
from vae.kl_vae import KL_VAE

MANIFEST = "manifest.json"
GRID_COLUMNS = 8
SAMPLING = ("sampler", "sampling_timesteps", "ddim_sampling_eta", "cond_scale", "rescaled_phi", "use_cfg_plus_plus",
            "seed")     # the constants that decide what is drawn from given weights


def load_generator(checkpoint_path: Path, device: torch.device, **changes
                   ) -> tuple[GaussianDiffusion, KL_VAE, LatentScaling, Config, dict]:
    """The averaged network of a checkpoint, ready to sample, with its VAE and latent scaling.

    changes: Config constants that replace the checkpoint's, those that are None excepted. Returns also the Config and
    what identifies the model (for the manifest).
    """
    checkpoint = load_checkpoint(checkpoint_path)
    trained = config_of(checkpoint)
    config = replace(trained, **{key: value for key, value in changes.items() if value is not None})
    check_constants(config)
    weights = ema_unet_weights(checkpoint)
    diffusion = build_diffusion(config)
    load_unet_weights(diffusion.model, weights, checkpoint_path)
    vae = open_vae(config, device)
    trained_with = checkpoint.get("vae_fingerprint")
    if trained_with not in (None, vae.fingerprint()):
        raise InputError(f"{checkpoint_path} was trained on the latents of another VAE than {config.vae_path}; "
                         "give the right one with --vae_path")
    if "latent_statistics" in checkpoint:
        statistics = LatentStatistics(**checkpoint["latent_statistics"])
        diffusion.clip_x_start = clipping_is_justified(config, statistics)
        scaling = statistics.scaling(config.standardize_latents)
    else:       # the older format trained raw latents, and always clamped
        diffusion.clip_x_start, scaling = True, LatentScaling.identity(config.latent_channels)
    identity = {"step": checkpoint["step"], "weights": digest_tensors(weights), "vae": vae.fingerprint(),
                "split": split_settings(trained).deciding() if checkpoint.get("config") else {}}
    return diffusion.to(device).eval(), vae, scaling, config, identity


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
        if output_dir.is_dir() and any(output_dir.iterdir()):
            raise InputError(f"{output_dir} is not empty and has no {MANIFEST}; choose another --output_dir")
        return {**settings, "images": {}}
    manifest = read_json(path)
    if not (isinstance(manifest, dict) and isinstance(manifest.get("images"), dict)):
        raise InputError(f"{path} is no manifest of ours; choose another --output_dir")
    changed = differences(manifest, settings)
    if changed:
        raise InputError(f"{output_dir} holds images made with {changed}; choose another --output_dir")
    return manifest


@torch.inference_mode()
def draw_images(diffusion: GaussianDiffusion, vae: KL_VAE, scaling: LatentScaling, users: list[int], seeds: list[int],
                guidance: dict, vae_batch_size: int) -> torch.Tensor:
    """One image per (user, seed): (n, height, width, 3) uint8 on the CPU."""
    classes = torch.tensor(users, device=diffusion.device) - 1
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    latents = diffusion.sample(classes, generators=generators, **guidance)
    images = torch.cat([vae.decode_latents(part) for part in scaling.restore(latents).split(vae_batch_size)])
    return (images * 255).round().byte().permute(0, 2, 3, 1).cpu()


def main(*, checkpoint: Path | None = None, all_users: bool = False, samples_per_user: int = 50,
         user_id: tuple[int, ...] = (), num_samples: int = 16, output_dir: Path = Path("synthetic_data/samples"),
         cond_scale: float | None = None, rescaled_phi: float | None = None, sampler: str | None = None,
         sampling_timesteps: int | None = None, ddim_sampling_eta: float | None = None,
         use_cfg_plus_plus: bool | None = None, batch_size: int = 32, seed: int | None = None, device: str = "auto",
         vae_path: Path | None = None, save_grid: bool = False):
    """Draw spectrograms from a checkpoint, step 4 of 5. Run again, it makes only what is missing.

    Options that default to None keep what the checkpoint was trained with.

    Args:
        checkpoint: model-<m>.pt; default: the newest in the results folder
        all_users: draw samples_per_user images of every user
        samples_per_user: images of each user, with --all_users
        user_id: draw num_samples images of these users, numbered as their folders are (1, 2, …)
        num_samples: images of each user, with --user_id
        output_dir: gets ID_<n>/*.png and manifest.json
        cond_scale: guidance: 1 none, higher = more typical of the user and less diverse
        rescaled_phi: how far guidance's gain in contrast is taken back, 0 … 1
        sampler: dpmpp_2m, ddim or ddpm
        sampling_timesteps: network evaluations per image
        ddim_sampling_eta: ddim: 0 deterministic, 1 as noisy as ddpm
        use_cfg_plus_plus: CFG++ guidance, with cond_scale in (0, 1]
        batch_size: images drawn at once; changes an image by rounding at most
        seed: with user and index it determines an image
        device: auto, cpu, cuda or cuda:<n>
        vae_path: weights of the VAE, where they are not at the checkpoint's vae_path
        save_grid: also write grid.png, a row per user
    """
    torch_device = choose_device(device)
    if checkpoint is None:
        milestones = list_milestones(Config.results_folder)
        if not milestones:
            raise InputError(f"no checkpoint in {Config.results_folder}; train first, or give --checkpoint")
        checkpoint = milestone_path(Config.results_folder, milestones[-1])
    count = samples_per_user if all_users else num_samples
    if count < 1 or batch_size < 1:
        raise InputError(f"{count} images per user, batch_size {batch_size}: expected at least 1 of each")
    diffusion, vae, scaling, config, identity = load_generator(
        checkpoint, torch_device, cond_scale=cond_scale, rescaled_phi=rescaled_phi, sampler=sampler,
        sampling_timesteps=sampling_timesteps, ddim_sampling_eta=ddim_sampling_eta,
        use_cfg_plus_plus=use_cfg_plus_plus, seed=seed, vae_path=vae_path)
    users = choose_users(all_users, user_id, config.num_users)
    sampling = {key: getattr(config, key) for key in SAMPLING}
    manifest = open_manifest(output_dir, {**identity, **sampling}) | {"checkpoint": str(checkpoint)}
    print(f"{checkpoint}, step {identity['step']}: " + ", ".join(f"{key} {value}" for key, value in sampling.items()))

    wanted = {f"ID_{user}/ID{user}_synthetic_Doppler{index}.png": (user, index)
              for user in users for index in range(1, count + 1)}
    manifest["images"] |= {name: {"user": user, "index": index, "seed": derive_seed(config.seed, user, index)}
                           for name, (user, index) in wanted.items()}
    write_json(output_dir / MANIFEST, manifest)
    missing = [name for name in wanted if not (output_dir / name).exists()]
    guidance = {"cond_scale": config.cond_scale, "rescaled_phi": config.rescaled_phi}
    with tqdm(total=len(wanted), initial=len(wanted) - len(missing), desc="drawing", unit="image", disable=None) as bar:
        for start in range(0, len(missing), batch_size):
            names = missing[start:start + batch_size]
            images = draw_images(diffusion, vae, scaling, [wanted[name][0] for name in names],
                                 [manifest["images"][name]["seed"] for name in names], guidance, config.vae_batch_size)
            for name, image in zip(names, images):
                save_image(output_dir / name, image.numpy())
            bar.update(len(names))
    if save_grid:
        save_figure(draw_grid(output_dir, list(wanted), users, config.image_size), output_dir / "grid.png")
    print(f"{len(missing)} images drawn, {len(wanted) - len(missing)} were there already: {output_dir}\n"
          f"next: python classify.py --synthetic {output_dir}")


def draw_grid(output_dir: Path, names: list[str], users: list[int], image_size: int):
    rows = []
    for user in users:
        own = [name for name in names if name.startswith(f"ID_{user}/")][:GRID_COLUMNS]
        images = [torch.from_numpy(load_image(output_dir / name, image_size).copy()).permute(2, 0, 1) for name in own]
        rows.append((f"user {user}", images))
    return image_grid(rows, [], str(output_dir))


if __name__ == "__main__":
    run(main)
