"""python -m microdoppler.split: split the data set into training and test images, and audit the split."""
from groundwork.command_line import run
from microdoppler.data.split_command import main

if __name__ == "__main__":
    run(main, derived={"output": "{latents_cache_folder}/data_split.json"})
