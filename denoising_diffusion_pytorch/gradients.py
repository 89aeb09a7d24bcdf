"""Gradients of a batch, in micro-batches as large as memory allows, and on CUDA as one launch instead of thousands."""
import gc
from typing import Callable, Sequence

import torch
from torch import Tensor

from groundwork.errors import InputError

Batch = dict[str, Tensor]
OutOfMemoryError = getattr(torch, "OutOfMemoryError", None) or torch.cuda.OutOfMemoryError    # torch < 2.5: the second


class Gradients:
    """Adds the gradients of a batch's mean loss to `parameters`.

    backward(micro_batch, share) must run forward and backward of the micro-batch's mean loss times `share`, and return
    that loss. The whole batch is one micro-batch until memory runs out; then they are halved, for good. The gradients
    are the same but for rounding.
    """

    def __init__(self, backward: Callable[[Batch, float], Tensor], parameters: Sequence[Tensor]):
        self.backward, self.parameters = backward, parameters
        self.micro_batch: int | None = None         # not known before the first batch
        self.use_graph = parameters[0].is_cuda
        self.graph: Graph | None = None

    def __call__(self, batch: Batch) -> Tensor:
        """The mean loss of the batch, a scalar on its device; parameters' gradients are those of this batch alone."""
        size = len(next(iter(batch.values())))
        self.micro_batch = min(self.micro_batch or size, size)
        while True:
            self._zero()
            try:
                return self._accumulate(batch, size)
            except OutOfMemoryError as error:
                if self.micro_batch == 1:
                    raise InputError(f"not even one image at a time fits in memory ({error}); lower dim or latent_size")
            # Here the exception, and with it the activations that its traceback held, is gone.
            self.graph, self.micro_batch = None, -(-self.micro_batch // 2)
            gc.collect()
            torch.cuda.empty_cache()
            print(f"out of memory: from here on {self.micro_batch} images at a time, {size} to a step as before")

    def _zero(self) -> None:
        """In place, because a graph writes to the gradients' addresses."""
        if grads := [p.grad for p in self.parameters if p.grad is not None]:
            torch._foreach_zero_(grads)

    def _accumulate(self, batch: Batch, size: int) -> Tensor:
        total = 0.0
        for start in range(0, size, self.micro_batch):
            micro = {name: value[start:start + self.micro_batch] for name, value in batch.items()}
            count = min(self.micro_batch, size - start)
            equal_shares = size % self.micro_batch == 0
            total = total + (self._replay(micro, count / size) if self.use_graph and equal_shares
                             else self.backward(micro, count / size))
        return total

    def _replay(self, micro: Batch, share: float) -> Tensor:
        if self.graph is None:
            try:
                self.graph = Graph(lambda batch: self.backward(batch, share), micro)
                self._zero()        # of what capturing added
            except OutOfMemoryError:
                raise
            except RuntimeError as error:
                self.use_graph = False
                print(f"no CUDA graph of a step ({str(error).splitlines()[0]}): its kernels are launched one by one")
                self._zero()
                return self.backward(micro, share)
        return self.graph(micro)


class Graph:
    """A function of a batch on CUDA, captured once and replayed on other batches of the same shapes (Gray 2019,
    "Getting Started with CUDA Graphs"): a small network's step is mostly the time that launching its kernels takes."""

    def __init__(self, function: Callable[[Batch], Tensor], batch: Batch):
        self.inputs = {name: value.clone() for name, value in batch.items()}
        warm_up = torch.cuda.Stream()
        warm_up.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warm_up):
            for _ in range(3):      # allocates gradients, lets cuDNN choose its algorithms
                function(self.inputs)
        torch.cuda.current_stream().wait_stream(warm_up)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = function(self.inputs)

    def __call__(self, batch: Batch) -> Tensor:
        for name, value in batch.items():
            self.inputs[name].copy_(value)
        self.graph.replay()
        return self.output.clone()
