"""python -m microdoppler.app: a page in the browser to try a checkpoint with."""
from groundwork.command_line import run
from microdoppler.pipeline.playground_page import main

if __name__ == "__main__":
    run(main, derived={"checkpoint": "{results_folder}"})
