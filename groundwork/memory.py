"""Work in batches that fit in memory, large arrays outside it, and memory on the CPU that is reused."""
import ctypes
import gc
import math
import os
import shutil
import sys
import tempfile
from typing import Any, Callable

import numpy as np
import psutil
import torch
from torch import Tensor

from groundwork.errors import InputError
from groundwork.progress import Progress

# Parameters of mallopt, from glibc's malloc.h. USUAL: what malloc sets by itself, once large blocks were freed.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
USUAL = {MMAP_MAX: 65536, MMAP_THRESHOLD: 2 ** 25, TRIM_THRESHOLD: 2 ** 26}
LARGE = 2 ** 27         # bytes of an array that lies in a file instead of in memory
KEEP_FREED = {MMAP_MAX: 0, TRIM_THRESHOLD: 2 ** 31 - 1}
# Words of PyTorch's errors, in lower case, that mean a lack of memory.
SIGNS_OF_NO_MEMORY = (
    "out of memory",                            # the caching allocator, the CUDA runtime and driver, Triton
    "alloc_failed", "allocation_failed",        # cuBLAS, cuFFT, cuDNN
    "can't allocate memory", "not enough memory: you tried to allocate", "cannot allocate memory", "bad_alloc")   # CPU
# cuBLAS and cuDNN hide it: the handle needs memory, and so does each algorithm that is tried. choose_device has seen
# both work with small tensors before.
HIDDEN_SIGNS = (
    "when calling `cublascreate", "find a valid cudnn algorithm", "unable to find an engine to execute")


def keep_freed_memory(keep: bool = True) -> None:
    """Reuse the memory of freed CPU tensors for the next ones, instead of returning it to the operating system.

    The system fills every page with zeros before it hands it out again. This took a fifth of the VAE's encoding (2.2 of
    10.6 s, on one thread). keep=False: glibc's usual behaviour. Does nothing if malloc is not glibc's.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter, value in (KEEP_FREED if keep else USUAL).items():
            mallopt(parameter, value)


def peak_memory() -> int:
    """The largest memory that this process has taken so far, in bytes."""
    try:
        import resource
    except ImportError:     # Windows
        return psutil.Process().memory_info().peak_wset
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def large_array(shape: tuple[int, ...]) -> np.ndarray:
    """An array of this shape, uint8, with any content. From LARGE bytes on it lies in a temporary file without a name.

    The system keeps as much of the file in memory as there is room, and takes it back when a program needs the room.
    Where the folder of temporary files lacks space, the array lies in memory.
    """
    size = math.prod(shape)
    if size < LARGE or size > shutil.disk_usage(tempfile.gettempdir()).free:
        return np.empty(shape, dtype=np.uint8)
    with tempfile.TemporaryFile() as file:      # the map keeps it open
        if hasattr(os, "posix_fallocate"):      # otherwise a disk that becomes full would end the process
            os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, np.uint8, "w+", shape=shape)


def is_out_of_memory(error: BaseException, *, hidden: bool = True) -> bool:
    """Whether an error of PyTorch, or of Python itself, says that memory ran out, on a device or on the CPU.

    A device's kernel that does not exist (CUDNN_STATUS_NOT_SUPPORTED) or that takes too many of its own resources
    (Triton's "out of resource") is no such error: it would fail with fewer items, too.

    hidden: also count HIDDEN_SIGNS, which mean that there is no such kernel if nothing has worked yet.
    """
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        sign in str(error).lower() for sign in SIGNS_OF_NO_MEMORY + (HIDDEN_SIGNS if hidden else ()))


def free_memory(device: torch.device) -> int:
    """The bytes that tensors can take on a CUDA device: what is free, and what PyTorch keeps for the next ones."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


class AdaptiveBatches:
    """Calls functions on batches of at most `size` items. When memory runs out, the size is halved and stays so.

    what: the name of an item, such as "image", for messages and progress bars.
    label: text of a progress bar, for work that may take seconds; None: no bar.
    """

    def __init__(self, size: int, what: str, label: str | None = None):
        self.size, self.what, self.label = size, what, label

    def map(self, function: Callable[..., Tensor], *items: Any) -> Tensor:
        """torch.cat of the results of `function` on consecutive batches of `items`.

        function: takes one batch of each of `items`, and returns a tensor with one row per item.
        items: sequences or tensors of the same length.

        Raises InputError if not even one item fits in memory.
        """
        results, start, count = [], 0, len(items[0])
        with Progress(total=count, desc=self.label, unit=self.what, delay=1, leave=False,
                      hidden=not self.label) as bar:
            while start < count:
                results.append(self.retry_until_it_fits(
                    lambda: function(*(item[start:start + self.size] for item in items)), count - start))
                start += self.size
                bar.update(len(results[-1]))
        return torch.cat(results)

    def retry_until_it_fits(self, attempt: Callable[[], Any], count: int) -> Any:
        """Call attempt() until it does not run out of memory, halving `size` after each failure. Returns its result.

        attempt: must read `size` in each call, and must have no effect if it fails.
        count: number of items that it works on.

        Raises InputError if not even one item fits in memory.
        """
        while True:
            try:
                return attempt()
            except (RuntimeError, MemoryError) as error:
                self._halve(error, min(self.size, count))
            gc.collect()        # here, the exception is gone, and with it the activations that its traceback kept
            torch.cuda.empty_cache()

    def _halve(self, error: RuntimeError | MemoryError, tried: int) -> None:
        """Halve the size after `error`, which occurred with `tried` items in a batch.

        Raises the error itself if it is not about memory, and InputError if the batch had one item only.
        """
        if not is_out_of_memory(error):
            raise error
        if tried == 1:
            raise InputError(f"not even one {self.what} at a time fits in memory ({error})") from None
        self.size = -(-tried // 2)
        print(f"out of memory: from here on {self.size} {self.what}s at a time", flush=True)
