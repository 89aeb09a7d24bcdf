"""The U-Net: 3x3 convolutions with RMS norm, linear attention at every level, full attention in the middle. The
timestep and the class condition every ResNet block.

Names and arithmetic are those of existing checkpoints: tests/denoising_diffusion_pytorch/test_unet.py compares the
outputs.
"""
import math
from functools import partial
from typing import Iterator, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from denoising_diffusion_pytorch.guidance import combine
from denoising_diffusion_pytorch.rms_norm import conv_rms_norm_silu, rms_norm
from groundwork.device import in_memory_format, memory_format_of

# The same in all existing checkpoints. attn_heads and attn_dim_head are for the middle attention only.
LINEAR_ATTENTION_HEADS, LINEAR_ATTENTION_DIM_HEAD = 4, 32


class RMSNorm(nn.Module):
    """x / ||x||_2 * sqrt(channels) * g over the channels of (b, c, h, w); see rms_norm."""

    def __init__(self, dim: int):
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, dim, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.g)


class Residual(nn.Module):
    """fn(x) + x."""

    def __init__(self, fn: nn.Module):
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x) + x


class PreNorm(nn.Module):
    """fn(RMSNorm(x))."""

    def __init__(self, dim: int, fn: nn.Module):
        super().__init__()
        self.fn = fn
        self.norm = RMSNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(self.norm(x))


class SinusoidalPosEmb(nn.Module):
    """Timesteps (b,) → (b, dim): sines, then cosines, of geometrically spaced frequencies."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, time: Tensor) -> Tensor:
        half = self.dim // 2
        frequencies = torch.exp(torch.arange(half, device=time.device) * (-math.log(10000) / (half - 1)))
        angles = time[:, None] * frequencies[None, :]
        return torch.cat((angles.sin(), angles.cos()), dim=-1)


class Block(nn.Module):
    """3x3 convolution, RMS norm and SiLU: (b, dim, h, w) → (b, dim_out, h, w).

    scale_shift: (b, 2 * dim_out). It changes the norm's output to norm * (1 + scale) + shift.
    """

    def __init__(self, dim: int, dim_out: int):
        super().__init__()
        self.proj = nn.Conv2d(dim, dim_out, 3, padding=1)
        self.norm = RMSNorm(dim_out)

    def forward(self, x: Tensor, scale_shift: Tensor | None = None) -> Tensor:
        return conv_rms_norm_silu(self.proj, x, self.norm.g, scale_shift)


class ResnetBlock(nn.Module):
    """Two Blocks and a skip connection: (b, dim, h, w) → (b, dim_out, h, w).

    mlp makes the scale_shift of the first Block from a condition (b, cond_dim); see scale_shifts.
    """

    def __init__(self, dim: int, dim_out: int, *, cond_dim: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(cond_dim, dim_out * 2))
        self.block1 = Block(dim, dim_out)
        self.block2 = Block(dim_out, dim_out)
        self.res_conv = nn.Conv2d(dim, dim_out, 1) if dim != dim_out else nn.Identity()

    def forward(self, x: Tensor, scale_shift: Tensor) -> Tensor:
        return self.block2(self.block1(x, scale_shift)) + self.res_conv(x)


def scale_shifts(blocks: Sequence[ResnetBlock], cond: Tensor) -> Iterator[Tensor]:
    """What the mlps of the blocks make of the condition (b, cond_dim): (b, 2 * dim_out) for each block.

    All of them are one matrix product. One for each block would take more time to launch than to compute.
    """
    layers = [block.mlp[1] for block in blocks]
    weight, bias = (torch.cat(parts) for parts in zip(*(layer.parameters() for layer in layers)))
    return iter(F.linear(F.silu(cond), weight, bias).split([layer.out_features for layer in layers], dim=1))


class LinearAttention(nn.Module):
    """Shen et al. 2018, "Efficient Attention": softmax of q over features, and of k over positions. The cost is linear
    in h * w.

    Let X be the features of the n positions, (n, c). The output of a head is q (k^T v) W_out with v = X W_v. It is
    computed as q ((k^T X) W_v W_out), so that only q and k are computed for every position.
    """

    def __init__(self, dim: int):
        super().__init__()
        hidden = LINEAR_ATTENTION_HEADS * LINEAR_ATTENTION_DIM_HEAD
        self.to_qkv = nn.Conv2d(dim, hidden * 3, 1, bias=False)
        self.to_out = nn.Sequential(nn.Conv2d(hidden, dim, 1), RMSNorm(dim))

    def forward(self, x: Tensor) -> Tensor:
        heads, d = LINEAR_ATTENTION_HEADS, LINEAR_ATTENTION_DIM_HEAD
        to_out, norm = self.to_out
        out_weight, out_bias = to_out.parameters()
        to_qk, to_v = self.to_qkv.weight.split([2 * heads * d, heads * d])
        # Products of matrices: on an H100, gradients of 1x1 convolutions took several times as long.
        qk = F.linear(rearrange(x, "b c h w -> b (h w) c"), rearrange(to_qk, "features c 1 1 -> features c"))
        q = rearrange(qk[..., :heads * d], "b n (heads d) -> b n heads d", heads=heads).softmax(dim=-1)
        k = rearrange(qk[..., heads * d:], "b n features -> b features n")
        k = k.to(torch.promote_types(k.dtype, torch.float32), memory_format=torch.contiguous_format).softmax(dim=-1)
        features = rearrange(x, "b c h w -> b c (h w)") @ rearrange(k, "b features n -> b n features")
        # The images of a batch as rows of one product for each head: so the weights' gradients need no sum over images.
        features = rearrange(features, "b c (heads d) -> heads (b d) c", heads=heads)
        values = features @ rearrange(to_v, "(heads e) c 1 1 -> heads c e", heads=heads)
        outputs = values @ rearrange(out_weight * d ** -0.5, "c (heads e) 1 1 -> heads e c", heads=heads)
        out = torch.baddbmm(out_bias, q.flatten(2), rearrange(outputs, "heads (b d) c -> b (heads d) c", d=d))
        return norm(rearrange(out, "b (h w) c -> b c h w", h=x.shape[-2]))


class Attention(nn.Module):
    """Softmax attention between all positions of (b, dim, h, w), with several heads."""

    def __init__(self, dim: int, heads: int, dim_head: int):
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Conv2d(dim, heads * dim_head * 3, 1, bias=False)
        self.to_out = nn.Conv2d(heads * dim_head, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.to_qkv(x).chunk(3, dim=1)
        q, k, v = (rearrange(t, "b (heads d) h w -> b heads (h w) d", heads=self.heads) for t in qkv)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(rearrange(out, "b heads (h w) d -> b (heads d) h w", h=x.shape[-2]))


class UpsampledConv(nn.Sequential):
    """Upsampling by 2 to the nearest neighbour, then a 3x3 convolution: (b, dim, h, w) → (b, dim_out, 2 h, 2 w).

    Each pixel of the input becomes four equal pixels. So both steps together are a transposed 4x4 convolution of stride
    2. Its kernel adds up the taps that meet copies of the same pixel. For each input pixel and pair of channels, this
    takes 16 multiplications instead of 36.
    """

    def __init__(self, dim: int, dim_out: int):
        super().__init__(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(dim, dim_out, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self[1].parameters()
        kernel = rearrange(weight, "out c i j -> c out i j").flip(2, 3)
        kernel = F.pad(kernel, (0, 1, 0, 0)) + F.pad(kernel, (1, 0, 0, 0))
        kernel = F.pad(kernel, (0, 0, 0, 1)) + F.pad(kernel, (0, 0, 1, 0))
        kernel = kernel.contiguous(memory_format=memory_format_of(weight))
        return F.conv_transpose2d(x, kernel, bias, stride=2, padding=1)


def _blocks_of(levels: nn.ModuleList) -> list[ResnetBlock]:
    """The blocks of these levels, in the order of their use."""
    return [block for level in levels for block in level.children() if isinstance(block, ResnetBlock)]


def residual_attention(dim: int, attention: nn.Module) -> nn.Module:
    """x + attention(RMSNorm(x))."""
    return Residual(PreNorm(dim, attention))


class Unet(nn.Module):
    """Predicts noise, x_start or v, (b, channels, h, w), for the timestep and a class, or for the null class
    (unconditional).

    dim: width of the first level.
    dim_mults: width of each level, in multiples of dim. h and w must be divisible by 2 ** (len(dim_mults) - 1).
    cond_drop_prob: probability that training replaces a class by the null class (Ho & Salimans 2022, "Classifier-Free
        Diffusion Guidance").
    attn_heads, attn_dim_head: heads of the middle attention, and channels of each.
    """

    def __init__(self, dim: int, num_classes: int, *, dim_mults: tuple[int, ...] = (1, 2, 4, 8), channels: int = 3,
                 cond_drop_prob: float = 0.5, attn_dim_head: int = 32, attn_heads: int = 4):
        super().__init__()
        self.channels, self.num_classes, self.cond_drop_prob = channels, num_classes, cond_drop_prob

        self.init_conv = nn.Conv2d(channels, dim, 7, padding=3)
        emb_dim = dim * 4
        self.time_mlp = nn.Sequential(SinusoidalPosEmb(dim), nn.Linear(dim, emb_dim), nn.GELU(),
                                      nn.Linear(emb_dim, emb_dim))
        self.classes_emb = nn.Embedding(num_classes, dim)
        self.null_classes_emb = nn.Parameter(torch.randn(dim))
        self.classes_mlp = nn.Sequential(nn.Linear(dim, emb_dim), nn.GELU(), nn.Linear(emb_dim, emb_dim))

        resnet = partial(ResnetBlock, cond_dim=emb_dim * 2)
        widths = [dim] + [dim * mult for mult in dim_mults]
        levels = list(zip(widths[:-1], widths[1:]))
        self.downsample_factor = 2 ** (len(levels) - 1)

        resize: nn.Module
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for i, (dim_in, dim_out) in enumerate(levels):
            is_last = i == len(levels) - 1
            resize = nn.Conv2d(dim_in, dim_out, 3, padding=1) if is_last else nn.Conv2d(dim_in, dim_out, 4, 2, 1)
            self.downs.append(nn.ModuleList([resnet(dim_in, dim_in), resnet(dim_in, dim_in),
                                             residual_attention(dim_in, LinearAttention(dim_in)), resize]))

        mid = widths[-1]
        self.mid_block1 = resnet(mid, mid)
        self.mid_attn = residual_attention(mid, Attention(mid, attn_heads, attn_dim_head))
        self.mid_block2 = resnet(mid, mid)

        for i, (dim_in, dim_out) in enumerate(reversed(levels)):
            is_last = i == len(levels) - 1
            resize = nn.Conv2d(dim_out, dim_in, 3, padding=1) if is_last else UpsampledConv(dim_out, dim_in)
            self.ups.append(nn.ModuleList([resnet(dim_out + dim_in, dim_out), resnet(dim_out + dim_in, dim_out),
                                           residual_attention(dim_out, LinearAttention(dim_out)), resize]))

        self.final_res_block = resnet(dim * 2, dim)
        self.final_conv = nn.Conv2d(dim, channels, 1)
        in_memory_format(self, torch.channels_last)     # faster convolutions; rms_norm and attention want it, too

    def forward(self, x: Tensor, time: Tensor, classes: Tensor, *, drop_mask: Tensor | None = None) -> Tensor:
        """x (b, channels, h, w) float, time (b,) int, classes (b,) int in [0, num_classes) → (b, channels, h, w).

        drop_mask (b,) bool: True where the null class replaces the class. Without drop_mask, classes are dropped with
        probability cond_drop_prob in training mode, and never in evaluation mode.
        """
        if drop_mask is None:
            drop_prob = self.cond_drop_prob if self.training else 0.0
            drop_mask = torch.rand(x.shape[0], device=x.device) < drop_prob
        cond = torch.cat((self.time_mlp(time), self._embed_classes(classes, drop_mask)), dim=-1)

        memory_format = memory_format_of(self.final_res_block.block1.proj.weight)
        x = initial = self.init_conv(x.contiguous(memory_format=memory_format))
        own = scale_shifts([*_blocks_of(self.downs), self.mid_block1, self.mid_block2, *_blocks_of(self.ups),
                            self.final_res_block], cond)
        skips = []
        for block1, block2, attention, resize in map(nn.Module.children, self.downs):
            x = block1(x, next(own))
            skips.append(x)
            x = attention(block2(x, next(own)))
            skips.append(x)
            x = resize(x)
        x = self.mid_block2(self.mid_attn(self.mid_block1(x, next(own))), next(own))
        for block1, block2, attention, resize in map(nn.Module.children, self.ups):
            x = block1(torch.cat((x, skips.pop()), dim=1), next(own))
            x = block2(torch.cat((x, skips.pop()), dim=1), next(own))
            x = resize(attention(x))
        return self.final_conv(self.final_res_block(torch.cat((x, initial), dim=1), next(own)))

    def _embed_classes(self, classes: Tensor, drop_mask: Tensor) -> Tensor:
        """The embedding of the classes, or of the null class where drop_mask is True: (b, 4 * dim)."""
        null = repeat(self.null_classes_emb, "d -> b d", b=classes.shape[0])
        return self.classes_mlp(torch.where(drop_mask[:, None], null, self.classes_emb(classes)))

    def forward_both(self, x: Tensor, time: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """The conditional and the unconditional output, (b, channels, h, w) each, computed as one batch of twice the
        size.
        """
        drop_mask = torch.arange(2 * x.shape[0], device=x.device) >= x.shape[0]
        x, time, classes = (torch.cat((t, t)) for t in (x, time, classes))
        return self(x, time, classes, drop_mask=drop_mask).chunk(2)

    def forward_with_cond_scale(self, x: Tensor, time: Tensor, classes: Tensor, *, cond_scale: float = 1.0,
                                rescaled_phi: float = 0.0, remove_parallel_component: bool = True) -> Tensor:
        """The guided output (see guidance.combine). With cond_scale = 1, only the conditional pass is computed."""
        if cond_scale == 1:
            return self(x, time, classes, drop_mask=torch.zeros_like(classes, dtype=torch.bool))
        cond, null = self.forward_both(x, time, classes)
        return combine(cond, null, cond_scale, rescaled_phi, remove_parallel_component)
