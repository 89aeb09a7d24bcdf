"""python -m microdoppler.fidelity: compare synthetic images with real ones."""
from groundwork.command_line import run
from microdoppler.fidelity.measure import main

if __name__ == "__main__":
    run(main)
