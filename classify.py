"""Step 5 of 5: does the synthetic data help? ResNet18 with and without it, compared.

Options: the constants of Config in train_latent_cfg.py, and those of classify in
microdoppler/pipeline/classification.py.
"""
from groundwork.command_line import run
from microdoppler.pipeline.classification import classify as main
from train_latent_cfg import PRESETS, Config

if __name__ == "__main__":
    run(main, PRESETS, Config.preset)
