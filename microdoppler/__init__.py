"""Radar micro-Doppler spectrograms: data, generation, classifier study. This is the interface for use from Python:

    from microdoppler import ImageGenerator
    generator = ImageGenerator.load("results", device="cuda")
    images = generator.sample(user=3, count=16, seed=0)     # (16, 3, 256, 256) in [0, 1]

A name in API is imported when it is first used. Importing one subpackage therefore does not load the others.
"""
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

API = {     # name: the module that defines it
    "Config": "train_latent_cfg",                                   # the constants
    "train": "microdoppler.pipeline.training",                      # step 3: train(Config(…))
    "ImageGenerator": "microdoppler.pipeline.generation",           # from a checkpoint to images as tensors
    "Sampling": "microdoppler.pipeline.generation",                 # replaces sampling constants of the checkpoint
    "generate": "microdoppler.pipeline.synthetic_folder",           # step 4: from a checkpoint to image files
    "classify": "microdoppler.pipeline.classification",             # step 5: do the images help a classifier?
    "TrainedClassifier": "microdoppler.study.trained_classifier",   # what classify(save_models=True) kept
    "InputError": "groundwork.errors",                              # what all of these raise for wrong input
}
__all__ = list(API)


ROOT = Path(__file__).resolve().parents[1]
NEIGHBOURS = ("groundwork", "denoising_diffusion_pytorch", "train_latent_cfg", "vae")       # in ROOT, too

# A notebook names its backend in MPLBACKEND for the programs that it starts, too. In their environment it may not be
# installed, and then matplotlib cannot be imported. All figures here go to files, for which Agg is enough.
_scheme, _, _backend = os.environ.get("MPLBACKEND", "").partition("://")
if _scheme == "module" and find_spec(_backend.partition(".")[0]) is None:
    os.environ["MPLBACKEND"] = "Agg"


def __getattr__(name: str) -> Any:
    if name not in API:
        raise AttributeError(f"module 'microdoppler' has no attribute '{name}'")
    for neighbour in NEIGHBOURS:
        _check_is_ours(neighbour)
    return getattr(import_module(API[name]), name)


def _check_is_ours(name: str) -> None:
    """Raises InputError if Python finds another module under the name of one of ours. It may be a file of the user, as
    vae.py, or lucidrains' package, which is called denoising_diffusion_pytorch as well."""
    module = sys.modules.get(name)
    spec = None if module else find_spec(name)
    found = Path(getattr(module, "__file__", None) or getattr(spec, "origin", None) or name).resolve()
    is_mixed = (found.parent / "denoising_diffusion_pytorch.py").exists()       # his, installed into the folder of ours
    if found in (ROOT / f"{name}.py", ROOT / name / "__init__.py") and not is_mixed:
        return
    if is_mixed or {"site-packages", "dist-packages"} & set(found.parts):
        remedy = f"pip uninstall {name.replace('_', '-')}, or run from {ROOT}"
    else:
        remedy = f"rename it, or run from {ROOT}"
    message = f"{found} is not the {name} of this project, which is in {ROOT}: {remedy}; then restart Python"
    if name == "groundwork":        # so InputError cannot be imported
        raise ImportError(message)
    from groundwork.errors import InputError
    raise InputError(message)


def __dir__() -> list[str]:
    return sorted([*globals(), *API])
