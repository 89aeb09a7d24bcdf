"""Random numbers that depend on what they are used for, not on the random numbers before them."""
from contextlib import contextmanager
from typing import Iterator

import numpy as np
import torch


def derive_seed(*numbers: int) -> int:
    """One seed in [0, 2**63) from non-negative integers. Neighbouring integers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def seeded(*numbers: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device`, seeded with derive_seed(*numbers). CPU and CUDA generators give different random
    numbers.
    """
    return torch.Generator(device).manual_seed(derive_seed(*numbers))


def default_generator(device: torch.device) -> torch.Generator:
    """PyTorch's global generator on a device, from which dropout draws."""
    if device.type != "cuda":
        return torch.default_generator
    return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]


@contextmanager
def global_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Within the block, PyTorch's global random numbers on the CPU and on `device`, which initial weights and dropout
    take, follow from the seed. After it they go on as if nothing had been drawn.
    """
    is_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if is_cuda else []):
        torch.default_generator.manual_seed(seed)
        if is_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
