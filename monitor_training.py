"""Report on step 3 while it runs or afterwards: progress of the training, problems, and what to do about them.

Options: results_folder of Config (train_latent_cfg.py) and the parameters of monitor
(microdoppler/pipeline/monitoring.py).
"""
from groundwork.command_line import run
from microdoppler.pipeline.monitoring import monitor as main
from train_latent_cfg import PRESETS, Config

if __name__ == "__main__":
    run(main, PRESETS, Config.preset)
