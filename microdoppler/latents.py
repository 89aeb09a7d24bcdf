"""python -m microdoppler.latents: the encoded training images as .npz."""
from groundwork.command_line import run
from microdoppler.data.latents import main

if __name__ == "__main__":
    run(main)
