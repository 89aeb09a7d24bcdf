"""Group norm that leaves images in channels_last on a CUDA device."""
import math

import torch
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """Group norm with 32 groups, or fewer if 32 does not divide the number of channels (Wu & He 2018, equation 1)."""

    def __init__(self, channels: int):
        super().__init__(math.gcd(32, channels), channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """On a CUDA device PyTorch's kernel would turn channels_last into contiguous, and the next convolution back."""
        is_channels_last = x.is_cuda and x.dtype.itemsize == 2 and x.is_contiguous(memory_format=torch.channels_last)
        return self.from_sums(x) if is_channels_last and not torch.is_grad_enabled() else super().forward(x)

    def from_sums(self, x: Tensor) -> Tensor:
        """The same in the memory format of x, from sums over the positions of each channel in float32. It has no
        gradient."""
        height, width = x.shape[2:]
        per_group = self.num_groups, -1
        mean = x.mean(dim=(2, 3), dtype=torch.float32).unflatten(1, per_group)
        norm = torch.linalg.vector_norm(x, dim=(2, 3), dtype=torch.float32).unflatten(1, per_group)
        mean_square = norm.square().mean(dim=2, keepdim=True) / (height * width)
        mean = mean.mean(dim=2, keepdim=True)
        variance = (mean_square - mean.square()).clamp(min=0)
        scale = (variance + self.eps).rsqrt() * self.weight.float().unflatten(0, per_group)
        shift = self.bias.float().unflatten(0, per_group) - mean * scale
        scale, shift = (values.flatten(1)[:, :, None, None] for values in (scale, shift))
        return torch.addcmul(shift, x, scale, out=torch.empty_like(x))      # float32 inside, without a copy in memory
