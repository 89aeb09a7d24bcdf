"""The KL-regularised autoencoder between images and latents."""
from vae.kl_vae import KL_VAE

__all__ = ["KL_VAE"]
