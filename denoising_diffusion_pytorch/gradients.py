"""Gradients of a batch, computed in micro-batches as large as memory allows. On CUDA, all kernels of a micro-batch are
launched as one CUDA graph.
"""
import sys
from typing import Callable, Sequence

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

from groundwork.memory import AdaptiveBatches

Batch = dict[str, Tensor]


class Gradients:
    """Sets the gradients of `parameters` to those of a batch's mean loss.

    backward: called as backward(micro_batch, fraction). It must run the forward and the backward pass of the
        micro-batch's mean loss times `fraction`, add to the gradients, and return that product.

    A micro-batch is the whole batch until memory runs out. Then micro-batches are halved and stay so. This changes the
    gradients by rounding only.
    """

    def __init__(self, backward: Callable[[Batch, float], Tensor], parameters: Sequence[Tensor]):
        self.backward = backward
        self.grads = [torch.zeros_like(parameter) for parameter in parameters]
        for parameter, grad in zip(parameters, self.grads):     # never replaced: CUDA graphs write to these addresses
            parameter.grad = grad
        self.parts = AdaptiveBatches(sys.maxsize, "image")
        self.use_graphs = parameters[0].is_cuda
        self.graphs: dict[tuple[int, float], Graph] = {}        # key: (size, fraction) of a micro-batch

    def __call__(self, batch: Batch) -> Tensor:
        """Set the gradients for `batch`, and return its mean loss, a scalar on its device."""
        size = len(next(iter(batch.values())))
        return self.parts.retry_until_it_fits(lambda: self._attempt(batch, size), size)

    def _attempt(self, batch: Batch, size: int) -> Tensor:
        torch._foreach_zero_(self.grads)
        try:
            return self._accumulate(batch, size)
        except RuntimeError:
            self.graphs.clear()     # they hold memory, and their size does not fit
            raise

    def _accumulate(self, batch: Batch, size: int) -> Tensor:
        """Add the gradients of all micro-batches, and return the batch's mean loss."""
        total = torch.zeros(())
        for start in range(0, size, self.parts.size):
            count = min(self.parts.size, size - start)
            micro = {name: value[start:start + count] for name, value in batch.items()}
            total = total + self._graph_or_function(micro, count, count / size)(micro)
        return total

    def _graph_or_function(self, micro: Batch, count: int, fraction: float) -> Callable[[Batch], Tensor]:
        """The function for a micro-batch: a CUDA graph, captured when this size is new, or `backward` if there are no
        graphs.

        count: number of items in the micro-batch.
        fraction: count / number of items in the batch.
        """
        def function(batch: Batch) -> Tensor:
            return self.backward(batch, fraction)

        if self.use_graphs and (count, fraction) not in self.graphs:
            saved = [grad.clone() for grad in self.grads]
            graph = capture(function, micro)
            torch._foreach_copy_(self.grads, saved)    # undo what the warm-up added
            self.use_graphs = graph is not None
            if graph is not None:
                self.graphs[count, fraction] = graph
        return self.graphs[count, fraction] if self.use_graphs else function


class Graph:
    """A function of a batch on CUDA, captured once and replayed on other batches of the same shapes (Gray 2019,
    "Getting Started with CUDA Graphs"). Without it, a step of a small network spends most of its time on launching
    kernels.
    """

    def __init__(self, function: Callable[[Batch], Tensor], batch: Batch):
        self.inputs = {name: value.clone() for name, value in batch.items()}
        warm_up = torch.cuda.Stream()
        warm_up.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warm_up):
            for _ in range(3):      # cuDNN chooses its algorithms here, and autograd creates what it keeps
                function(self.inputs)
        torch.cuda.current_stream().wait_stream(warm_up)
        self.graph = torch.cuda.CUDAGraph()
        # "thread_local": CUDA calls of NCCL's watchdog, in another thread, do not break the capture.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.output = function(self.inputs)

    def __call__(self, batch: Batch) -> Tensor:
        for name, value in batch.items():
            self.inputs[name].copy_(value)
        self.graph.replay()
        return self.output.clone()


def capture(function: Callable[[Batch], Tensor], batch: Batch) -> Graph | None:
    """Capture a function as a CUDA graph. If that is impossible, print the reason and return None.

    Raises RuntimeError if memory runs out.
    """
    stream = torch.cuda.current_stream()
    try:
        return Graph(function, batch)
    except RuntimeError as error:
        if should_reduce_batch_size(error):
            raise
        print(f"no CUDA graph of a step ({str(error).splitlines()[0]}): its kernels are launched one by one")
    finally:
        torch.cuda.set_stream(stream)       # a capture that fails leaves its own stream current
        torch.cuda.synchronize()
    return None
