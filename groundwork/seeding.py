"""Random numbers that depend on what they are used for, not on the random numbers before them."""
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
