"""Latent diffusion with classifier-free guidance. Works on tensors: knows no radar and no files of the application."""
from denoising_diffusion_pytorch.classifier_free_guidance import GaussianDiffusion, Unet

__all__ = ["GaussianDiffusion", "Unet"]
