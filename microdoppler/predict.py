"""python -m microdoppler.predict: who is on the images of a folder."""
from groundwork.command_line import run
from microdoppler.study.predict_command import main

if __name__ == "__main__":
    run(main)
