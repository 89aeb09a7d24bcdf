"""python -m microdoppler.unpack: write the images of a Hugging Face data set as files, in a folder for each class."""
from groundwork.command_line import run
from microdoppler.data.unpacking import main

if __name__ == "__main__":
    run(main)
