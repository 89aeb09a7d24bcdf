"""Radar micro-Doppler spectrograms: data, generation, classifier study. This is the interface for use from Python:

    from microdoppler import ImageGenerator
    generator = ImageGenerator.load("results", device="cuda")
    images = generator.sample(user=3, count=16, seed=0)     # (16, 3, 256, 256) in [0, 1]

A name in API is imported when it is first used. Importing one subpackage therefore does not load the others.
"""
from importlib import import_module
from typing import Any

API = {     # name: the module that defines it
    "Config": "train_latent_cfg",                                   # the constants
    "train": "microdoppler.pipeline.training",                      # step 3: train(Config(…))
    "ImageGenerator": "microdoppler.pipeline.generation",           # from a checkpoint to images as tensors
    "Sampling": "microdoppler.pipeline.generation",                 # replaces sampling constants of the checkpoint
    "generate": "microdoppler.pipeline.synthetic_folder",           # step 4: from a checkpoint to image files
    "classify": "microdoppler.pipeline.classification",             # step 5: do the images help a classifier?
}
__all__ = list(API)


def __getattr__(name: str) -> Any:
    if name not in API:
        raise AttributeError(f"module 'microdoppler' has no attribute '{name}'")
    return getattr(import_module(API[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *API])
