"""Step 1 of 5: check the range of the VAE's latents, which decides auto_normalize, and the VAE's reconstructions.

This is a script, not a test. Options: the constants of Config (train_latent_cfg.py) and the parameters of check_vae
(microdoppler/pipeline/vae_range.py).
"""
import sys

from groundwork.command_line import run
from microdoppler.pipeline.vae_range import check_vae as main
from train_latent_cfg import PRESETS, Config

if __name__ == "__main__":
    if run(main, PRESETS, Config.preset)["verdict"] == "poor":
        sys.exit(1)
