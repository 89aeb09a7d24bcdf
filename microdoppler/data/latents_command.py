"""Encoded training images for other programs: python -m microdoppler.latents --latents_cache_folder latents_cache"""
from pathlib import Path

import numpy as np
import torch

from groundwork.errors import InputError
from groundwork.files import atomic_path, read_json
from groundwork.limits import checks_arguments
from microdoppler.data.latents import INDEX_FILE, load_cached


@checks_arguments
def main(*, latents_cache_folder: Path = Path("latents_cache"), output: Path | None = None) -> None:
    """Write the encoded training images as .npz, for NumPy, scikit-learn and other programs.

    Arrays: means (n, channels, h, w) float32, the posterior means times scale_factor, as the VAE decodes them; labels
    (n,) int64, the user's place among the users; names (n,), of the images or of windows cut from them; scale_factor.

    Args:
        latents_cache_folder: the folder that training encoded its images to
        output: the file to write; default: latents.npz in that folder
    """
    output = output or latents_cache_folder / "latents.npz"
    if output.suffix != ".npz":
        raise InputError(f"--output {output}; expected a name that ends in .npz")
    cache = load_cached(latents_cache_folder)
    names = read_json(latents_cache_folder / INDEX_FILE).get("images")
    if not isinstance(names, list) or len(names) != len(cache):
        raise InputError(f"{latents_cache_folder / INDEX_FILE} does not name its {len(cache)} images; delete it, and "
                         "training encodes them again")
    means = cache.scaled_means(torch.arange(len(cache))).numpy()
    with atomic_path(output) as temporary:
        np.savez(temporary, means=means, labels=cache.labels.numpy(), names=np.array(names, dtype=str),
                 scale_factor=cache.scale_factor)
    print(f"{output}: means {means.shape}, labels, names, scale_factor")
