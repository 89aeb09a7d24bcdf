"""Timing on machines with other load, and the peak arithmetic rates of a machine."""
import platform
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Callable

import torch
from torch import Tensor

from groundwork.device import convolution_format, half_precision
from groundwork.progress import Progress
from train_latent_cfg import Config

# The model of the study of 31 persons. These constants are otherwise as the data and the VAE say.
FULL_SIZE = replace(Config(), num_users=31, image_size=256, latent_size=32, latent_channels=4)


def alternate(*functions: Callable[[], object], repeats: int, device: torch.device, warm_up: int = 1) -> list[float]:
    """The median seconds of a call of each function. They are called in turn, so that all meet the same disturbances.

    repeats: calls of each that count; warm_up: calls of each before these.
    """
    seconds: list[list[float]] = [[] for _ in functions]
    for turn in Progress(range(warm_up + repeats), desc="timing", unit="turn", leave=False):
        for function, counted in zip(functions, seconds):
            elapsed = time_once(function, device)
            if turn >= warm_up:
                counted.append(elapsed)
    return [median(counted) for counted in seconds]


def time_once(function: Callable[[], object], device: torch.device) -> float:
    """The seconds of one call, until the device has finished its work."""
    started = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def rate(function: Callable[[], Tensor], flop: float, device: torch.device, calls: int = 10, repeats: int = 7) -> float:
    """FLOP per second in the best of several repeats, because the limit is the speed without disturbances.

    flop: floating-point operations of one call; calls: calls per repeat.
    """
    def many() -> None:
        for _ in range(calls):
            function()
    many()
    return calls * flop / min(time_once(many, device) for _ in range(repeats))


def machine_rates(device: torch.device) -> dict[str, float]:
    """GFLOP/s of a large matrix product and of a 3x3 convolution like those in the middle of the U-Net, in
    half_precision of the device, else float32."""
    dtype = half_precision(device) or torch.float32
    side = 1024 if device.type == "cpu" else 8192
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    x, weight = (torch.randn(shape, device=device, dtype=dtype).to(memory_format=convolution_format(device))
                 for shape in ((16, 96, 16, 16), (96, 96, 3, 3)))
    with torch.inference_mode():
        return {"matmul": rate(lambda: a @ b, 2 * side ** 3, device) / 1e9,
                "convolution": rate(lambda: torch.nn.functional.conv2d(x, weight, padding=1),
                                    2 * 16 * 16 * 16 * 96 * 96 * 9, device) / 1e9}


def machine(device: torch.device) -> dict[str, str | int]:
    """The machine and software on which results were measured."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    return {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu, "cpu": cpu,
            "threads": torch.get_num_threads(), "precision": str(half_precision(device) or torch.float32),
            "torch": torch.__version__, "python": platform.python_version()}
