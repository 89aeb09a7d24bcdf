"""Radar micro-Doppler spectrograms: data, study, generation. What Python users need, under one roof:

    from microdoppler import ImageGenerator
    generator = ImageGenerator.load("results", device="cuda")
    images = generator.sample(user=3, count=16, seed=0)     # (16, 3, 256, 256) in [0, 1]

The names below are imported when they are first asked for, so that importing one room does not load all others.
"""
from importlib import import_module
from typing import Any

API = {     # name: module
    "Config": "train_latent_cfg",                                   # the constants
    "train": "microdoppler.pipeline.training",                      # step 3: train(Config(…))
    "ImageGenerator": "microdoppler.pipeline.generation",           # from a checkpoint to images, as tensors
    "Sampling": "microdoppler.pipeline.generation",                 # sampling constants other than the checkpoint's
    "generate": "microdoppler.pipeline.synthetic_folder",           # step 4: from a checkpoint to image files
    "classify": "microdoppler.pipeline.classification",             # step 5: whether they help
}
__all__ = list(API)


def __getattr__(name: str) -> Any:
    if name not in API:
        raise AttributeError(f"module 'microdoppler' has no attribute '{name}'")
    return getattr(import_module(API[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *API])
