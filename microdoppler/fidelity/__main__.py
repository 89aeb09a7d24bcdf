"""python -m microdoppler.fidelity: compare synthetic images with real ones."""
from groundwork.command_line import run
from microdoppler.fidelity.measure import main

if __name__ == "__main__":
    run(main, derived={"split": "{latents_cache_folder}/data_split.json", "output": "{results_folder}/fidelity"})
