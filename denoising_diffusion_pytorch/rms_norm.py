"""RMS norm over channels with gain, scale, shift and SiLU, as one function with a hand-written gradient.

Composed of PyTorch's operations, it would pass over the data 8 times in the forward and 16 times in the backward pass.
The plain form here does so 4 and 9 times; the kernels of rms_norm_kernels.py, on GPUs that Triton supports, 2 and 4
times. Apart from convolutions, the network does little else.
"""
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_NORM = 1e-12       # as in F.normalize; it matters where all channels are 0
USE_KERNELS = True      # where there are any; the benchmarks turn it off


def rms_norm(x: Tensor, gain: Tensor, scale_shift: Tensor | None = None, *, silu: bool = False) -> Tensor:
    """x / ||x||_2 * sqrt(c) * gain * (1 + scale) + shift, then SiLU if `silu`. The norm is over the channels (Zhang &
    Sennrich 2019, eq. 4).

    x: (b, c, h, w).
    gain: (1, c, 1, 1).
    scale_shift: (b, 2 * c), the scales and then the shifts of each sample, or None for 0.
    """
    if torch.compiler.is_compiling():
        return _composed(x, gain, scale_shift, silu)
    if USE_KERNELS and x.is_cuda and _has_kernels(x.device) and x.is_contiguous(memory_format=torch.channels_last):
        from denoising_diffusion_pytorch.rms_norm_kernels import FusedRMSNorm  # Triton is not installed everywhere
        return FusedRMSNorm.apply(x, gain, scale_shift, silu)
    gain = gain * x.shape[1] ** 0.5
    if scale_shift is None:
        return _RMSNorm.apply(x, gain, None, silu)
    scale, shift = scale_shift[:, :, None, None].chunk(2, dim=1)
    return _RMSNorm.apply(x, gain * (scale + 1), shift, silu)


def _composed(x: Tensor, gain: Tensor, scale_shift: Tensor | None, silu: bool) -> Tensor:
    """The same in PyTorch's operations, which torch.compile fuses."""
    y = F.normalize(x.float(), dim=1, eps=MIN_NORM) * (gain * x.shape[1] ** 0.5)
    if scale_shift is not None:
        scale, shift = scale_shift.float()[:, :, None, None].chunk(2, dim=1)
        y = y * (scale + 1) + shift
    return (F.silu(y) if silu else y).to(x.dtype)


@cache
def _has_kernels(device: torch.device) -> bool:
    """Whether Triton is installed and supports this GPU."""
    return find_spec("triton") is not None and torch.cuda.get_device_capability(device) >= (7, 0)


class _RMSNorm(torch.autograd.Function):
    """x / ||x||_2 * gain + shift, then SiLU if `silu`. gain: (1, c, 1, 1) or (b, c, 1, 1); shift: (b, c, 1, 1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, shift: Tensor | None, silu: bool) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
        inverse = norm.clamp_min_(MIN_NORM).reciprocal_()
        unit = torch.mul(x, inverse, out=torch.empty_like(x))       # float32 at least, rounded once to x's dtype
        gain = gain.to(x.dtype)     # under autocast, only the gain is float32
        y = unit * gain if shift is None else torch.addcmul(shift, unit, gain)
        ctx.silu, ctx.has_shift = silu, shift is not None
        ctx.save_for_backward(unit, inverse, gain, y if silu else None)
        return F.silu(y) if silu else y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        unit, inverse, gain, y = ctx.saved_tensors
        if ctx.silu:
            grad = torch.ops.aten.silu_backward(grad, y)
        product = grad * unit
        # Sums over all positions are in float32 at least: in float16 they could overflow.
        grad_gain = product.sum(dim=(2, 3) if len(gain) > 1 else (0, 2, 3), keepdim=True, dtype=inverse.dtype)
        grad_shift = grad.sum(dim=(2, 3), keepdim=True, dtype=inverse.dtype) if ctx.has_shift else None
        # d unit / d x = (1 - unit unit^T) / ||x||
        along = product.mul_(gain).sum(dim=1, keepdim=True)
        grad_x = (grad * gain).addcmul_(unit, along, value=-1).mul_(inverse)
        return grad_x, grad_gain, grad_shift, None
