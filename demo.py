"""All steps at small size on simulated data: from radar signals to report.html.

Options: the constants of Config (train_latent_cfg.py) and the parameters of demonstrate
(microdoppler/pipeline/demonstration.py).
"""
from groundwork.command_line import run
from microdoppler.pipeline.demonstration import demonstrate as main
from train_latent_cfg import PRESETS

if __name__ == "__main__":
    run(main, PRESETS, "cpu-minutes")
