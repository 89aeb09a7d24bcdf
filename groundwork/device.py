"""Chooses the device and the precision to compute in, and checks that this PyTorch has kernels for the device."""
import math
import os
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from groundwork.errors import InputError
from groundwork.memory import is_out_of_memory, keep_freed_memory
from groundwork.seeding import seeded

Module = TypeVar("Module", bound=torch.nn.Module)
LAST_FOR_PASCAL = "2.7.1", "0.22.1"     # the newest torch and torchvision on PyPI with kernels for sm_60 and sm_50
GIB = 2 ** 30
MAX_ERROR = 0.05        # of a trial convolution, as a share; rounding to bfloat16 makes 0.003 of it


def choose_device(name: str) -> torch.device:
    """The device of this name, as a torch.device, after a check that this PyTorch can compute on it.

    name: 'auto' (CUDA if there is any, else the CPU), 'cpu', 'cuda' or 'cuda:<n>'. If several processes were launched,
        'auto' and 'cuda' give each process its own CUDA device (number LOCAL_RANK). A single process gets the first
        one.

    If the device is the CPU, this process keeps freed memory from then on (see keep_freed_memory). On CUDA it takes
    TensorFloat-32 for float32 matrix products.

    Raises InputError if the name is none of these, if there is no such CUDA device, if this PyTorch cannot compute on
    it, or if 'cuda:<n>' is given to several processes.
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
    if device.type == "cpu":
        keep_freed_memory()
        return device
    check_kernels(device)
    # From compute capability 8.0 on, float32 products are then computed in TensorFloat-32: the operands are rounded to
    # 10 bits of mantissa, as in float16, and the sums are float32. PyTorch does so for convolutions by default
    # (cudnn.allow_tf32). With --no_amp, results of such cards thus differ from a CPU's by about 1e-3 of their size.
    torch.set_float32_matmul_precision("high")
    # cudnn.benchmark stays off. It takes what was fastest in a trial, so that two runs would differ by rounding.
    return device


def check_kernels(device: torch.device) -> None:
    """Raises InputError if this PyTorch has no kernels for a CUDA device. The message says what to install or to
    switch.

    torch.cuda.is_available() only says that there are a card and a driver. Without kernels, the first operation fails.
    The list of architectures is that of PyTorch's own kernels, so small convolutions test those of cuDNN. They also
    show what the device computes in (see find_precision).
    """
    capability, archs = torch.cuda.get_device_capability(device), torch.cuda.get_arch_list()
    card = f"{torch.cuda.get_device_name(device)} (compute capability {capability[0]}.{capability[1]})"
    if not has_kernels(capability, archs):
        raise InputError(f"PyTorch {torch.__version__} has no kernels for the {card}, only for {', '.join(archs)}; "
                         + _what_to_do(capability))
    try:
        convolve_once(device)
        find_precision(device)
    except RuntimeError as error:
        first_line = str(error).partition("\n")[0]
        raise InputError(f"PyTorch {torch.__version__} fails at a first convolution on the {card}: {first_line}; "
                         f"unless another program holds its memory, {_what_to_do(capability)}") from None


def convolve_once(device: torch.device, dtype: torch.dtype = torch.float32,
                  memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    """Small convolutions of all kinds that are used, one after the other, and their gradients, for fixed numbers.

    Computed in dtype and memory_format on the device. Returns all results in one vector, float32 on the CPU; raises
    what PyTorch raises.
    """
    generator = seeded(0)
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        image, wide, usual, strided, transposed, narrow = inputs = [
            (torch.randn(shape, generator=generator) / math.prod(shape[1:]) ** 0.5).to(
                device, dtype, memory_format=memory_format).requires_grad_()
            for shape in ((2, 3, 8, 8), (16, 3, 7, 7), (16, 16, 3, 3), (16, 16, 4, 4), (16, 16, 4, 4), (8, 16, 1, 1))]
        x = F.conv2d(F.conv2d(image, wide, padding=3), usual, padding=1)
        x = F.conv_transpose2d(F.conv2d(x, strided, stride=2, padding=1), transposed, stride=2, padding=1)
        output = F.conv2d(x, narrow)
        gradients = torch.autograd.grad(output.square().sum(), inputs)
        return torch.cat([result.detach().float().cpu().flatten() for result in (output, *gradients)])


def can_convolve(device: torch.device, dtype: torch.dtype, memory_format: torch.memory_format) -> bool:
    """Whether convolve_once runs on the device with these, and gives what the CPU gives in float32.

    It may run and yet be wrong: the GeForce GTX 16 gave NaN in float16.
    """
    try:
        found = convolve_once(device, dtype, memory_format)
    except RuntimeError as error:
        if is_out_of_memory(error, hidden=False):       # that says nothing of the kernels
            raise
        return False
    expected = convolve_once(torch.device("cpu"))
    return bool((found - expected).norm() < MAX_ERROR * expected.norm())


def has_kernels(capability: tuple[int, int], archs: list[str]) -> bool:
    """Whether kernels built for `archs` run on a card of this compute capability, given as (X, Y).

    archs: names as torch.cuda.get_arch_list() returns them. NVIDIA's rules (CUDA C++ Programming Guide, "Binary
    Compatibility", "PTX Compatibility" and "Feature Set Compiler Targets") are:

    - A binary sm_XY runs on cards of capability X.Y, and on later ones with the same X.
    - PTX compute_XY is compiled by the driver for any card of capability X.Y or later.
    - With the suffix f, either runs on X.Y and on later cards with the same X. With the suffix a, it runs on X.Y only.

    Returns True if no name has one of these forms, as in builds for AMD: then the list says nothing.
    """
    parsed = [match.groups() for arch in archs if (match := re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", arch))]
    for kind, *numbers, suffix in parsed:
        major, minor = map(int, numbers)
        if capability == (major, minor) or suffix != "a" and capability > (major, minor) and (
                capability[0] == major or (kind, suffix) == ("compute", "")):
            return True
    return not parsed


def _what_to_do(capability: tuple[int, int]) -> str:
    """What to install or to switch, for a card of this compute capability."""
    if capability < (5, 0):
        return "use another card or --device cpu"
    if capability >= (7, 5):
        return "pip install --upgrade torch torchvision, or use another card or --device cpu"
    torch_version, torchvision_version = LAST_FOR_PASCAL
    return (f'pip install "torch=={torch_version}" "torchvision=={torchvision_version}", which have them, or '
            "switch the accelerator (on Kaggle to T4 x2, where accelerate launch --multi_gpu uses both)")


def describe_work(device: torch.device, *, amp: bool = True, micro_batch: int | None = None,
                  processes: int = 1) -> str:
    """One line on what computes and how: "on Tesla P100-PCIE-16GB (16 GiB): float16, channels first, micro-batch 16".

    amp: whether mixed precision is used, if the device has it (see half_precision).
    micro_batch: number of images that go through the network together, if memory allows.
    processes: number of processes, each with a device of this kind.
    """
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
        card = f"{torch.cuda.get_device_name(device)} ({memory / GIB:.0f} GiB)"
    else:
        memory = psutil.virtual_memory().total
        card = f"the CPU ({torch.get_num_threads()} threads, {memory / GIB:.0f} GiB)"
    words = [str(amp and half_precision(device) or torch.float32).removeprefix("torch.")]
    if device.type == "cuda":
        if amp and half_precision(device) is None:
            words.append(f"as convolutions in {str(_fastest_half(device)).removeprefix('torch.')} fail")
        words.append("channels last" if convolution_format(device) == torch.channels_last else "channels first")
    if micro_batch is not None:
        words.append(f"micro-batch {micro_batch}")
    return f"on {f'{processes} x ' if processes > 1 else ''}{card}: {', '.join(words)}"


@dataclass(frozen=True)
class Precision:
    """What a device computes in. half: the 16-bit type of mixed precision, or None; memory_format: of convolutions."""
    half: torch.dtype | None
    memory_format: torch.memory_format


@lru_cache
def find_precision(device: torch.device) -> Precision:
    """The precision of a CUDA device: the fastest one that works, as a trial shows. It is remembered.

    channels_last is fast only with tensor cores, which cards below compute capability 7.0 lack. There it took 10 to 20
    times as long in float16 (https://github.com/LeelaChessZero/lc0/pull/849), or did not run at all.
    """
    half, has_tensor_cores = _fastest_half(device), torch.cuda.get_device_capability(device) >= (7, 0)
    for memory_format in (torch.channels_last, torch.contiguous_format)[0 if has_tensor_cores else 1:]:
        if all(can_convolve(device, dtype, memory_format) for dtype in (half, torch.float32)):
            return Precision(half, memory_format)
    return Precision(None, torch.contiguous_format)


def _fastest_half(device: torch.device) -> torch.dtype:
    """The 16-bit type that a CUDA device has in hardware. torch.cuda.is_bf16_supported() does not help here: it is also
    True if bfloat16 is emulated."""
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def half_precision(device: torch.device) -> torch.dtype | None:
    """The 16-bit type for mixed precision on a device, or None.

    bfloat16 if the hardware has it (CUDA devices of compute capability 8.0 or more, CPUs with AVX512-BF16 or AMX),
    float16 on older CUDA devices, None on other CPUs and where convolutions in that type do not work.
    """
    if device.type == "cuda":
        return find_precision(device).half
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()      # not in older PyTorch
    return torch.bfloat16 if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else None


def convolution_format(device: torch.device) -> torch.memory_format:
    """The memory format in which convolutions are fastest on a device, among those that work."""
    return find_precision(device).memory_format if device.type == "cuda" else torch.channels_last


def autocast(device: torch.device, enabled: bool = True) -> AbstractContextManager:
    """A context of mixed precision in half_precision(device). Does nothing if that is None or `enabled` is False."""
    dtype = half_precision(device) if enabled else None
    return torch.autocast(device.type, dtype) if dtype else nullcontext()


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`. The CPU does not wait for a copy to a CUDA device, which goes through pinned memory."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.contiguous().pin_memory()
    return tensor.to(device, non_blocking=True)


def in_memory_format(module: Module, memory_format: torch.memory_format) -> Module:
    """The module itself, after its weights were converted to `memory_format`, such as torch.channels_last."""
    return module.to(memory_format=memory_format)  # type: ignore[call-overload]  # missing in PyTorch 2.7's stubs


def memory_format_of(weight: torch.Tensor) -> torch.memory_format:
    """The memory format of a convolution's weights, (out, in, h, w) with several channels and pixels."""
    return (torch.channels_last if weight.is_contiguous(memory_format=torch.channels_last)
            else torch.contiguous_format)


def grad_scaler(device: torch.device) -> torch.amp.GradScaler:
    """A scaler of the loss, against underflow of float16 gradients. Does nothing in the other precisions."""
    return torch.amp.GradScaler(enabled=half_precision(device) == torch.float16)
