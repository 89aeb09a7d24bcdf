"""KL_VAE: a convolutional autoencoder between images and latents, with a Gaussian posterior.

It is the first stage of latent diffusion (Rombach et al. 2022, arXiv:2112.10752, section 3.1 and appendix G). Parameter
names and shapes are those of this project's first version, so its `kl_vae_best.pt` can be loaded. Weights in other
layouts are converted by vae/layouts.py.
"""
import copy
import hashlib
import json
from pathlib import Path
from typing import Any, Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundwork.device import convolution_format, half_precision, in_memory_format
from groundwork.errors import InputError
from groundwork.files import digest_tensors, save_safetensors
from vae.group_norm import GroupNorm
from vae.layouts import check_fit, infer_shape, read_vae

# The 65 M parameter network of `kl_vae_best.pt`: 256×256 images ↔ 32×32 latents.
DDCONFIG: dict[str, Any] = {
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,                  # channels at the images' resolution
    "ch_mult": (1, 2, 2, 4),    # channels per level, in multiples of ch; each level but the last halves the size
    "num_res_blocks": 2,        # per level of the encoder; the decoder has one more
    "z_channels": 4,
    "latent_diffusion": False,  # True: as there, images enter as -1 … 1, and downsampling pads right and bottom only
}
SCALE_FACTOR = 0.18215          # scaled latents = scale_factor · posterior mean or sample


class DiagonalGaussian:
    """The posterior N(mean, diag(exp(logvar))) of a batch. `mean`, `logvar` and `std` are (batch, channels, h, w).

    parameters: mean and log-variance, (batch, 2 * channels, h, w). The log-variance is clamped to -30 … 20.
    """

    def __init__(self, parameters: Tensor):
        self.mean, logvar = parameters.chunk(2, dim=1)
        self.logvar = logvar.clamp(-30.0, 20.0)

    @property
    def std(self) -> Tensor:
        return torch.exp(0.5 * self.logvar)

    def mode(self) -> Tensor:
        """The most probable latents, which are the mean."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One sample per image. The noise is drawn on the generator's device, so a CPU generator gives the same noise
        on every device.
        """
        device = self.mean.device if generator is None else generator.device
        noise = torch.randn(self.mean.shape, generator=generator, device=device, dtype=self.mean.dtype)
        return self.mean + self.std * noise.to(self.mean.device)

    def kl(self) -> Tensor:
        """KL divergence to N(0, 1) in nats, (batch,): the sum over each image's latents."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1 - self.logvar).sum(dim=(1, 2, 3))


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


class Level(nn.Module):
    """The ResNet blocks at one resolution, then downsampling or upsampling to the next one, if there is a next one."""
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
    """

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
        self.norm_out = GroupNorm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], ddconfig["out_ch"], 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h), inplace=True))


class KL_VAE(nn.Module):
    """The autoencoder of RGB or grey images in [0, 1]. As it is convolutional, their height and width can be any
    multiples of `downsample_factor`.

    ddconfig: values that replace those of DDCONFIG; an unknown key raises ValueError.
    embed_dim: channels of the latents; default: z_channels. 1x1 convolutions map between both.
    scale_factor: scaled latents = scale_factor * posterior mean or sample.
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
        self.image_size: int | None = None      # pixels, of the images it was trained on; None: unknown
        self.trained_on: str | None = None      # digest of their paths, as a split's train_images; None: unknown
        self._halved: tuple[KL_VAE, ...] = ()   # see compute_in; in a tuple, so that state_dict does not hold it
        self.encoder = Encoder(self.ddconfig)
        self.decoder = Decoder(self.ddconfig)
        self.quant_conv = nn.Conv2d(2 * self.ddconfig["z_channels"], 2 * embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, self.ddconfig["z_channels"], 1)

    @property
    def channels(self) -> int:
        """Channels of the images: 3 (RGB) or 1 (grey)."""
        return self.ddconfig["in_channels"]

    @property
    def downsample_factor(self) -> int:
        """Height of the image / height of the latent; the same for the width."""
        return 2 ** (len(self.ddconfig["ch_mult"]) - 1)

    def latent_size(self, image_size: int) -> int:
        """Height and width of the latent of a square image. Raises InputError if downsample_factor does not divide
        image_size.
        """
        if image_size % self.downsample_factor:
            raise InputError(f"image_size {image_size} is no multiple of {self.downsample_factor}, "
                             "by which this VAE shrinks images; choose another image_size")
        return image_size // self.downsample_factor

    def encode(self, x: Tensor) -> DiagonalGaussian:
        """Images (batch, channels, height, width) in [0, 1] → posterior of the unscaled latents,
        (batch, embed_dim, h, w).

        It is float32 in every precision, because exp and sum in its KL overflow in float16.
        """
        x = 2 * x - 1 if self.ddconfig["latent_diffusion"] else x
        return DiagonalGaussian(self._compute(lambda vae, x: vae.quant_conv(vae.encoder(x)), x).float())

    def decode(self, z: Tensor) -> Tensor:
        """Unscaled latents (batch, embed_dim, h, w) → (batch, channels, height, width), near [0, 1] but not clamped."""
        x = self._compute(lambda vae, z: vae.decoder(vae.post_quant_conv(z)), z)
        return (x + 1) / 2 if self.ddconfig["latent_diffusion"] else x

    def compute_in(self, dtype: torch.dtype | None) -> None:
        """From now on, encode and decode in this half precision, with a copy of the weights; None: in float32.

        The copy is made again when weights are loaded or moved. Weights that change otherwise need another call.
        A batch whose result is not finite is computed again in float32: activations of VAEs can be beyond 65 504, the
        largest float16. Inputs and results stay float32. Normalisation and attention keep their sums in float32.
        """
        self._halved = ()
        if dtype is not None:
            self._halved = (copy.deepcopy(self).to(dtype),)

    def _copy_again(self) -> None:
        self.compute_in(self._halved[0].quant_conv.weight.dtype if self._halved else None)

    def _apply(self, *args: Any, **kwargs: Any) -> "KL_VAE":
        super()._apply(*args, **kwargs)     # what to, cuda and float do
        self._copy_again()
        return self

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        result = super().load_state_dict(*args, **kwargs)
        self._copy_again()
        return result

    def _compute(self, network: Callable[["KL_VAE", Tensor], Tensor], x: Tensor) -> Tensor:
        """network(self, x) in the precision that compute_in chose, or else in that of the caller's autocast."""
        if not self._halved:
            return network(self, x)
        half, = self._halved
        with torch.autocast(x.device.type, enabled=False):
            result = network(half, x.to(half.quant_conv.weight.dtype)).float()
            return result if result.isfinite().all() else network(self, x)

    @torch.no_grad()
    def encode_images(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images (batch, channels, height, width) in [0, 1] → scaled latents (batch, embed_dim, h, w).

        They are the posterior's mean; with a generator, a sample of the posterior.
        """
        posterior = self.encode(images)
        return self.scale_factor * (posterior.mode() if generator is None else posterior.sample(generator))

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Scaled latents (batch, embed_dim, h, w) → images (batch, channels, height, width) in [0, 1]."""
        return self.decode(latents / self.scale_factor).clamp(0, 1)

    def checkpoint(self) -> dict:
        """What `load` reads: the weights, and everything needed to build the network for them."""
        return {"model_state_dict": self.state_dict(), "embed_dim": self.embed_dim, "scale_factor": self.scale_factor,
                "image_size": self.image_size, "trained_on": self.trained_on,
                "ddconfig": {**self.ddconfig, "ch_mult": list(self.ddconfig["ch_mult"])}}

    def save_safetensors(self, path: str | Path) -> None:
        """Write the checkpoint as a safetensors file, which `load` reads, too."""
        about = self.checkpoint()
        save_safetensors(path, about.pop("model_state_dict"), about)

    def fingerprint(self) -> str:
        """SHA-256 of weights, shape and scale, in hexadecimal. VAEs with the same fingerprint give the same latents, up
        to rounding in another precision, so a cache of latents can tell whether it is out of date.
        """
        # Earlier versions knew no latent_diffusion: the fingerprints that they stored stay valid.
        ddconfig = {key: value for key, value in self.ddconfig.items() if key != "latent_diffusion" or value}
        shape = [ddconfig, self.embed_dim, self.scale_factor]
        content = json.dumps(shape, sort_keys=True) + digest_tensors(self.state_dict())
        return hashlib.sha256(content.encode()).hexdigest()

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu", amp: bool = True) -> "KL_VAE":
        """Load a VAE for inference: in evaluation mode, without gradients.

        path: weights of vae.train, of latent-diffusion or of diffusers, in a PyTorch or a safetensors file; or a folder
            that diffusers wrote. Their shapes give the size of the network. Default scale factor: SCALE_FACTOR.
        amp: encode and decode in half_precision(device), where there is one; False: in float32. The weights are float32
            in both cases.

        Raises InputError if the file does not exist, is damaged, holds something else, or does not fit the network.
        """
        weights, scale_factor, image_size, trained_on = read_vae(Path(path))
        ddconfig, embed_dim = infer_shape(path, weights)
        if {ddconfig["in_channels"], ddconfig["out_ch"]} not in ({1}, {3}):
            raise InputError(f"{path} turns images of {ddconfig['in_channels']} channels into images of "
                             f"{ddconfig['out_ch']}; expected 3 and 3 (RGB), or 1 and 1 (grey)")
        with torch.device("meta"):
            vae = cls(ddconfig, embed_dim, scale_factor or SCALE_FACTOR)
        vae.image_size, vae.trained_on = image_size, trained_on
        check_fit(path, weights, vae.state_dict())
        vae.load_state_dict({key: weight.float() for key, weight in weights.items()}, assign=True)
        in_memory_format(vae.to(device), convolution_format(torch.device(device))).eval().requires_grad_(False)
        vae.compute_in(half_precision(torch.device(device)) if amp else None)
        return vae
