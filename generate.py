"""Step 4 of 5: generate spectrograms of each user from a checkpoint.

Options: those of generate in microdoppler/pipeline/synthetic_folder.py; the rest is as the checkpoint was trained.
"""
from groundwork.command_line import run
from microdoppler.pipeline.synthetic_folder import generate as main

if __name__ == "__main__":
    run(main)
