"""RMS norm over channels with gain, scale, shift and SiLU, as one function with a hand-written gradient.

Composed of PyTorch's operations, it would pass over the data 8 times in the forward and 16 times in the backward pass.
The plain form here does so 4 and 9 times; the kernels of rms_norm_kernels.py, on GPUs that Triton supports, 2 and 4
times. Apart from convolutions, the network does little else.
"""
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundwork.device import half_precision
from groundwork.memory import is_out_of_memory
from groundwork.seeding import seeded

MIN_NORM = 1e-12       # as in F.normalize; it matters where all channels are 0
MAX_ERROR = 0.05        # of the kernels in a trial, as a share; rounding to bfloat16 makes less than 0.01 of it
USE_KERNELS = True      # where there are any; the benchmarks turn it off


def rms_norm(x: Tensor, gain: Tensor, scale_shift: Tensor | None = None, *, silu: bool = False) -> Tensor:
    """x / ||x||_2 * sqrt(c) * gain * (1 + scale) + shift, then SiLU if `silu`. The norm is over the channels (Zhang &
    Sennrich 2019, eq. 4).

    x: (b, c, h, w).
    gain: (1, c, 1, 1).
    scale_shift: (b, 2 * c), the scales and then the shifts of each sample, or None for 0.
    """
    if has_kernels(x):
        return _fused(x, None, gain, scale_shift, silu)
    return _plain(x, gain, scale_shift, silu)


def _plain(x: Tensor, gain: Tensor, scale_shift: Tensor | None, silu: bool) -> Tensor:
    """rms_norm with PyTorch's operations."""
    gain = gain * x.shape[1] ** 0.5
    if scale_shift is None:
        return _RMSNorm.apply(x, gain, None, silu)
    scale, shift = scale_shift[:, :, None, None].chunk(2, dim=1)
    return _RMSNorm.apply(x, gain * (scale + 1), shift, silu)


def conv_rms_norm_silu(conv: nn.Conv2d, x: Tensor, gain: Tensor, scale_shift: Tensor | None) -> Tensor:
    """rms_norm(conv(x), gain, scale_shift, silu=True). The kernels add the bias and sum up its gradient on
    the way, which would take passes of their own.
    """
    if not has_kernels(x):
        return rms_norm(conv(x), gain, scale_shift, silu=True)
    convolved = F.conv2d(x, conv.weight, stride=conv.stride, padding=conv.padding)      # type: ignore[arg-type]
    return _fused(convolved, conv.bias, gain, scale_shift, True)


def _fused(x: Tensor, bias: Tensor | None, gain: Tensor, scale_shift: Tensor | None, silu: bool) -> Tensor:
    from denoising_diffusion_pytorch.rms_norm_kernels import FusedRMSNorm       # Triton is not installed everywhere
    return FusedRMSNorm.apply(x, bias, gain, scale_shift, silu)


def has_kernels(x: Tensor) -> bool:
    """Whether there are Triton kernels for this tensor (b, c, h, w): on GPUs that Triton supports, in channels_last."""
    return (USE_KERNELS and x.is_cuda and x.is_contiguous(memory_format=torch.channels_last)
            and kernels_work(x.device))


@cache
def kernels_work(device: torch.device) -> bool:
    """Whether a trial of the kernels on a GPU gives what the plain form gives. If not, it says why, once.

    Triton needs compute capability 7.0, and a C compiler at its first use.
    """
    if torch.cuda.get_device_capability(device) < (7, 0):
        return False
    try:
        works = all(_kernels_agree(device, dtype) for dtype in {torch.float32, half_precision(device) or torch.float32})
        problem = "they give other results"
    except ImportError:     # no Triton
        return False
    except Exception as error:      # Triton's errors have no common class
        if is_out_of_memory(error):
            raise
        works, problem = False, f"{type(error).__name__}: {error}".splitlines()[0]
    if not works:
        print(f"no Triton kernels ({problem}): PyTorch's own are used", flush=True)
    return works


def _kernels_agree(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels give what the plain form gives, with all gradients, for a small x of this type."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cuda", enabled=False):
        generator = seeded(0)
        x, bias, gain, scale_shift = (
            torch.randn(shape, generator=generator).to(device, kind).requires_grad_() for shape, kind in (
                ((2, 3, 4, 4), dtype), ((3,), dtype), ((1, 3, 1, 1), torch.float32), ((2, 6), dtype)))
        own = x.contiguous(memory_format=torch.channels_last)
        outputs = (_fused(own, bias, gain, scale_shift, True),
                   _plain(own + bias[:, None, None], gain, scale_shift, True))
        gradients = [torch.autograd.grad(output.float().square().sum(), (x, bias, gain, scale_shift))
                     for output in outputs]
        return all(bool((found - expected).float().norm() < MAX_ERROR * expected.float().norm())
                   for found, expected in (outputs, *zip(*gradients)))


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
