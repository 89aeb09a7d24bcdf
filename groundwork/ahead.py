"""Work that threads do ahead, while the caller is busy with earlier results."""
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Callable, Iterable, Iterator, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def threads_beside(device: torch.device) -> int:
    """Threads for work on the CPU beside a network that runs on this device: 0 if it needs the CPU itself."""
    return 0 if device.type == "cpu" else max(1, torch.get_num_threads() // 2)


def ahead(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """function(item) of each item, in order. So many threads work on the next items; 0: the caller waits for each.

    An error is raised where its result would have come. If the caller stops early, work that has not begun is dropped.
    """
    if not threads:
        yield from map(function, items)
        return
    begun: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                begun.append(pool.submit(function, item))
                if len(begun) > threads:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
