"""Random numbers that are a function of what they are for, not of what was drawn before."""
import numpy as np
import torch


def derive_seed(*numbers: int) -> int:
    """One seed in [0, 2**63) from non-negative integers; neighbouring ones give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def seeded(*numbers: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device`, seeded with derive_seed(*numbers); what it draws differs between kinds of device."""
    return torch.Generator(device).manual_seed(derive_seed(*numbers))
