"""Random numbers that are a function of what they are for, not of what was drawn before."""
import numpy as np
import torch


def derive_seed(*numbers: int) -> int:
    """One seed in [0, 2**63) from non-negative integers; neighbouring ones give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def seeded(*numbers: int) -> torch.Generator:
    """A CPU generator seeded with derive_seed(*numbers)."""
    return torch.Generator().manual_seed(derive_seed(*numbers))
