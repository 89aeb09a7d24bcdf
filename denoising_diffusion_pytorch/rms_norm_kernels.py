"""The RMS norm of rms_norm.py as Triton kernels: one in the forward pass, two in the backward pass.

All of them see x as rows of channels, (b * h * w, c), which channels_last data is. Sums over rows are added up in a
fixed order, so results are the same to the bit in every run.
"""
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 2048         # elements of x that a program holds at a time
MAX_PARTS = 8       # programs of a sample in the backward pass; each gives one partial sum
COLUMNS = 16        # channels of a program that adds up partial sums


@triton.jit
def _forward(x_ptr, bias_ptr, gain_ptr, scale_shift_ptr, y_ptr, inverse_ptr, positions, root, C: tl.constexpr,
             ROWS: tl.constexpr, COLUMNS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SCALE: tl.constexpr,
             SILU: tl.constexpr):
    """ROWS rows of one sample. root: sqrt(C)."""
    sample = tl.program_id(1)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    in_row, in_column = rows < positions, columns < C
    mask = in_row[:, None] & in_column[None, :]
    row = sample.to(tl.int64) * positions + rows
    place = row[:, None] * C + columns[None, :]
    x = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
    if HAS_BIAS:
        x += tl.load(bias_ptr + columns, mask=in_column, other=0.0).to(tl.float32)[None, :]
    inverse = 1.0 / tl.maximum(tl.sqrt(tl.sum(x * x, axis=1)), 1e-12)
    gain = tl.load(gain_ptr + columns, mask=in_column, other=0.0).to(tl.float32) * root
    if HAS_SCALE:
        own = scale_shift_ptr + sample * 2 * C + columns
        gain *= 1.0 + tl.load(own, mask=in_column, other=0.0).to(tl.float32)
    y = x * inverse[:, None] * gain[None, :]
    if HAS_SCALE:
        y += tl.load(own + C, mask=in_column, other=0.0).to(tl.float32)[None, :]
    if SILU:
        y *= tl.sigmoid(y)
    tl.store(y_ptr + place, y.to(y_ptr.dtype.element_ty), mask=mask)
    tl.store(inverse_ptr + row, inverse, mask=in_row)


@triton.jit
def _backward(grad_ptr, x_ptr, bias_ptr, inverse_ptr, gain_ptr, scale_shift_ptr, grad_x_ptr, sums_ptr, positions, root,
              C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, HAS_BIAS: tl.constexpr,
              HAS_SCALE: tl.constexpr, SILU: tl.constexpr):
    """grad_x of every num_programs(0)-th tile of one sample. Over these tiles, it sums up root * grad * unit, grad_x
    and grad, which become the gradients of gain and scale, bias, and shift, into sums (b, parts, 3, C) float32.
    """
    part, sample = tl.program_id(0), tl.program_id(1)
    parts = tl.num_programs(0)
    columns = tl.arange(0, COLUMNS)
    in_column = columns < C
    gain = tl.load(gain_ptr + columns, mask=in_column, other=0.0).to(tl.float32) * root
    shift = tl.zeros((COLUMNS,), tl.float32)
    if HAS_SCALE:
        own = scale_shift_ptr + sample * 2 * C + columns
        gain *= 1.0 + tl.load(own, mask=in_column, other=0.0).to(tl.float32)
        shift = tl.load(own + C, mask=in_column, other=0.0).to(tl.float32)
    bias = tl.zeros((COLUMNS,), tl.float32)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + columns, mask=in_column, other=0.0).to(tl.float32)
    sum_product, sum_grad = tl.zeros((COLUMNS,), tl.float32), tl.zeros((COLUMNS,), tl.float32)
    sum_grad_x = tl.zeros((COLUMNS,), tl.float32)
    for start in range(part * ROWS, positions, parts * ROWS):
        rows = start + tl.arange(0, ROWS)
        in_row = rows < positions
        mask = in_row[:, None] & in_column[None, :]
        row = sample.to(tl.int64) * positions + rows
        place = row[:, None] * C + columns[None, :]
        inverse = tl.load(inverse_ptr + row, mask=in_row, other=0.0)
        unit = (tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32) + bias[None, :]) * inverse[:, None]
        grad = tl.load(grad_ptr + place, mask=mask, other=0.0).to(tl.float32)
        if SILU:
            y = unit * gain[None, :] + shift[None, :]
            sigmoid = tl.sigmoid(y)
            grad *= sigmoid * (1.0 + y * (1.0 - sigmoid))
        sum_product += tl.sum(grad * unit, axis=0)
        sum_grad += tl.sum(grad, axis=0)
        grad *= gain[None, :]
        along = tl.sum(grad * unit, axis=1)     # d unit / d x = (1 - unit unit^T) / ||x||
        grad_x = (grad - unit * along[:, None]) * inverse[:, None]
        sum_grad_x += tl.sum(grad_x, axis=0)
        tl.store(grad_x_ptr + place, grad_x.to(grad_x_ptr.dtype.element_ty), mask=mask)
    sums = sums_ptr + (sample * parts + part) * 3 * C + columns
    tl.store(sums, sum_product * root, mask=in_column)
    tl.store(sums + C, sum_grad_x, mask=in_column)
    tl.store(sums + 2 * C, sum_grad, mask=in_column)


@triton.jit
def _parameter_gradients(sums_ptr, gain_ptr, scale_shift_ptr, grad_bias_ptr, grad_gain_ptr, grad_scale_shift_ptr,
                         samples, PARTS: tl.constexpr, C: tl.constexpr, SAMPLES: tl.constexpr, COLUMNS: tl.constexpr,
                         HAS_BIAS: tl.constexpr, HAS_SCALE: tl.constexpr):
    """The gradients of bias, gain and scale_shift for COLUMNS channels, from sums (b, PARTS, 3, C)."""
    columns, rows = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS), tl.arange(0, SAMPLES)
    in_column = columns < C
    mask = (rows < samples)[:, None] & in_column[None, :]
    product = tl.zeros((SAMPLES, COLUMNS), tl.float32)
    grad_bias = tl.zeros((SAMPLES, COLUMNS), tl.float32)
    grad_shift = tl.zeros((SAMPLES, COLUMNS), tl.float32)
    for part in tl.static_range(PARTS):
        own = sums_ptr + (rows[:, None] * PARTS + part) * 3 * C + columns[None, :]
        product += tl.load(own, mask=mask, other=0.0)
        if HAS_BIAS:
            grad_bias += tl.load(own + C, mask=mask, other=0.0)
        if HAS_SCALE:
            grad_shift += tl.load(own + 2 * C, mask=mask, other=0.0)
    if HAS_BIAS:
        tl.store(grad_bias_ptr + columns, tl.sum(grad_bias, axis=0).to(grad_bias_ptr.dtype.element_ty), mask=in_column)
    if HAS_SCALE:
        place = rows[:, None] * 2 * C + columns[None, :]
        scale = tl.load(scale_shift_ptr + place, mask=mask, other=0.0).to(tl.float32)
        gain = tl.load(gain_ptr + columns, mask=in_column, other=0.0).to(tl.float32)
        dtype = grad_scale_shift_ptr.dtype.element_ty
        tl.store(grad_scale_shift_ptr + place, (product * gain[None, :]).to(dtype), mask=mask)
        tl.store(grad_scale_shift_ptr + place + C, grad_shift.to(dtype), mask=mask)
        product *= 1.0 + scale
    tl.store(grad_gain_ptr + columns, tl.sum(product, axis=0), mask=in_column)


class FusedRMSNorm(torch.autograd.Function):
    """rms_norm(x + bias, gain, scale_shift) for x in channels_last memory on a GPU. bias: (c,) or None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, gain: Tensor, scale_shift: Tensor | None,
                silu: bool) -> Tensor:
        samples, channels, height, width = x.shape
        columns = triton.next_power_of_2(channels)
        shape = {"C": channels, "ROWS": max(1, TILE // columns), "COLUMNS": columns, "HAS_BIAS": bias is not None,
                 "HAS_SCALE": scale_shift is not None, "SILU": silu}
        if scale_shift is not None:
            scale_shift = scale_shift.contiguous()
        y = torch.empty_like(x, memory_format=torch.channels_last)
        inverse = torch.empty(samples, height * width, device=x.device)
        grid = triton.cdiv(height * width, shape["ROWS"]), samples
        _forward[grid](x, bias, gain, scale_shift, y, inverse, height * width, channels ** 0.5, **shape)
        ctx.shape = shape
        ctx.save_for_backward(x, bias, inverse, gain, scale_shift)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, bias, inverse, gain, scale_shift = ctx.saved_tensors
        samples, channels, height, width = x.shape
        grad = grad.contiguous(memory_format=torch.channels_last)
        parts = min(MAX_PARTS, triton.cdiv(height * width, ctx.shape["ROWS"]))
        grad_x = torch.empty_like(x, memory_format=torch.channels_last)
        sums = torch.empty(samples, parts, 3, channels, device=x.device)
        _backward[parts, samples](grad, x, bias, inverse, gain, scale_shift, grad_x, sums, height * width,
                                  channels ** 0.5, **ctx.shape)
        grad_bias, grad_gain, grad_scale_shift = (
            None if of is None else torch.empty_like(of) for of in (bias, gain, scale_shift))
        _parameter_gradients[(triton.cdiv(channels, COLUMNS),)](
            sums, gain, scale_shift, grad_bias, grad_gain, grad_scale_shift, samples, PARTS=parts, C=channels,
            SAMPLES=triton.next_power_of_2(samples), COLUMNS=COLUMNS, HAS_BIAS=bias is not None,
            HAS_SCALE=scale_shift is not None)
        return grad_x, grad_bias, grad_gain, grad_scale_shift, None
