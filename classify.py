"""Step 5 of 5: compare classifiers that were trained with and without synthetic images.

Options: the constants of Config (train_latent_cfg.py) and the parameters of classify
(microdoppler/pipeline/classification.py).
"""
from groundwork.command_line import run
from microdoppler.pipeline.classification import classify as main
from train_latent_cfg import PRESETS, Config

if __name__ == "__main__":
    run(main, PRESETS, Config.preset, shares_work=True)
