"""Start a training from the weights of another one, possibly of other users: train_latent_cfg.py --start_from."""
from pathlib import Path

from denoising_diffusion_pytorch import GaussianDiffusion
from denoising_diffusion_pytorch.checkpoint import ema_unet_weights, load_checkpoint, load_starting_weights
from groundwork.errors import InputError, differences
from groundwork.files import digest_tensors
from groundwork.limits import to_plain
from microdoppler.pipeline.constants import config_of
from microdoppler.pipeline.generation import find_checkpoint
from train_latent_cfg import Config

# The weights mean something only with the same values of these constants.
FIXED_BY_START = ("latent_size", "latent_channels", "standardize_latents", "auto_normalize", "dim", "dim_mults",
                  "attn_dim_head", "attn_heads", "timesteps", "objective", "beta_schedule")


def take_weights(path: str | Path, config: Config, diffusion: GaussianDiffusion, vae_fingerprint: str) -> dict:
    """Give an untrained diffusion model the averaged (EMA) weights of another training.

    path: model-<m>.pt, model.safetensors or a results folder. vae_fingerprint: of this training's VAE.

    The latents are standardised with this training's own statistics: the network then gets mean 0 and std 1, as before.
    Prints what was taken, and a warning if the latents were those of another VAE. Returns what checkpoints say about
    the start: path, step, and the weights' SHA-256. Raises InputError when the network or the diffusion is another one.
    """
    path = find_checkpoint(path)
    checkpoint = load_checkpoint(path)
    was, now = config_of(checkpoint), to_plain(config)
    changed = differences(to_plain(was), {name: now[name] for name in FIXED_BY_START})
    if changed:
        raise InputError(f"--start_from {path} was trained with {changed}; give the same constants to start from it")
    weights = ema_unet_weights(checkpoint)
    load_starting_weights(diffusion.model, weights, path)
    started_from = {"path": str(path), "step": checkpoint["step"], "weights": digest_tensors(weights)}
    print(f"started from {path}: step {checkpoint['step']}, weights {started_from['weights'][:12]}, " + (
        f"its {was.num_users} class embeddings too" if was.num_users == config.num_users else
        f"with new embeddings for {config.num_users} classes (it had {was.num_users})"))
    if checkpoint.get("vae_fingerprint") != vae_fingerprint:
        print(f"warning: {path} was trained on the latents of another VAE than {config.vae_path}, whose channels mean "
              "something else; its weights help less")
    return started_from
