"""Step 4 of 5: generate spectrograms of each user from a checkpoint.

Options: the parameters of generate (microdoppler/pipeline/synthetic_folder.py). All other constants come from the
checkpoint.
"""
from groundwork.command_line import run
from microdoppler.pipeline.synthetic_folder import generate as main

if __name__ == "__main__":
    # num_samples of a Config is the number of images in a sample picture.
    run(main, derived={"checkpoint": "{results_folder}", "num_samples": None}, shares_work=True)
