"""Step 4 of 5: generate spectrograms of each user from a checkpoint.

Options: the parameters of generate (microdoppler/pipeline/synthetic_folder.py). All other constants come from the
checkpoint.
"""
from groundwork.command_line import run
from microdoppler.pipeline.synthetic_folder import generate as main

if __name__ == "__main__":
    run(main)
