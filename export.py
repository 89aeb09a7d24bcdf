"""Write a model's averaged weights and its VAE as safetensors, with a model card, to a folder to share.

Options: those of export in microdoppler/pipeline/sharing.py.
"""
from groundwork.command_line import run
from microdoppler.pipeline.sharing import export as main

if __name__ == "__main__":
    run(main)
