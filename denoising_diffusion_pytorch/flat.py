"""The parameters of a network as views of one flat buffer, so that one kernel works on all of them."""
import copy

import torch
from torch import Tensor, nn

ALIGNMENT = 64      # elements. Vector loads and cuDNN want 16 bytes; 128 are a line of the cache, in half precision too
LAYERS_IN_HALF_PRECISION = nn.Conv2d, nn.Linear     # what autocast casts; norms and embeddings stay float32


def _memory_order(tensor: Tensor) -> list[int]:
    """The dimensions in the order in which they lie in memory, the slowest one first."""
    return sorted(range(tensor.ndim), key=lambda dim: -tensor.stride()[dim])


def convert_layers(network: nn.Module, dtype: torch.dtype) -> None:
    """Convert the weights that autocast would cast to `dtype`. Then it need not cast them again in every call."""
    for layer in network.modules():
        if isinstance(layer, LAYERS_IN_HALF_PRECISION):
            layer.to(dtype)


class FlatLayout:
    """Where each parameter of a network lies in a flat buffer: first those that are used in half precision.

    names: of the parameters, in the order of the buffer. num_half: those of them that are used in half precision.
    half_size, size: elements of the buffer up to the end of these, and of all.
    """

    def __init__(self, network: nn.Module):
        self.parameters = dict(network.named_parameters())
        in_half = {f"{layer_name}.{name}" for layer_name, layer in network.named_modules()
                   if isinstance(layer, LAYERS_IN_HALF_PRECISION) for name, _ in layer.named_parameters()}
        self.names = sorted(self.parameters, key=lambda name: name not in in_half)      # stable
        self.num_half, self.half_size, self.size = len(in_half), 0, 0
        self.offsets: dict[str, int] = {}
        self.orders = {name: _memory_order(parameter) for name, parameter in self.parameters.items()}
        for name in self.names:
            self.offsets[name] = self.size
            self.size += -(-self.parameters[name].numel() // ALIGNMENT) * ALIGNMENT
            if name in in_half:
                self.half_size = self.size

    def views(self, buffer: Tensor) -> dict[str, Tensor]:
        """Views of a buffer (size,), shaped and ordered in memory like the parameters."""
        return {name: buffer.as_strided(parameter.shape, parameter.stride(), self.offsets[name])
                for name, parameter in self.parameters.items() if self.offsets[name] < len(buffer)}

    def pieces(self, buffer: Tensor) -> list[Tensor]:
        """The same parts of the buffer in the order of `names`, one-dimensional."""
        return [buffer[self.offsets[name]:self.offsets[name] + self.parameters[name].numel()] for name in self.names]

    def in_memory_order(self, tensors: list[Tensor]) -> list[Tensor]:
        """Tensors shaped like the parameters `names`, as one-dimensional tensors that match `pieces`."""
        return [tensor.permute(self.orders[name]).reshape(-1) for name, tensor in zip(self.names, tensors)]

    def move_into(self, buffer: Tensor, network: nn.Module) -> None:
        """Make the parameters of a network with this layout views of `buffer` (size,), which gets their values."""
        views = self.views(buffer)
        for name, parameter in network.named_parameters():
            views[name].copy_(parameter.detach())
            parameter.data = views[name]

    def half_precision_twin(self, network: nn.Module, buffer: Tensor) -> nn.Module:
        """A copy of the network that shares its parameters, except those used in half precision.

        These are views of `buffer` (half_size,). So a step casts all of them with one kernel, instead of each one in
        every layer.
        """
        twin, views = copy.deepcopy(network), self.views(buffer)
        shared = dict(network.named_parameters())
        for layer_name, layer in twin.named_modules():
            for name, _ in list(layer.named_parameters(recurse=False)):
                full_name = f"{layer_name}.{name}".removeprefix(".")
                setattr(layer, name, nn.Parameter(views[full_name]) if full_name in views else shared[full_name])
        return twin
