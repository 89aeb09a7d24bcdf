"""Which device to compute on."""
import os

import torch

from groundwork.errors import InputError


def choose_device(name: str) -> torch.device:
    """'auto' (CUDA where there is one, else CPU), 'cpu', 'cuda' or 'cuda:<n>' → torch.device.

    CUDA without a number is this process's own device where several were launched (LOCAL_RANK), else the first.
    Raises InputError when CUDA is asked for and there is none, or when the name is none of these.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device '{name}' is unknown; expected auto, cpu, cuda or cuda:<n>") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device '{name}' is not supported; expected auto, cpu, cuda or cuda:<n>")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if device.type == "cuda" and device.index >= torch.cuda.device_count():
        raise InputError(f"device '{name}' was asked for, but PyTorch {torch.__version__} sees "
                         f"{torch.cuda.device_count()} CUDA devices; use --device cpu, or switch the accelerator on")
    return device
