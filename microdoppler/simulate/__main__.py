"""python -m microdoppler.simulate: write a simulated data set."""
from groundwork.command_line import run
from microdoppler.simulate.dataset import main

if __name__ == "__main__":
    run(main, derived={"output_dir": "{data_path}"})
