"""python -m microdoppler.latents: write the encoded training images as one .npz file."""
from groundwork.command_line import run
from microdoppler.data.latents_command import main

if __name__ == "__main__":
    run(main, derived={"output": "{latents_cache_folder}/latents.npz"})
