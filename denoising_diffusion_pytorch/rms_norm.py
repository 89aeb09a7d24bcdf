"""RMS norm over channels with gain, shift and SiLU in one function, whose gradient is written out.

The same function put together from PyTorch's parts passes over the data 8 times forwards and 16 times backwards, this
one 4 and 9 times: outside of convolutions, the network does little else.
"""
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_NORM = 1e-12       # F.normalize's, which a pixel of zeros needs


def rms_norm(x: Tensor, gain: Tensor, shift: Tensor | None = None, *, silu: bool = False) -> Tensor:
    """x (b, c, h, w) / ||x||_2 over c * sqrt(c) * gain + shift, then SiLU if asked for (Zhang & Sennrich 2019, eq. 4).

    gain: (1, c, 1, 1) or (b, c, 1, 1); shift: (b, c, 1, 1).
    """
    return _RMSNorm.apply(x, gain * x.shape[1] ** 0.5, shift, silu)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, shift: Tensor | None, silu: bool) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
        inverse = norm.clamp_min_(SMALLEST_NORM).reciprocal_()
        unit = torch.mul(x, inverse, out=torch.empty_like(x))       # rounded once, to x's precision
        gain = gain.to(x.dtype)     # under autocast, the gain is float32 and everything else is not
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
        # Sums over all positions keep inverse's precision: in float16 they could overflow.
        grad_gain = product.sum(dim=(2, 3) if len(gain) > 1 else (0, 2, 3), keepdim=True, dtype=inverse.dtype)
        grad_shift = grad.sum(dim=(2, 3), keepdim=True, dtype=inverse.dtype) if ctx.has_shift else None
        # d unit / d x = (1 - unit unit^T) / ||x||
        along = product.mul_(gain).sum(dim=1, keepdim=True)
        grad_x = (grad * gain).addcmul_(unit, along, value=-1).mul_(inverse)
        return grad_x, grad_gain, grad_shift, None
