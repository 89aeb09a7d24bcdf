"""Step 1 of 5 (a script, not a test): the range of the VAE's latents, hence auto_normalize; how well it reconstructs.

Options: the constants of Config in train_latent_cfg.py, and those of check_vae in microdoppler/pipeline/vae_range.py.
"""
import sys

from groundwork.command_line import run
from microdoppler.pipeline.vae_range import check_vae as main
from train_latent_cfg import PRESETS, Config

if __name__ == "__main__":
    if run(main, PRESETS, Config.preset)["verdict"] == "poor":
        sys.exit(1)
    print("next: python train_latent_cfg.py")
