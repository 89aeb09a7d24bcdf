"""The layers of KL_VAE: its encoder and its decoder (Rombach et al. 2022, arXiv:2112.10752, appendix G).

Names and shapes of parameters are those of this project's first version. What later versions added is off in `ddconfig`
unless a file's weights have it: see `noise_inputs`.
"""
from typing import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae.group_norm import GroupNorm

LEAST_FLOOR = 0.1       # share of all pixels; the jet images of persons here have 0.2 to 0.35
MOST_VALUES = 2 ** 24   # of the images that are looked at; they are spread over all
FLOOR_RADIUS = 8 / 255
FLOOR_SLOPE = 0.05      # below the radius: 8 steps of 8-bit images become 0.4, and a gradient passes


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions and a skip connection: (batch, channels, h, w) → (batch, out_channels, h, w)."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.norm1 = GroupNorm(channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm2 = GroupNorm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if channels != out_channels:
            self.nin_shortcut = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x), inplace=True))     # in place: limited by memory bandwidth
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        return h.add_(self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    """Attention with one head between all positions of (batch, channels, h, w), and a skip connection."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = GroupNorm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2).unsqueeze(1) for layer in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v)                         # (batch, 1, height · width, channels)
        return x + self.proj_out(h.squeeze(1).transpose(1, 2).reshape(x.shape))


class NoiseInput(nn.Module):
    """x + strength(x) · noise: (batch, channels, h, w) and (batch, 1, h, w) → (batch, channels, h, w).

    StyleGAN's noise inputs (Karras et al. 2019, arXiv:1812.04948, section 2) have a learnt strength per channel. Here
    it also depends on the position's features, so that echoes get speckle and the floor stays flat. It is 0 at first.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.strength = nn.Conv2d(channels, channels, 1)
        for parameter in self.strength.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return torch.addcmul(x, self.strength(x), noise.to(x.dtype))


class Floor(nn.Module):
    """Colours near that of the floor become it: images (batch, channels, height, width) → the same shape.

    A spectrogram below the lowest level of its colour map has one colour exactly. A convolution gives it only nearly,
    and any network can tell. Distances up to `radius` shrink to less than half a step of 8-bit images. Those from twice
    the radius on stay as they are. `colour` is (channels, 1, 1) in [0, 1]. A radius of 0 changes nothing.
    """
    colour: Tensor
    radius: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("colour", torch.zeros(channels, 1, 1))
        self.register_buffer("radius", torch.zeros(()))

    def find(self, images: Tensor) -> None:
        """Take the most frequent colour of images (n, channels, height, width) uint8, if it is that of a floor; else
        there is no floor, also where another VAE's was."""
        images = images[::max(1, images.numel() // MOST_VALUES)]
        shifts = 8 * torch.arange(images.shape[1]).view(-1, 1, 1)       # all channels of a pixel in one number
        codes, counts = (images.long() << shifts).sum(dim=1).unique(return_counts=True)
        self.colour.copy_((codes[counts.argmax()] >> shifts & 255) / 255)
        self.radius.fill_(FLOOR_RADIUS if counts.max() > LEAST_FLOOR * counts.sum() else 0)

    def forward(self, images: Tensor) -> Tensor:
        difference = images - self.colour
        distance = difference.square().sum(dim=1, keepdim=True).clamp(min=1e-12).sqrt()
        beyond = (2 - FLOOR_SLOPE) * (1 - self.radius / distance)       # the line from the radius to twice the radius
        return self.colour + difference * (FLOOR_SLOPE * self.radius / distance + beyond).clamp(FLOOR_SLOPE, 1)


class Level(nn.Module):
    """The ResNet blocks at one resolution, then downsampling or upsampling to the next one, if there is a next one."""
    downsample: nn.Module
    upsample: nn.Module
    noise: NoiseInput

    def __init__(self, channels: int, out_channels: int, num_blocks: int):
        super().__init__()
        self.block = nn.ModuleList([ResnetBlock(channels if i == 0 else out_channels, out_channels)
                                    for i in range(num_blocks)])

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        if noise is not None:
            x = self.noise(x, noise)
        for block in self.block:
            x = block(x)
        if hasattr(self, "downsample"):
            return self.downsample(x)
        return self.upsample(x) if hasattr(self, "upsample") else x


class Middle(nn.Module):
    """ResNet block, attention, ResNet block, at the lowest resolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels)
        self.attn_1 = Attention(channels)
        self.block_2 = ResnetBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Images (batch, in_channels, height, width) → (batch, 2 * z_channels, h, w), with h = height / downsample_factor,
    and w likewise.
    """

    def __init__(self, ddconfig: dict):
        super().__init__()
        widths = [ddconfig["ch"] * mult for mult in ddconfig["ch_mult"]]
        self.conv_in = nn.Conv2d(ddconfig["in_channels"], ddconfig["ch"], 3, padding=1)
        self.down = nn.ModuleList()
        for i, (channels, out_channels) in enumerate(zip([ddconfig["ch"]] + widths, widths)):
            level = Level(channels, out_channels, ddconfig["num_res_blocks"])
            if i < len(widths) - 1:
                level.downsample = (
                    nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(out_channels, out_channels, 3, stride=2))
                    if ddconfig["latent_diffusion"] else nn.Conv2d(out_channels, out_channels, 3, 2, padding=1))
            self.down.append(level)
        self.mid = Middle(widths[-1])
        self.norm_out = GroupNorm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 2 * ddconfig["z_channels"], 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h)), inplace=True))


class Decoder(nn.Module):
    """(batch, z_channels, h, w) → images (batch, out_ch, height, width). `up[i]` has the resolution of the encoder's
    `down[i]`.

    With `noise_inputs`, each level takes noise, and upsampling repeats pixels before a convolution. What is flat stays
    flat then. A transposed convolution leaves a grid on it, since its four phases have different sums of weights (Odena
    et al. 2016, doi:10.23915/distill.00003).
    """

    def __init__(self, ddconfig: dict):
        super().__init__()
        widths = [ddconfig["ch"] * mult for mult in ddconfig["ch_mult"]]
        has_noise = ddconfig["noise_inputs"]
        self.conv_in = nn.Conv2d(ddconfig["z_channels"], widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList()
        for i, (channels, out_channels) in enumerate(zip(widths[1:] + widths[-1:], widths)):
            level = Level(channels, out_channels, ddconfig["num_res_blocks"] + 1)
            if has_noise:
                level.noise = NoiseInput(channels)
            if i > 0:
                level.upsample = (
                    nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(out_channels, out_channels, 3, padding=1))
                    if has_noise else nn.ConvTranspose2d(out_channels, out_channels, 4, stride=2, padding=1))
            self.up.append(level)
        self.norm_out = GroupNorm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], ddconfig["out_ch"], 3, padding=1)

    def forward(self, z: Tensor, noise: Sequence[Tensor] = ()) -> Tensor:
        """noise: with `noise_inputs`, standard normal (batch, 1, height, width) of each level, the smallest first."""
        h = self.mid(self.conv_in(z))
        for i, level in enumerate(reversed(self.up)):
            h = level(h, noise[i]) if noise else level(h)
        return self.conv_out(F.silu(self.norm_out(h), inplace=True))
