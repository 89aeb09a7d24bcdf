"""Gradients of a batch, computed in micro-batches as large as memory allows."""
import sys
from typing import Callable, Mapping

import torch
from torch import Tensor

from denoising_diffusion_pytorch.weight_update import WeightUpdate
from groundwork.cuda_graph import Graphed
from groundwork.memory import AdaptiveBatches

Batch = Mapping[str, Tensor]


class Gradients:
    """Sets `weights.grads` to the gradients of a batch's mean loss, times weights.loss_scale.

    loss: loss(micro_batch) -> the mean loss of a micro-batch, unscaled, computed with weights.network.

    A micro-batch is the whole batch until memory runs out. Then micro-batches are halved and stay so. This changes the
    gradients by rounding only. On CUDA, the kernels of a micro-batch are launched as one CUDA graph.
    """

    def __init__(self, loss: Callable[[Batch], Tensor], weights: WeightUpdate):
        self.loss, self.weights = loss, weights
        parameters = dict(weights.network.named_parameters())
        self.parameters = [parameters[name] for name in weights.layout.names]
        self.pieces = weights.layout.pieces(weights.grads)
        self.parts = AdaptiveBatches(sys.maxsize, "image")
        self.graphed: dict[tuple[float, bool], Graphed] = {}        # key: (fraction, is_whole) of a micro-batch

    def __call__(self, batch: Batch) -> Tensor:
        """Set the gradients for `batch`, and return its mean loss, a scalar on its device."""
        size = len(next(iter(batch.values())))
        return self.parts.retry_until_it_fits(lambda: self._attempt(batch, size), size)

    def _attempt(self, batch: Batch, size: int) -> Tensor:
        """Set the gradients micro-batch by micro-batch, and return the batch's mean loss."""
        total = torch.zeros((), device=self.weights.grads.device)
        is_whole = size <= self.parts.size
        if not is_whole:
            self.weights.grads.zero_()
        try:
            for start in range(0, size, self.parts.size):
                count = min(self.parts.size, size - start)
                micro = {name: value[start:start + count] for name, value in batch.items()}
                total = total + self._function(count / size, is_whole)(micro)
            return total
        except RuntimeError:
            self.graphed.clear()     # they hold memory, and their size does not fit
            raise

    def _function(self, fraction: float, is_whole: bool) -> Graphed:
        """A function of a micro-batch that sets the gradients to `fraction` times its own if it is the whole batch,
        else adds these to them. It returns the micro-batch's part of the loss.
        """
        def backward(micro: Batch) -> Tensor:
            loss = self.loss(micro) * fraction
            grads = torch.autograd.grad(loss * self.weights.loss_scale, self.parameters)
            self._put(torch._foreach_copy_ if is_whole else torch._foreach_add_, grads)
            return loss.detach()

        key = fraction, is_whole
        if key not in self.graphed:
            grads = self.weights.grads
            self.graphed[key] = Graphed(backward, grads.device, state=[grads])
        return self.graphed[key]

    def _put(self, operation: Callable, grads: tuple[Tensor, ...]) -> None:
        """Copy or add the gradients to their pieces of the flat buffer: one operation for each precision, since a
        mixed list is worked on one by one.
        """
        ordered, num_half = self.weights.layout.in_memory_order(list(grads)), self.weights.layout.num_half
        for part in (slice(None, num_half), slice(num_half, None)):
            if ordered[part]:
                operation(self.pieces[part], ordered[part])
