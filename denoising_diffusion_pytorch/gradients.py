"""Gradients of a batch, in micro-batches as large as memory allows, and on CUDA as one launch instead of thousands."""
import sys
from typing import Callable, Sequence

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

from groundwork.memory import AdaptiveBatches

Batch = dict[str, Tensor]


class Gradients:
    """Sets the gradients of `parameters` to those of a batch's mean loss.

    backward(micro_batch, share) must run forward and backward of the micro-batch's mean loss times `share`, adding to
    the gradients, and return that loss. The whole batch is one micro-batch until memory runs out; then they are
    halved, for good. The gradients are the same but for rounding.
    """

    def __init__(self, backward: Callable[[Batch, float], Tensor], parameters: Sequence[Tensor]):
        self.backward = backward
        self.grads = [torch.zeros_like(parameter) for parameter in parameters]
        for parameter, grad in zip(parameters, self.grads):     # for good: graphs write to the addresses captured
            parameter.grad = grad
        self.parts = AdaptiveBatches(sys.maxsize, "image")
        self.use_graphs = parameters[0].is_cuda
        self.graphs: dict[tuple[int, float], Graph] = {}        # by size and share of a micro-batch

    def __call__(self, batch: Batch) -> Tensor:
        """The mean loss of the batch, a scalar on its device."""
        size = len(next(iter(batch.values())))
        return self.parts.until_it_fits(lambda: self._attempt(batch, size), size)

    def _attempt(self, batch: Batch, size: int) -> Tensor:
        torch._foreach_zero_(self.grads)
        try:
            return self._accumulate(batch, size)
        except RuntimeError:
            self.graphs.clear()     # they hold memory, and are of a size that does not fit
            raise

    def _accumulate(self, batch: Batch, size: int) -> Tensor:
        total = torch.zeros(())
        for start in range(0, size, self.parts.size):
            count = min(self.parts.size, size - start)
            micro = {name: value[start:start + count] for name, value in batch.items()}
            total = total + self._graph_or_function(micro, count, count / size)(micro)
        return total

    def _graph_or_function(self, micro: Batch, count: int, share: float) -> Callable[[Batch], Tensor]:
        def function(batch: Batch) -> Tensor:
            return self.backward(batch, share)

        if self.use_graphs and (count, share) not in self.graphs:
            kept = [grad.clone() for grad in self.grads]
            graph = capture(function, micro)
            torch._foreach_copy_(self.grads, kept)    # as before the warm-up
            self.use_graphs = graph is not None
            if graph is not None:
                self.graphs[count, share] = graph
        return self.graphs[count, share] if self.use_graphs else function


class Graph:
    """A function of a batch on CUDA, captured once and replayed on other batches of the same shapes (Gray 2019,
    "Getting Started with CUDA Graphs"): a small network's step is mostly the time that launching its kernels takes."""

    def __init__(self, function: Callable[[Batch], Tensor], batch: Batch):
        self.inputs = {name: value.clone() for name, value in batch.items()}
        warm_up = torch.cuda.Stream()
        warm_up.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warm_up):
            for _ in range(3):      # lets cuDNN choose its algorithms, and autograd make what it keeps
                function(self.inputs)
        torch.cuda.current_stream().wait_stream(warm_up)
        self.graph = torch.cuda.CUDAGraph()
        # "thread_local": what NCCL's watchdog does meanwhile in its own thread is none of the capture's business.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.output = function(self.inputs)

    def __call__(self, batch: Batch) -> Tensor:
        for name, value in batch.items():
            self.inputs[name].copy_(value)
        self.graph.replay()
        return self.output.clone()


def capture(function: Callable[[Batch], Tensor], batch: Batch) -> Graph | None:
    """The graph, or None, with the reason printed, where it cannot be captured; running out of memory is raised."""
    stream = torch.cuda.current_stream()
    try:
        return Graph(function, batch)
    except RuntimeError as error:
        if should_reduce_batch_size(error):
            raise
        print(f"no CUDA graph of a step ({str(error).splitlines()[0]}): its kernels are launched one by one")
    finally:
        torch.cuda.set_stream(stream)       # a capture that fails leaves its own behind
        torch.cuda.synchronize()
    return None
