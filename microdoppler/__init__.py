"""What is particular to radar spectrograms of persons; and, under one roof, what the scripts are used for from Python:

    from microdoppler import ImageGenerator
    generator = ImageGenerator.load("results", device="cuda")
    images = generator.sample(user=3, count=16, seed=0)     # (16, 3, 256, 256) in [0, 1]

These names live with the scripts, above the packages, and are looked up there when they are first asked for: importing
a module of this package loads none of them.
"""
from importlib import import_module
from typing import Any

API = {     # name: (module, its name there)
    "Config": ("train_latent_cfg", "Config"),           # the constants
    "train": ("train_latent_cfg", "main"),              # step 3: train(Config(…))
    "ImageGenerator": ("generation", "ImageGenerator"),     # from a checkpoint to images, as tensors
    "Sampling": ("generation", "Sampling"),             # how it draws them, where that differs from the checkpoint's
    "generate": ("generate", "main"),                   # step 4: the same as files
    "classify": ("classify", "main"),                   # step 5: whether they help
}
__all__ = list(API)


def __getattr__(name: str) -> Any:
    if name not in API:
        raise AttributeError(f"module 'microdoppler' has no attribute '{name}'")
    module, name_there = API[name]
    return getattr(import_module(module), name_there)


def __dir__() -> list[str]:
    return sorted([*globals(), *API])
