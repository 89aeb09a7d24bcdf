"""Which device to compute on, and in which precision."""
import os
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch

from groundwork.errors import InputError

Module = TypeVar("Module", bound=torch.nn.Module)


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
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if device.type == "cuda" and device.index is not None and processes > 1:
        raise InputError(f"device '{name}' was asked for by {processes} processes, of which each takes its own; "
                         "use --device cuda")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if device.type == "cuda" and device.index >= torch.cuda.device_count():
        raise InputError(f"device '{name}' was asked for, but PyTorch {torch.__version__} sees "
                         f"{torch.cuda.device_count()} CUDA devices for {processes} processes; use --device cpu, "
                         "switch the accelerator on, or launch fewer processes")
    return device


def half_precision(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the hardware has it (CUDA of compute capability 8.0, CPUs with AVX512-BF16 or AMX), float16 on
    older CUDA, None on other CPUs.

    torch.cuda.is_bf16_supported() is no guide: it counts emulation.
    """
    if device.type != "cuda":
        found: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()      # older PyTorch cannot tell
        return torch.bfloat16 if found.get("avx512_bf16") or found.get("amx_bf16") else None
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def autocast(device: torch.device, enabled: bool = True) -> AbstractContextManager:
    """Mixed precision in half_precision(device); does nothing where there is none, or when not `enabled`."""
    dtype = half_precision(device) if enabled else None
    return torch.autocast(device.type, dtype) if dtype else nullcontext()


def in_memory_format(module: Module, memory_format: torch.memory_format) -> Module:
    """The module, with its weights laid out so."""
    return module.to(memory_format=memory_format)  # type: ignore[call-overload]  # PyTorch 2.7's stubs do not know it


def grad_scaler(device: torch.device) -> torch.amp.GradScaler:
    """Scales the loss against float16's underflow; does nothing in the other precisions."""
    return torch.amp.GradScaler(enabled=half_precision(device) == torch.float16)
