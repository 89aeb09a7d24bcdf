"""The whole way, small, on simulated data: from radar to report.html.

Options: the constants of Config in train_latent_cfg.py, and those of demonstrate in
microdoppler/pipeline/demonstration.py.
"""
from groundwork.command_line import run
from microdoppler.pipeline.demonstration import demonstrate as main
from train_latent_cfg import PRESETS

if __name__ == "__main__":
    run(main, PRESETS, "cpu-minutes")
