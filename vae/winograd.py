"""3x3 convolution on a CPU with a quarter of the multiplications (Lavin & Gray 2016, "Fast Algorithms for
Convolutional Neural Networks", section 4.3: F(4x4, 3x3)).

An output tile of 4x4 comes from an input tile d of 6x6 and the kernel g as A^T [(G g G^T) * (B^T d B)] A. For each of
the 36 places in the tile, * is a matrix product over the channels. Rounding errors are 2e-6 of the result instead of
5e-7. GPUs have their own such kernels; PyTorch's for CPUs multiply it all out.
"""
import torch
from torch import Tensor, nn

TILE, STEP = 6, 4
B = torch.tensor([[4.0, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0],
                  [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]])
G = torch.tensor([[6.0, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
A = torch.tensor([[1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
INPUT, KERNEL, OUTPUT = (torch.kron(matrix, matrix) for matrix in (B, G, A))        # both axes in one product
AT_ONCE = 2 ** 20           # numbers of a stack of tiles, which should stay in the cache
LEAST_CHANNELS, LEAST_POSITIONS = 64, 64 * 64       # below, tiling costs more than it saves


class Conv3x3(nn.Conv2d):
    """nn.Conv2d with a 3x3 kernel and padding 1; by tiles where no gradient is wanted and they pay."""
    bias: nn.Parameter      # never None here

    def __init__(self, channels: int, out_channels: int):
        super().__init__(channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        wants_gradient = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        pays = (min(self.in_channels, self.out_channels) >= LEAST_CHANNELS and height * width >= LEAST_POSITIONS
                and height % STEP == width % STEP == 0)
        is_plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if pays and is_plain and not wants_gradient:
            return convolve_by_tiles(x, self.weight, self.bias)
        return super().forward(x)


def convolve_by_tiles(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """F.conv2d(x, weight, bias, padding=1) of x (b, c, h, w), h and w multiples of 4, weight (out, c, 3, 3), all
    float32 on the CPU; the result is channels_last."""
    batch, channels, height, width = x.shape
    out_channels, across = len(weight), width // STEP
    kernels = (KERNEL @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(TILE ** 2, channels, out_channels)
    padded = x.new_empty(batch, height + 2, width + 2, channels)
    padded[:, 1:-1, 1:-1] = x.permute(0, 2, 3, 1)
    for edge in (padded[:, 0], padded[:, -1], padded[:, :, 0], padded[:, :, -1]):
        edge.zero_()
    tiles = padded.unfold(1, TILE, STEP).unfold(2, TILE, STEP).permute(0, 4, 5, 1, 2, 3)    # (b, 6, 6, down, across, c)
    rows = max(1, AT_ONCE // (TILE ** 2 * across * channels))
    result = x.new_empty(batch, height // STEP, STEP, across, STEP, out_channels)
    for image, whole in zip(tiles, result):
        for part, out in zip(image.split(rows, dim=2), whole.split(rows)):
            stack = (INPUT @ part.reshape(TILE ** 2, -1)).view(TILE ** 2, -1, channels)
            products = torch.bmm(stack, kernels).view(TILE ** 2, -1)
            outputs = (OUTPUT @ products).view(STEP, STEP, -1, across, out_channels).permute(2, 0, 3, 1, 4)
            torch.add(outputs, bias, out=out)
    return result.view(batch, height, width, out_channels).permute(0, 3, 1, 2)
