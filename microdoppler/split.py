"""python -m microdoppler.split: make a split and audit it."""
from groundwork.command_line import run
from microdoppler.data.split_command import main

if __name__ == "__main__":
    run(main)
