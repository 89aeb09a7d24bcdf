"""KL_VAE: images ↔ latents, a convolutional autoencoder with a Gaussian posterior.

The first stage of latent diffusion (Rombach et al. 2022, arXiv:2112.10752, section 3.1 and appendix G). Parameter names
and shapes are those of the first version of this system, so its `kl_vae_best.pt` loads.
"""
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundwork.device import in_memory_format
from groundwork.errors import InputError
from groundwork.files import digest_tensors, load_safetensors, load_tensors, save_safetensors

# The 65 M parameter network of `kl_vae_best.pt`: 256×256 images ↔ 32×32 latents.
DDCONFIG: dict[str, Any] = {
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,                  # channels at full size
    "ch_mult": (1, 2, 2, 4),    # channels per level, in units of ch; each level but the last halves the side
    "num_res_blocks": 2,        # per level of the encoder; the decoder has one more
    "z_channels": 4,
}
SCALE_FACTOR = 0.18215          # latents = scale_factor · posterior


class DiagonalGaussian:
    """The posterior N(mean, diag(exp(logvar))) of a batch; `mean`, `logvar`, `std` are (batch, channels, h, w)."""

    def __init__(self, parameters: Tensor):
        self.mean, logvar = parameters.chunk(2, dim=1)
        self.logvar = logvar.clamp(-30.0, 20.0)

    @property
    def std(self) -> Tensor:
        return torch.exp(0.5 * self.logvar)

    def mode(self) -> Tensor:
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw per image; the noise is drawn where the generator lives, so a CPU one serves every device."""
        device = self.mean.device if generator is None else generator.device
        noise = torch.randn(self.mean.shape, generator=generator, device=device, dtype=self.mean.dtype)
        return self.mean + self.std * noise.to(self.mean.device)

    def kl(self) -> Tensor:
        """KL divergence to N(0, 1) in nats, summed over each image's latents: (batch,)."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1 - self.logvar).sum(dim=(1, 2, 3))


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(32, channels), channels, eps=1e-6)


class ResnetBlock(nn.Module):
    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.norm1 = group_norm(channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if channels != out_channels:
            self.nin_shortcut = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x), inplace=True))     # at full size, memory is what these wait for
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        return h.add_(self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    """One head over all positions, in a residual."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = group_norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2).unsqueeze(1) for layer in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v)                         # (batch, 1, height · width, channels)
        return x + self.proj_out(h.squeeze(1).transpose(1, 2).reshape(x.shape))


class Level(nn.Module):
    """The ResNet blocks at one size, then the way to the next size, if any."""
    downsample: nn.Module
    upsample: nn.Module

    def __init__(self, channels: int, out_channels: int, num_blocks: int):
        super().__init__()
        self.block = nn.ModuleList([ResnetBlock(channels if i == 0 else out_channels, out_channels)
                                    for i in range(num_blocks)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        if hasattr(self, "downsample"):
            return self.downsample(x)
        return self.upsample(x) if hasattr(self, "upsample") else x


class Middle(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels)
        self.attn_1 = Attention(channels)
        self.block_2 = ResnetBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """(batch, in_channels, height, width) → (batch, 2 z_channels, height / factor, width / factor)."""

    def __init__(self, ddconfig: dict):
        super().__init__()
        widths = [ddconfig["ch"] * mult for mult in ddconfig["ch_mult"]]
        self.conv_in = nn.Conv2d(ddconfig["in_channels"], ddconfig["ch"], 3, padding=1)
        self.down = nn.ModuleList()
        for i, (channels, out_channels) in enumerate(zip([ddconfig["ch"]] + widths, widths)):
            level = Level(channels, out_channels, ddconfig["num_res_blocks"])
            if i < len(widths) - 1:
                level.downsample = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)
            self.down.append(level)
        self.mid = Middle(widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 2 * ddconfig["z_channels"], 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h)), inplace=True))


class Decoder(nn.Module):
    """(batch, z_channels, h, w) → (batch, out_ch, h factor, w factor); `up[i]` works at the size of `down[i]`."""

    def __init__(self, ddconfig: dict):
        super().__init__()
        widths = [ddconfig["ch"] * mult for mult in ddconfig["ch_mult"]]
        self.conv_in = nn.Conv2d(ddconfig["z_channels"], widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList()
        for i, (channels, out_channels) in enumerate(zip(widths[1:] + widths[-1:], widths)):
            level = Level(channels, out_channels, ddconfig["num_res_blocks"] + 1)
            if i > 0:
                level.upsample = nn.ConvTranspose2d(out_channels, out_channels, 4, stride=2, padding=1)
            self.up.append(level)
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], ddconfig["out_ch"], 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h), inplace=True))


class KL_VAE(nn.Module):
    """The autoencoder of RGB or grey images in [0, 1]; being convolutional, it takes any side that `factor` divides.

    ddconfig: entries that replace those of DDCONFIG; a key that is not there raises ValueError. embed_dim: channels of
    the latents; default: z_channels, which 1x1 convolutions map to them.
    """

    def __init__(self, ddconfig: dict | None = None, embed_dim: int | None = None, scale_factor: float = SCALE_FACTOR):
        super().__init__()
        unknown = sorted(set(ddconfig or {}) - set(DDCONFIG))
        if unknown:
            raise ValueError(f"unknown ddconfig entries {unknown}; expected some of {list(DDCONFIG)}")
        self.ddconfig = {**DDCONFIG, **(ddconfig or {})}
        self.ddconfig["ch_mult"] = tuple(self.ddconfig["ch_mult"])
        embed_dim = embed_dim or self.ddconfig["z_channels"]
        self.embed_dim, self.scale_factor = embed_dim, scale_factor
        self.encoder = Encoder(self.ddconfig)
        self.decoder = Decoder(self.ddconfig)
        self.quant_conv = nn.Conv2d(2 * self.ddconfig["z_channels"], 2 * embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, self.ddconfig["z_channels"], 1)

    @property
    def channels(self) -> int:
        """Of the images: 3, or 1 when they are grey."""
        return self.ddconfig["in_channels"]

    @property
    def factor(self) -> int:
        """How many times smaller than the image the latent is, per side."""
        return 2 ** (len(self.ddconfig["ch_mult"]) - 1)

    def latent_size(self, image_size: int) -> int:
        """Side of the latent of an image; raises InputError when the image's side does not suit the network."""
        if image_size % self.factor:
            raise InputError(f"image_size {image_size} is no multiple of {self.factor}, "
                             "by which this VAE shrinks images; choose another image_size")
        return image_size // self.factor

    def encode(self, x: Tensor) -> DiagonalGaussian:
        """(batch, channels, height, width) in [0, 1] → posterior over unscaled (batch, embed_dim, h, w), float32 even
        under autocast: the exp and sum of its KL overflow float16."""
        return DiagonalGaussian(self.quant_conv(self.encoder(x)).float())

    def decode(self, z: Tensor) -> Tensor:
        """Unscaled latents (batch, embed_dim, h, w) → (batch, channels, height, width), near [0, 1] but not clamped."""
        return self.decoder(self.post_quant_conv(z))

    @torch.no_grad()
    def encode_images(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images (batch, channels, height, width) in [0, 1] → scaled latents (batch, embed_dim, h, w).

        Without a generator the posterior's mean, which needs no randomness; with one, a sample.
        """
        posterior = self.encode(images)
        return self.scale_factor * (posterior.mode() if generator is None else posterior.sample(generator))

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Scaled latents (batch, embed_dim, h, w) → images (batch, channels, height, width) in [0, 1]."""
        return self.decode(latents / self.scale_factor).clamp(0, 1)

    def checkpoint(self) -> dict:
        """What `load` reads: the weights and all that is needed to build the network around them."""
        return {"model_state_dict": self.state_dict(), "embed_dim": self.embed_dim, "scale_factor": self.scale_factor,
                "ddconfig": {**self.ddconfig, "ch_mult": list(self.ddconfig["ch_mult"])}}

    def save_safetensors(self, path: str | Path) -> None:
        """The same as a safetensors file, which `load` reads too."""
        about = self.checkpoint()
        save_safetensors(path, about.pop("model_state_dict"), about)

    def fingerprint(self) -> str:
        """SHA-256 of weights, shape and scale: equal when the latents are, so a cache can tell whether it is stale."""
        shape = [self.ddconfig, self.embed_dim, self.scale_factor]
        content = json.dumps(shape, sort_keys=True) + digest_tensors(self.state_dict())
        return hashlib.sha256(content.encode()).hexdigest()

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> "KL_VAE":
        """A VAE for inference, float32, from a bare state dict or a training checkpoint (`checkpoint()`), of PyTorch or
        of safetensors.

        Raises InputError when the file is absent or damaged, holds something else, or does not fit the network.
        """
        content = _read(Path(path))
        settings = content if isinstance(content, dict) and "model_state_dict" in content else {}
        weights = settings.get("model_state_dict", content)
        if not isinstance(weights, dict) or not weights or not all(isinstance(w, Tensor) for w in weights.values()):
            raise InputError(f"{path} is no VAE: it holds {_describe(content)}; expected a state dict, or "
                             "a dict with 'model_state_dict', as python -m vae.train writes")
        ddconfig = {key: value for key, value in (settings.get("ddconfig") or {}).items() if key in DDCONFIG}
        stem = weights.get("encoder.conv_in.weight")
        is_grey = stem is not None and stem.shape[1:2] == (1,)      # a bare state dict, too, tells its channels
        image_channels = {"in_channels": 1, "out_ch": 1} if is_grey else {}
        with torch.device("meta"):
            vae = cls(image_channels | ddconfig, settings.get("embed_dim"), settings.get("scale_factor", SCALE_FACTOR))
        if {vae.ddconfig["in_channels"], vae.ddconfig["out_ch"]} not in ({1}, {3}):
            raise InputError(f"{path} turns images of {vae.ddconfig['in_channels']} channels into images of "
                             f"{vae.ddconfig['out_ch']}; expected 3 and 3 (RGB), or 1 and 1 (grey)")
        _check_fit(path, weights, vae.state_dict(), has_ddconfig=bool(ddconfig))
        vae.load_state_dict({key: weight.float() for key, weight in weights.items()}, assign=True)
        # Channels last convolve faster on a CPU; on CUDA, group norm would turn them round and back again.
        is_cpu = torch.device(device).type == "cpu"
        memory_format = torch.channels_last if is_cpu else torch.contiguous_format
        return in_memory_format(vae.to(device), memory_format).eval().requires_grad_(False)


def _read(path: Path) -> object:
    if path.suffix != ".safetensors":
        return load_tensors(path)
    weights, about = load_safetensors(path)
    return {**about, "model_state_dict": weights}


def _describe(content: object) -> str:
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    keys = ", ".join(map(repr, list(content)[:6]))
    kind = "a diffusion checkpoint with " if {"model", "ema"} <= set(content) else ""
    return f"{kind}the keys {keys}" if content else "nothing"


def _check_fit(path: str | Path, found: dict, expected: dict, has_ddconfig: bool) -> None:
    """Raises InputError naming the first few weights that differ in name or shape."""
    differences = []
    for key in [*expected, *(key for key in found if key not in expected)]:
        ours, theirs = (tuple(state[key].shape) if key in state else "none" for state in (expected, found))
        if ours != theirs:
            differences.append(f"{key} found {theirs}, expected {ours}")
    if differences:
        remedy = ("its ddconfig does not belong to its weights" if has_ddconfig else
                  "a VAE of another size than the default must be saved with its ddconfig, as python -m vae.train does")
        raise InputError(f"the weights in {path} do not fit the VAE in {len(differences)} places: "
                         f"{'; '.join(differences[:3])}; {remedy}")
