"""How well a VAE reconstructs images, and the range of its latents."""
import math

import torch
from torch import Tensor

from groundwork.progress import Progress
from vae.kl_vae import KL_VAE


@torch.inference_mode()
def measure_quality(vae: KL_VAE, images: Tensor, *, batch_size: int, seed: int) -> tuple[dict, Tensor]:
    """Measure a VAE on images, (n, c, s, s) uint8 with the VAE's channels. Returns (metrics, reconstructions).

    metrics: shape, min, max, mean and std of the scaled latents; channel_min, channel_max, channel_mean and
        channel_std; mse of pixels in [0, 1], and psnr_db. The latents are samples of the posterior, as in training. mse
        and psnr_db are of the reconstructions from the posterior's mean.
    reconstructions: (n, c, s, s) uint8 on the CPU.
    batch_size: images that go through the network together.
    seed: random seed of the posterior samples.
    """
    device = next(vae.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    latent_batches, reconstructions, square_error = [], [], 0.0
    for start in Progress(range(0, len(images), batch_size), desc="reconstructing", unit="part", delay=1, leave=False):
        batch = images[start:start + batch_size].to(device).float() / 255
        posterior = vae.encode(batch)
        latent_batches.append((vae.scale_factor * posterior.sample(generator)).cpu())
        decoded = vae.decode_latents(vae.scale_factor * posterior.mean, range(start, start + len(batch)))
        square_error += (decoded - batch).square().sum().item()
        reconstructions.append((decoded * 255).round().byte().cpu())
    latents, mse = torch.cat(latent_batches), square_error / images.numel()
    metrics = {"shape": list(latents.shape), "min": latents.min().item(), "max": latents.max().item(),
               "mean": latents.mean().item(), "std": latents.std().item(),
               "channel_min": latents.amin(dim=(0, 2, 3)).tolist(), "channel_max": latents.amax(dim=(0, 2, 3)).tolist(),
               "channel_mean": latents.mean(dim=(0, 2, 3)).tolist(), "channel_std": latents.std(dim=(0, 2, 3)).tolist(),
               "mse": mse, "psnr_db": -10 * math.log10(max(mse, 1e-12))}
    return metrics, torch.cat(reconstructions)
