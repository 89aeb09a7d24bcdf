"""The parity fixtures' weights: the same (key, shape) always gives the same tensor.

A fixture is a network with these weights, a fixed input, and the outputs that the first version of this system gives
for it (tests/fixtures/*.npz).  The function below must not change: the stored outputs belong to it.
"""
import json
import zlib
from pathlib import Path

import numpy as np
import torch

FIXTURES = Path(__file__).parent / "fixtures"


def fill(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """One float32 parameter, a function of its state-dict key and shape only."""
    noise = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32)
    if key.endswith(".weight") and len(shape) >= 2:                             # convolution, linear, embedding
        fan_in = int(np.prod(shape[1:]))
        return noise / np.sqrt(fan_in)
    if key.endswith(".g") or (key.endswith("weight") and len(shape) == 1):      # norm gains
        return 1 + 0.1 * noise
    return 0.05 * noise                                                         # biases, null class embedding


def shapes(shapes_file: str) -> dict[str, tuple[int, ...]]:
    """State-dict key -> shape, e.g. shapes("kl_vae.shapes.json")."""
    return {key: tuple(shape) for key, shape in json.loads((FIXTURES / shapes_file).read_text()).items()}


def state_dict(shapes_file: str) -> dict[str, torch.Tensor]:
    """All parameters listed in a shapes file, float32, e.g. state_dict("kl_vae.shapes.json")."""
    return {key: torch.from_numpy(np.asarray(fill(key, shape))).float() for key, shape in shapes(shapes_file).items()}
