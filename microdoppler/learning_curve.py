"""python -m microdoppler.learning_curve: what the synthetic images are worth, in real images per user."""
from groundwork.command_line import run
from microdoppler.pipeline.learning_curve import PRESETS, Config, learning_curve

if __name__ == "__main__":
    run(learning_curve, PRESETS, Config.preset, shares_work=True)
