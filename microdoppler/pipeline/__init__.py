"""What the scripts share: the only room that knows Config, the VAE and the diffusion library."""
