"""3x3 convolutions on a CPU by tiles, with a quarter of the multiplications (Lavin & Gray 2016, "Fast Algorithms for
Convolutional Neural Networks", section 4.3: F(4x4, 3x3)).

An output tile of 4x4 comes from an input tile d of 6x6 and the kernel g as A^T [(G g G^T) * (B^T d B)] A. For each of
the 36 places in the tile, * is a matrix product over the channels. The gradient of d is the same of the output's
gradient and the kernel turned round. That of g is G^T [sum over tiles of (A e A^T) * (B^T d B)] G, with tiles e of 4x4
of the output's gradient: all of it is linear, and this is its transpose. Rounding errors are 2e-6 of the result,
direct ones 5e-7 (1e-6 to 3e-6 for gradients of kernels). GPUs have their own such kernels; PyTorch's for CPUs multiply
it all out, and are slowest at gradients of kernels.
"""
from typing import Any, Iterator

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

INPUT_SIDE, SIDE = 6, 4         # of the tiles
PLACES = INPUT_SIDE ** 2
B = torch.tensor([[4.0, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0],
                  [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]])
G = torch.tensor([[6.0, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
A = torch.tensor([[1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
INPUT, KERNEL, OUTPUT = (torch.kron(matrix, matrix) for matrix in (B, G, A))        # both axes in one product
TURNED_KERNEL = KERNEL.flip(1)
# Below these, tiling costs more than it saves: for gradients of kernels; for convolutions and gradients of their input.
LEAST_CHANNELS = 64
LEAST_CHANNELS_FORWARD, LEAST_TILES_FORWARD = 256, 256
LEAST_AT_ONCE = 128         # tiles: few stay in the cache, many make large matrices, which pays with many channels


class Conv3x3(nn.Conv2d):
    """nn.Conv2d with a 3x3 kernel and padding 1; by tiles on a CPU, in float32, where they pay."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__(channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        is_plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        pays = min(self.in_channels, self.out_channels) >= LEAST_CHANNELS
        if is_plain and pays and x.shape[2] % SIDE == x.shape[3] % SIDE == 0:
            return _Convolution.apply(x, self.weight, self.bias)
        return super().forward(x)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        if _pays_forward(x, weight):
            return convolve(x, weight, bias)
        return torch.conv2d(x, weight, bias, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0] and _pays_forward(x, weight):
            of_x = convolve(gradient, weight, turned=True)
        elif ctx.needs_input_grad[0]:
            of_x, _, _ = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, False, False])
        if ctx.needs_input_grad[1]:
            of_weight = kernel_gradient(x, gradient)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum(dim=(0, 2, 3))
        return of_x, of_weight, of_bias


def _pays_forward(x: Tensor, weight: Tensor) -> bool:
    tiles = len(x) * x.shape[2] * x.shape[3] // SIDE ** 2
    return min(weight.shape[:2]) >= LEAST_CHANNELS_FORWARD and tiles >= LEAST_TILES_FORWARD


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None, turned: bool = False) -> Tensor:
    """F.conv2d(x, weight, bias, padding=1) of x (b, c, h, w), h and w multiples of 4, weight (out, c, 3, 3), all
    float32 on the CPU; the result is channels_last.

    turned: x is (b, out, h, w), an output's gradient, and the result (b, c, h, w) the input's.
    """
    matrix = TURNED_KERNEL if turned else KERNEL
    kernels = (matrix @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(PLACES, *weight.shape[:2])
    if not turned:
        kernels = kernels.transpose(1, 2)
    batch, _, height, width = x.shape
    down, across, channels = height // SIDE, width // SIDE, kernels.shape[2]
    at_once = _tiles_at_once(width, *weight.shape[:2])
    result, done = x.new_empty(batch * down, SIDE, across, SIDE, channels), 0
    all_products, all_outputs = (_matrix(x, places, at_once, channels) for places in (PLACES, SIDE ** 2))
    for tiles in _tiles(x, INPUT_SIDE, INPUT, at_once):
        products, outputs = (buffer[:, :tiles.shape[1]] for buffer in (all_products, all_outputs))
        torch.bmm(tiles, kernels, out=products)
        torch.mm(OUTPUT, products.flatten(1), out=outputs.flatten(1))
        rows = outputs.view(SIDE, SIDE, -1, across, channels).permute(2, 0, 3, 1, 4)
        target = result[done:done + len(rows)]
        if bias is None:
            target.copy_(rows)
        else:
            torch.add(rows, bias, out=target)
        done += len(rows)
    return result.view(batch, height, width, channels).permute(0, 3, 1, 2)


def kernel_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """The gradient (out, c, 3, 3) of the weights, from that of the output, (b, out, h, w), and x (b, c, h, w)."""
    at_once = _tiles_at_once(x.shape[3], x.shape[1], gradient.shape[1])
    total = x.new_empty(PLACES, gradient.shape[1], x.shape[1])
    pairs = zip(_tiles(x, INPUT_SIDE, INPUT, at_once), _tiles(gradient, SIDE, OUTPUT.T, at_once))
    for i, (tiles, errors) in enumerate(pairs):
        total.baddbmm_(errors.transpose(1, 2), tiles, beta=min(i, 1))      # the first takes the place of what is there
    return (KERNEL.T @ total.flatten(1)).view(3, 3, *total.shape[1:]).permute(2, 3, 0, 1)


def _tiles_at_once(width: int, *channels: int) -> int:
    """At least a row of them."""
    return max(LEAST_AT_ONCE, width // SIDE, *channels)


def _tiles(x: Tensor, side: int, matrix: Tensor, at_once: int) -> Iterator[Tensor]:
    """`matrix` (36, side^2) times the side x side tiles of x, which lie 4 apart, so that those of 6 overlap, with zeros
    around x: (36, tiles, channels), `at_once` tiles at most after the other, each time in the same memory."""
    batch, channels, height, width = x.shape
    down, across, margin = height // SIDE, width // SIDE, (side - SIDE) // 2
    rows = min(down, at_once // across)
    images = min(batch, max(1, at_once // (down * across)))
    window = x.new_zeros(images, rows * SIDE + 2 * margin, width + 2 * margin, channels)
    stack, result = (_matrix(x, places, at_once, channels) for places in (side ** 2, PLACES))
    for part in x.permute(0, 2, 3, 1).split(images):
        for top in range(0, height, rows * SIDE):
            bottom = min(top + rows * SIDE, height)
            view = window[:len(part), :bottom - top + 2 * margin]
            first, end = max(top - margin, 0), min(bottom + margin, height)
            start = first - (top - margin)
            view[:, :start] = view[:, start + end - first:] = 0
            view[:, start:start + end - first, margin:margin + width] = part[:, first:end]
            tiles = view.unfold(1, side, SIDE).unfold(2, side, SIDE).permute(4, 5, 0, 1, 2, 3)
            count = len(part) * (bottom - top) // SIDE * across
            stack[:, :count].view(tiles.shape).copy_(tiles)
            torch.mm(matrix, stack[:, :count].flatten(1), out=result[:, :count].flatten(1))
            yield result[:, :count]


def _matrix(like: Tensor, places: int, tiles: int, channels: int) -> Tensor:
    """(places, tiles, channels) to be filled, the places not a power of two apart, where they would share the cache's
    sets."""
    return like.new_empty(places, tiles * channels + 16)[:, :tiles * channels].unflatten(1, (tiles, channels))
