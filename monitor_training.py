"""While step 3 runs, or after: where training stands, what is wrong, and what to do.

Options: results_folder of Config, and those of monitor in microdoppler/pipeline/monitoring.py.
"""
from groundwork.command_line import run
from microdoppler.pipeline.monitoring import monitor as main
from train_latent_cfg import PRESETS, Config

if __name__ == "__main__":
    run(main, PRESETS, Config.preset)
