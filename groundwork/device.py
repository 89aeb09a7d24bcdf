"""Which device to compute on, whether PyTorch has kernels for it, in which precision, and one line that says so."""
import os
import re
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch

from groundwork.errors import InputError
from groundwork.memory import keep_freed_memory

Module = TypeVar("Module", bound=torch.nn.Module)
LAST_FOR_PASCAL = "2.7.1", "0.22.1"     # the newest torch and torchvision on PyPI whose builds hold sm_60, and sm_50
GIB = 2 ** 30


def choose_device(name: str) -> torch.device:
    """'auto' (CUDA where there is one, else CPU), 'cpu', 'cuda' or 'cuda:<n>' → torch.device, on which work can begin.

    On a CPU this process keeps freed memory from then on (see keep_freed_memory).
    CUDA without a number is this process's own device where several were launched (LOCAL_RANK), else the first.
    Raises InputError when CUDA is asked for and there is none, when this PyTorch cannot compute on it, or when the
    name is none of these.
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
    if device.type == "cuda":
        check_kernels(device)
    else:
        keep_freed_memory()
    return device


def check_kernels(device: torch.device) -> None:
    """Raises InputError, with what to install or switch, when this PyTorch has no kernels for a CUDA device.

    torch.cuda.is_available() only tells of a card and a driver; without kernels the first operation dies. The list of
    architectures speaks of PyTorch's own kernels; a convolution tries cuDNN's.
    """
    capability, archs = torch.cuda.get_device_capability(device), torch.cuda.get_arch_list()
    card = f"{torch.cuda.get_device_name(device)} (compute capability {capability[0]}.{capability[1]})"
    if not has_kernels(capability, archs):
        raise InputError(f"PyTorch {torch.__version__} has no kernels for the {card}, only for {', '.join(archs)}; "
                         + _what_to_do(capability))
    try:
        convolve_once(device)
    except RuntimeError as error:
        first_line = str(error).partition("\n")[0]
        raise InputError(f"PyTorch {torch.__version__} fails at a first convolution on the {card}: {first_line}; "
                         f"unless another program holds its memory, {_what_to_do(capability)}") from None


def convolve_once(device: torch.device) -> None:
    """A tiny convolution in each precision that is used on the device, waited for; raises what PyTorch raises."""
    for dtype in {torch.float32, half_precision(device) or torch.float32}:
        image, kernel = torch.ones(2, 1, 8, 3, 3, dtype=dtype, device=device)
        torch.nn.functional.conv2d(image, kernel).sum().item()


def has_kernels(capability: tuple[int, int], archs: list[str]) -> bool:
    """Whether kernels built for `archs`, as torch.cuda.get_arch_list() names them, run on a card of this capability.

    NVIDIA's rules (CUDA C++ Programming Guide, "Binary Compatibility", "PTX Compatibility" and "Feature Set Compiler
    Targets"): a binary sm_XY runs on cards X.Y and later ones of the same X; PTX compute_XY is compiled by the driver
    for any card from X.Y on; ending in f, either is for X.Y and later ones of the same X, ending in a, for X.Y alone.
    True where none of the names is of this kind, as in builds for AMD: the list then tells nothing.
    """
    known = [match.groups() for arch in archs if (match := re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", arch))]
    for kind, *numbers, suffix in known:
        major, minor = map(int, numbers)
        if capability == (major, minor) or suffix != "a" and capability > (major, minor) and (
                capability[0] == major or (kind, suffix) == ("compute", "")):
            return True
    return not known


def _what_to_do(capability: tuple[int, int]) -> str:
    if capability < (5, 0):
        return "use another card or --device cpu"
    if capability >= (7, 5):
        return "pip install --upgrade torch torchvision, or use another card or --device cpu"
    torch_version, torchvision_version = LAST_FOR_PASCAL
    return (f'pip install "torch=={torch_version}" "torchvision=={torchvision_version}", which have them, or '
            "switch the accelerator (on Kaggle to T4 x2, where accelerate launch --multi_gpu uses both)")


def describe_work(device: torch.device, *, amp: bool = True, uses_graph: bool = False, at_once: int | None = None,
                  processes: int = 1) -> str:
    """One line on what computes and how: "on Tesla P100-PCIE-16GB (16 GiB): float16, CUDA graph, not compiled, …".

    amp: whether half_precision is used; uses_graph: whether CUDA kernels are launched as one graph; at_once: images
    that go through the network together, as far as memory allows.
    """
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
        card = f"{torch.cuda.get_device_name(device)} ({memory / GIB:.0f} GiB)"
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        card = f"the CPU ({torch.get_num_threads()} threads, {memory / GIB:.0f} GiB)"
    dtype = half_precision(device) if amp else None
    how = [str(dtype or torch.float32).removeprefix("torch.")]
    if uses_graph and device.type == "cuda":
        how.append("CUDA graph")
    how.append("not compiled")      # Triton, which torch.compile needs, has nothing for cards below capability 7.0
    if at_once is not None:
        how.append(f"micro-batch {at_once}")
    return f"on {f'{processes} x ' if processes > 1 else ''}{card}: {', '.join(how)}"


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
