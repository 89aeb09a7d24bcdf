"""Benchmarks: speed compared with the reference library (denoising-diffusion-pytorch) and with the machine's limit."""
