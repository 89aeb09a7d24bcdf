"""What the card is, which precision was found to work on it, and how fast it computes and copies."""
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.checks.check import Outcome, Setting
from benchmarks.measure import machine, machine_rates, time_once
from groundwork.device import check_kernels, describe_work, half_precision

ROOT = Path(__file__).parents[2]
LEAST_GFLOP, LEAST_GB = 1.0, 1.0        # per second: a device below these does not compute, it hangs


def versions(setting: Setting) -> Outcome:
    """The card, the driver and the software; on CUDA, kernels of this PyTorch must run on it."""
    found: dict[str, Any] = {**machine(setting.device), "cudnn": torch.backends.cudnn.version(),
                             "cuda": torch.version.cuda, "system": platform.platform(), "commit": _commit(),
                             "half": str(half_precision(setting.device))}
    for name in ("torchvision", "triton", "accelerate", "ema_pytorch", "filelock", "pydantic", "tyro"):
        found[name] = _version(name)
    if setting.on_cuda:
        check_kernels(setting.device)
        properties = torch.cuda.get_device_properties(setting.device)
        found |= {"capability": f"{properties.major}.{properties.minor}", "memory_bytes": properties.total_memory,
                  "multiprocessors": properties.multi_processor_count, "driver": _driver(),
                  "free_bytes": torch.cuda.mem_get_info(setting.device)[0], "archs": torch.cuda.get_arch_list()}
    return Outcome(True, f"PyTorch {torch.__version__}, {describe_work(setting.device)}", found)


def rates(setting: Setting) -> Outcome:
    """Matrix products, convolutions, and copies within the device's memory."""
    found = machine_rates(setting.device)
    copied = copy_rate(setting.device)
    line = (f"matrix products {found['matmul'] / 1000:.3g} TFLOP/s, convolutions {found['convolution'] / 1000:.3g} "
            f"TFLOP/s, copies {copied:.3g} GB/s (read and written)")
    passed = min(found.values()) > LEAST_GFLOP and copied > LEAST_GB
    return Outcome(passed, line, {"gflop_per_second": found, "copy_gb_per_second": copied})


def copy_rate(device: torch.device) -> float:
    """10^9 bytes per second of a copy within the device's memory, read and written, the best of several."""
    source = torch.randn(2 ** (28 if device.type == "cuda" else 24), device=device)     # more than fits in a cache
    target = torch.empty_like(source)
    seconds = min(time_once(lambda: target.copy_(source), device) for _ in range(10))
    return 2 * source.nbytes / seconds / 1e9


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    return _output("git", "-C", str(ROOT), "describe", "--always", "--dirty")


def _driver() -> str | None:
    return _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")


def _output(*command: str) -> str | None:
    """What a program prints; None if it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
