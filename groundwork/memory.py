"""Work in parts that fit in memory."""
import gc
from typing import Callable

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

from groundwork.errors import InputError


class Parts:
    """Runs functions on parts of what they are to work on, of `size` items at most; whenever memory runs out, the size
    is halved, for good.

    what: an item's name, for what is said then.
    """

    def __init__(self, size: int, what: str):
        self.size, self.what = size, what

    def map(self, function: Callable[..., Tensor], *items) -> Tensor:
        """torch.cat of function(*parts) over consecutive parts of `items`, sequences or tensors of one length.

        Raises InputError when not even one item fits.
        """
        results, start = [], 0
        while start < len(items[0]):
            part = tuple(item[start:start + self.size] for item in items)
            try:
                results.append(function(*part))
            except RuntimeError as error:
                self.halve(error, len(part[0]))
            else:
                start += self.size
                continue
            free_memory()       # here the exception, and what its traceback held, is gone
        return torch.cat(results)

    def halve(self, error: RuntimeError, tried: int) -> None:
        """After `error` on so many items. Raises it when it is none of memory, and InputError when it was one item."""
        if not should_reduce_batch_size(error):
            raise error
        if tried == 1:
            raise InputError(f"not even one {self.what} at a time fits in memory ({error})") from None
        self.size = -(-tried // 2)
        print(f"out of memory: from here on {self.size} {self.what}s at a time", flush=True)


def free_memory() -> None:
    """What is no longer referred to goes back to the device."""
    gc.collect()
    torch.cuda.empty_cache()
