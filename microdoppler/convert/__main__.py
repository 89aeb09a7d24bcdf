"""python -m microdoppler.convert: make a data set of radar recordings."""
from groundwork.command_line import run
from microdoppler.convert.command import main

if __name__ == "__main__":      # Config's constants of these names describe images that exist, and what computes
    run(main, derived={"output_dir": "{data_path}", "image_size": None, "window_seconds": None,
                       "velocity_range_mps": None, "device": None})
