"""Latent diffusion with classifier-free guidance: knows tensors, no radar, no files of the application."""
from denoising_diffusion_pytorch.classifier_free_guidance import GaussianDiffusion, Unet

__all__ = ["GaussianDiffusion", "Unet"]
