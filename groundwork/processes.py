"""Processes that were launched together, as by `accelerate launch` or `torchrun`: each computes its share on a device
of its own, and the main one (RANK 0) speaks for all of them.
"""
import os
import sys
import time
from datetime import timedelta
from typing import Sequence, TypeVar

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from torch import Tensor

Item = TypeVar("Item")
PROCESS_TIMEOUT = timedelta(hours=12)      # for one process that waits for another
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")     # what a launcher tells each process
SECONDS_UNTIL_ENDED = 10.0      # a launcher looks every 0.1 s whether a process has failed, and then ends the others


def num_launched() -> int:
    """How many processes were launched together; 1 for a program that was started alone."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_main_process() -> bool:
    """Whether this process is the main one of those that were launched together, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def init_distributed(device: torch.device) -> PartialState:
    """Set up the processes that work together. Often there is only this one. All but the main one stop printing.

    accelerate keeps the settings of the first call in a Python process. They are reset here, because a notebook may
    train several times.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        AcceleratorState._reset_state(reset_partial_state=True)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # While the main process encodes images and trains a classifier, the others wait longer than NCCL's ten minutes.
    processes = PartialState(cpu=device.type == "cpu", timeout=PROCESS_TIMEOUT)
    if not processes.is_main_process:
        sys.stdout = open(os.devnull, "w")
    return processes


def work_alone(program: str) -> None:
    """For a program that gains nothing from several processes: the main one goes on as if it had been started alone,
    and the others end."""
    if num_launched() == 1:
        return
    if not is_main_process():
        sys.exit()
    print(f"note: {program} gains nothing from {num_launched()} processes: one does all of the work", flush=True)
    for name in LAUNCHED:
        os.environ.pop(name, None)


def average_over_processes(tensors: Sequence[Tensor]) -> None:
    """Replace tensors, of one dtype and on one device, by their means over the processes that work together: all of
    them in one message. Every process then has the same values, to the bit. A single process keeps its own.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        sums = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(sums)
        means = sums / torch.distributed.get_world_size()
        for tensor, mean in zip(tensors, means.split([tensor.numel() for tensor in tensors])):
            tensor.copy_(mean.view(tensor.shape))


def wait_to_be_ended() -> None:
    """Wait until the launcher ends this process, because another one has failed before it; return if none has.

    When a process fails, the others meet the same error, or miss the failed one. So one message is enough. Does nothing
    in a program that was started alone.
    """
    if num_launched() > 1:
        time.sleep(SECONDS_UNTIL_ENDED)


def shares(items: Sequence[Item], weights: Sequence[int], count: int) -> list[list[Item]]:
    """Deal items out to `count` processes so that their sums of weights differ little.

    The heaviest items come first, and each goes to whoever has least (the longest processing time rule, Graham 1969,
    "Bounds on multiprocessing timing anomalies"). A share has its items in the order given.
    """
    sums = [0] * count
    dealt: list[list[int]] = [[] for _ in range(count)]     # places in `items`
    for place in sorted(range(len(items)), key=lambda place: -weights[place]):
        least = sums.index(min(sums))
        sums[least] += weights[place]
        dealt[least].append(place)
    return [[items[place] for place in sorted(own)] for own in dealt]
