"""python -m microdoppler.choose: choose constants of generation and of the study on validation images."""
from groundwork.command_line import run
from microdoppler.pipeline.choice import PRESETS, Config, choose

if __name__ == "__main__":
    run(choose, PRESETS, Config.preset, shares_work=True)
