"""The functions behind the scripts. In microdoppler, only this room uses Config, the VAE and the diffusion library."""
