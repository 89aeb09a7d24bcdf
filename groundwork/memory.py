"""Work in parts that fit in memory, and memory that is kept from one tensor to the next."""
import ctypes
import gc
import sys
from typing import Any, Callable

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor
from tqdm import tqdm

from groundwork.errors import InputError

# Of glibc's malloc.h: parameters of mallopt, and what malloc itself adapts to once a program has freed large blocks.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
ADAPTED = {MMAP_MAX: 65536, MMAP_THRESHOLD: 2 ** 25, TRIM_THRESHOLD: 2 ** 26}
KEEPING = {MMAP_MAX: 0, TRIM_THRESHOLD: 2 ** 31 - 1}


def keep_freed_memory(keep: bool = True) -> None:
    """Let freed tensors on the CPU make room for the next ones, instead of going back to the system, which hands out
    every page anew, filled with zeros: a fifth of the VAE's encoding went into that (2.2 of 10.6 s, on one thread).

    keep=False: as a program finds it. Does nothing where malloc is not glibc's.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter, value in (KEEPING if keep else ADAPTED).items():
            mallopt(parameter, value)


class AdaptiveBatches:
    """Runs functions on parts of what they are to work on, of `size` items at most; whenever memory runs out, the size
    is halved, for good.

    what: an item's name, for what is said then; label names a progress bar, for work that may take seconds.
    """

    def __init__(self, size: int, what: str, label: str | None = None):
        self.size, self.what, self.label = size, what, label

    def map(self, function: Callable[..., Tensor], *items: Any) -> Tensor:
        """torch.cat of function(*parts) over consecutive parts of `items`, sequences or tensors of one length.

        Raises InputError when not even one item fits.
        """
        results, start, count = [], 0, len(items[0])
        with tqdm(total=count, desc=self.label, unit=self.what, delay=1, leave=False,
                  disable=None if self.label else True) as bar:
            while start < count:
                results.append(self.until_it_fits(
                    lambda: function(*(item[start:start + self.size] for item in items)), count - start))
                start += self.size
                bar.update(len(results[-1]))
        return torch.cat(results)

    def until_it_fits(self, attempt: Callable[[], Any], count: int) -> Any:
        """What attempt() returns, which must heed `size` and have no effect where it fails; it has `count` items."""
        while True:
            try:
                return attempt()
            except RuntimeError as error:
                self._halve(error, min(self.size, count))
            gc.collect()        # here the exception, and with it the activations that its traceback held, is gone
            torch.cuda.empty_cache()

    def _halve(self, error: RuntimeError, tried: int) -> None:
        """After `error` on so many items. Raises it when it is none of memory, and InputError when it was one item."""
        if not should_reduce_batch_size(error):
            raise error
        if tried == 1:
            raise InputError(f"not even one {self.what} at a time fits in memory ({error})") from None
        self.size = -(-tried // 2)
        print(f"out of memory: from here on {self.size} {self.what}s at a time", flush=True)
