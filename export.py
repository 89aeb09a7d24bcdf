"""Write a model to a folder that can be shared: averaged weights and VAE as safetensors, and a model card.

Options: the parameters of export (microdoppler/pipeline/sharing.py).
"""
from groundwork.command_line import run
from microdoppler.pipeline.sharing import export as main

if __name__ == "__main__":
    run(main, derived={"checkpoint": "{results_folder}", "output_dir": "{results_folder}/export"})
